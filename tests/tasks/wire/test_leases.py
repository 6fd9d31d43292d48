"""Limits shared by several processes, in simulated time: minutes of several senders in a second."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.wire.leases import Kind, Lessee
from parquill.tasks.wire.limits import Limits
from parquill.tasks.wire.shares import REQUEST_SLOTS, TOKEN_SLOTS, Bucket, Share
from tests.tasks.wire.simulated import SimulatedLender, simulate

Sent = list[tuple[float, float]]


def busiest(sent: Sent, window_s: float = 60.0) -> float:
    """The most units in any window."""
    first, total, most = 0, 0.0, 0.0
    ordered = sorted(sent)
    for time, units in ordered:
        total += units
        while ordered[first][0] <= time - window_s:
            total -= ordered[first][1]
            first += 1
        most = max(most, total)
    return most


def units_between(sent: Sent, begin: float, end: float) -> float:
    """Units that left in a time."""
    return sum(units for time, units in sent if begin <= time < end)


class Process:
    """One run with its own limits and leases; what it sends reaches the service with a delay of up to 0.2 s."""

    def __init__(self, lender: SimulatedLender, seed: int = 0, **kinds: tuple[int, int]) -> None:
        """`kinds` are the job's limit and largest request."""
        loop = asyncio.get_running_loop()
        self.said: list[str] = []
        self.sent: Sent = []
        self.left: Sent = []
        self._draw = random.Random(seed)
        self.lessees = [
            Lessee(
                Kind(name, limit, largest),
                lender,
                say=lambda _, text: self.said.append(text),
                clock=loop.time,
                draw=self._draw.random,
            )
            for name, (limit, largest) in kinds.items()
        ]
        self.limits = Limits(
            64,
            requests_per_minute=kinds.get("requests", (None, 0))[0],
            tokens_per_minute=kinds.get("tokens", (None, 0))[0],
            leased=[lessee.meter for lessee in self.lessees],
            clock=loop.time,
            sleep=asyncio.sleep,
        )

    async def send(self, sizes: Iterator[int], seconds: float, *, by_tokens: bool = False) -> None:
        """Send as fast as the limits allow."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        for lessee in self.lessees:
            await lessee.begin()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                while True:
                    tokens = next(sizes)
                    slot = await self.limits.acquire(tokens)
                    slot.release()
                    units = tokens if by_tokens else 1
                    self.left.append((loop.time(), units))
                    self.sent.append((loop.time() + 0.2 * self._draw.random(), units))
        for lessee in self.lessees:
            await lessee.end()


def sizes(smallest: int, largest: int, seed: int = 0) -> Iterator[int]:
    """Sizes of requests in tokens."""
    draw = random.Random(seed)
    while True:
        yield draw.randint(smallest, largest)


@pytest.mark.parametrize("processes", [1, 2, 5])
@pytest.mark.parametrize(("limit", "share"), [(10, 0.80), (60, 0.90), (600, 0.90), (6_000, 0.90)])
def test_all_processes_together_keep_the_limit_of_requests(limit: int, share: float, processes: int) -> None:
    """Processes that share a limit never pass it in sum in any minute, from the first on, and use 90 % of it."""

    async def run() -> list[Process]:
        lender = SimulatedLender()
        made = [Process(lender, seed, requests=(limit, 1)) for seed in range(processes)]
        await asyncio.gather(*(process.send(sizes(1, 1), 150) for process in made))
        return made

    made = simulate(run())
    sent = [entry for process in made for entry in process.sent]
    assert busiest(sent) <= limit
    assert units_between(sent, 1030, 1150) >= share * limit * 120 / 60
    if limit >= 600:
        assert min(len(process.sent) for process in made) >= 0.7 * len(sent) / processes


def test_all_processes_together_keep_the_limit_of_tokens() -> None:
    """Tokens and requests are shared at once; jobs with large requests are not starved by jobs with small ones."""
    limit = 200_000

    async def run() -> tuple[Process, Process]:
        lender = SimulatedLender()
        small = Process(lender, 1, tokens=(limit, 500), requests=(2_000, 1))
        large = Process(lender, 2, tokens=(limit, 6_000), requests=(2_000, 1))
        later = asyncio.create_task(large.send(sizes(3_000, 6_000), 170, by_tokens=True))
        await small.send(sizes(100, 500), 180, by_tokens=True)
        await later
        return small, large

    small, large = simulate(run())
    sent = small.sent + large.sent
    assert busiest(sent) <= limit
    assert units_between(sent, 1030, 1170) >= 0.85 * limit * 140 / 60
    assert units_between(large.sent, 1030, 1170) >= 0.3 * units_between(sent, 1030, 1170)


@pytest.mark.parametrize("pause_s", [0.3, 2.0])
def test_a_slow_process_wastes_little(pause_s: float) -> None:
    """A run that sends only now and then leases hardly more than it sends; the others use nearly all of the rest."""
    limit = 600

    async def run() -> tuple[Sent, Sent]:
        lender = SimulatedLender()
        process, other = (Process(lender, seed, requests=(limit, 1)) for seed in range(2))

        async def now_and_then() -> None:
            for lessee in other.lessees:
                await lessee.begin()
            while True:
                (await other.limits.acquire(1)).release()
                other.sent.append((asyncio.get_running_loop().time(), 1))
                await asyncio.sleep(pause_s)

        slow = asyncio.create_task(now_and_then())
        await process.send(sizes(1, 1), 190)
        slow.cancel()
        return process.sent, other.sent

    fast, slow = simulate(run())
    assert busiest(fast + slow) <= limit
    assert units_between(slow, 1010, 1190) >= 0.7 * 180 / (pause_s + 0.05)
    assert units_between(fast + slow, 1010, 1190) >= 0.85 * limit * 180 / 60


def test_what_was_leased_and_not_used_is_lost() -> None:
    """Nobody hoards: runs that hold a lease until its last moment, and then use it, do not pass the limit either."""
    limit = 600

    async def run() -> Sent:
        lender = SimulatedLender()
        made = [Process(lender, seed, requests=(limit, 1)) for seed in range(6)]
        loop, draw = asyncio.get_running_loop(), random.Random(1)
        sent: Sent = []

        async def in_bursts(process: Process) -> None:
            await process.lessees[0].begin()
            while True:
                for _ in range(draw.randint(1, 16)):
                    (await process.limits.acquire(1)).release()
                    sent.append((loop.time(), 1))
                await asyncio.sleep(draw.uniform(0.0, 2.0))

        works = [asyncio.create_task(in_bursts(process)) for process in made]
        await asyncio.sleep(130)
        for work in works:
            work.cancel()
        return sent

    assert busiest(simulate(run())) <= limit


def test_nothing_leased_is_used_after_its_life() -> None:
    """A lease that was not used in its life is gone: a process that slept may not send now what it leased then."""

    async def run() -> None:
        process = Process(SimulatedLender(), requests=(6_000, 1))
        lessee, clock = process.lessees[0], asyncio.get_running_loop().time
        await lessee.begin()
        (await process.limits.acquire(1)).release()
        assert lessee.meter.held(clock()) > 50
        await asyncio.sleep(2.0)
        assert lessee.meter.wait_s(clock(), 1) > 0

    simulate(run())


def test_a_process_that_dies_loses_no_more_than_its_lease() -> None:
    """What others may send after a kill is the whole limit at once: nobody has to give anything back."""
    limit = 6_000

    async def run() -> tuple[Process, Process]:
        lender = SimulatedLender()
        killed, other = (Process(lender, seed, requests=(limit, 1)) for seed in range(2))
        dying = asyncio.create_task(killed.send(sizes(1, 1), 300))
        asyncio.get_running_loop().call_later(60, dying.cancel)
        asyncio.get_running_loop().call_later(60, lambda: [task.cancel() for task in _tasks_of(killed)])
        await other.send(sizes(1, 1), 120)
        return killed, other

    killed, other = simulate(run())
    assert busiest(killed.sent + other.sent) <= limit
    assert killed.sent[-1][0] < 1061
    assert units_between(other.sent, 1065, 1120) >= 0.9 * limit * 55 / 60


def _tasks_of(process: Process) -> list[asyncio.Task[None]]:
    return [task for lessee in process.lessees if (task := lessee._task) is not None]


def test_an_idle_process_leases_nothing() -> None:
    """A run that sends nothing takes nothing from the others and hardly asks the server."""

    async def run() -> int:
        lender = SimulatedLender()
        idle = Process(lender, requests=(600, 1))
        await idle.lessees[0].begin()
        begun = lender.asked
        await asyncio.sleep(120)
        assert lender.buckets["requests"].taken == lender.buckets["requests"].capacity  # as it was made
        return lender.asked - begun

    assert simulate(run()) <= 13


def _interrupted(limit: int, away_s: float, seconds: float) -> tuple[list[Process], Sent]:
    async def run() -> list[Process]:
        lender = SimulatedLender()
        loop = asyncio.get_running_loop()
        made = [Process(lender, seed, requests=(limit, 1)) for seed in range(3)]
        loop.call_later(100, setattr, lender, "away", True)
        loop.call_later(100 + away_s, setattr, lender, "away", False)
        works = [process.send(sizes(1, 1), seconds) for process in made]
        await asyncio.gather(*works)
        return made

    made = simulate(run())
    return made, [entry for process in made for entry in process.sent]


def test_a_server_that_goes_away_leaves_everybody_a_safe_share() -> None:
    """While the server is away each run goes on alone, all of them within the limit, and says so; then they share again."""
    limit = 3_000
    made, sent = _interrupted(limit, 120, 330)
    assert busiest(sent) <= limit
    assert units_between(sent, 1110, 1220) >= 0.6 * limit * 110 / 60
    assert units_between(sent, 1230, 1330) >= 0.9 * limit * 100 / 60
    for process in made:
        told = [text for text in process.said if "requests" in text]
        assert len(told) == 3
        assert "are shared" in told[0]
        assert "does not answer (ConnectError); this run goes on alone at" in told[1]
        assert "are shared" in told[2]


def test_a_short_absence_changes_nothing() -> None:
    """A server that is away for less than the patience is waited for, and nobody goes on alone."""
    made, sent = _interrupted(3_000, 4, 160)
    assert busiest(sent) <= 3_000
    assert all(len(process.said) == 1 for process in made)


def test_without_a_server_the_local_limit_is_used() -> None:
    """A run that meets no server keeps to its own limits and says so; it shares as soon as there is one."""

    async def run() -> Process:
        lender = SimulatedLender()
        lender.away = True
        process = Process(lender, requests=(600, 1))
        asyncio.get_running_loop().call_later(120, setattr, lender, "away", False)
        await process.send(sizes(1, 1), 200)
        return process

    process = simulate(run())
    assert busiest(process.sent, 59.7) <= 600
    assert units_between(process.sent, 1000, 1120) >= 0.97 * 1_200
    assert "no Prefect server answers (ConnectError); this run keeps to its own limit of 600" in process.said[0]
    assert "600 a minute are shared" in process.said[1]


def _alone(change: Callable[[SimulatedLender, float], None], **kinds: tuple[int, int]) -> Process:
    async def run() -> Process:
        lender = SimulatedLender()
        change(lender, asyncio.get_running_loop().time())
        process = Process(lender, 0, **kinds)
        await process.send(sizes(1, 1), 130)
        return process

    return simulate(run())


def test_the_limit_that_exists_holds() -> None:
    """A shared limit that was made for less than the job's holds, and the log tells both."""
    made = Share.of(300, 1, slots=REQUEST_SLOTS).bucket
    process = _alone(lambda lender, now: lender.put("requests", made, now), requests=(6_000, 1))
    assert 0.9 * 300 <= busiest(process.sent) <= 300
    assert "it was made for 300 a minute" in process.said[0]
    assert "job's 6,000" in process.said[0]


def test_the_job_s_own_limit_holds_beside_the_shared_one() -> None:
    """A run never passes its own limit, however much the shared one would give."""
    made = Share.of(60_000, 1, slots=REQUEST_SLOTS).bucket
    process = _alone(lambda lender, now: lender.put("requests", made, now), requests=(600, 1))
    assert 0.9 * 600 <= busiest(process.left) <= 600


@pytest.mark.parametrize(
    ("bucket", "why"),
    [
        (Bucket(100_000, 0.0), "it has no slot decay"),
        (Bucket(100, 5.0), "it holds not even one request"),
        (Bucket(20_000, 500.0, active=False), "it is switched off"),
    ],
)
def test_a_limit_that_cannot_be_leased_from_is_said(bucket: Bucket, why: str) -> None:
    """With a limit of that name that grants nothing, or everything, the run keeps to its own limits and says why."""
    process = _alone(lambda lender, now: lender.put("requests", bucket, now), requests=(600, 1))
    assert busiest(process.left) <= 600
    assert units_between(process.left, 1000, 1120) >= 0.97 * 1_200
    assert why in process.said[0]


def test_a_limit_that_is_deleted_is_made_again() -> None:
    """A shared limit that somebody deletes is made anew, full, so that the minute still holds."""

    async def run() -> Sent:
        lender = SimulatedLender()
        process = Process(lender, requests=(600, 1))
        for second in (40, 41, 42, 43):
            asyncio.get_running_loop().call_later(second, lender.buckets.clear)
        await process.send(sizes(1, 1), 130)
        return process.sent

    sent = simulate(run())
    assert busiest(sent) <= 600
    assert units_between(sent, 1060, 1130) >= 0.9 * 700


def test_a_wider_request_widens_the_limit_and_not_its_sum() -> None:
    """When a job with larger requests joins, the bucket takes their shape, and the minute in which it does holds too."""
    limit = 100_000

    async def run() -> tuple[Process, Process]:
        lender = SimulatedLender()
        small, large = Process(lender, 1, tokens=(limit, 200)), Process(lender, 2, tokens=(limit, 10_000))
        first = asyncio.create_task(small.send(sizes(100, 200), 200, by_tokens=True))
        await asyncio.sleep(40)
        await large.send(sizes(5_000, 10_000), 150, by_tokens=True)
        await first
        return small, large

    small, large = simulate(run())
    assert busiest(small.sent + large.sent) <= limit
    assert len(large.sent) >= 10
    assert units_between(small.sent + large.sent, 1070, 1180) >= 0.7 * limit * 110 / 60


def test_a_request_that_is_nearly_the_limit_is_refused() -> None:
    """One request of more than nine tenths of a shared limit could hardly ever be leased: the job is refused at once."""
    with pytest.raises(BadJob, match="9,500 is more than 90% of 10,000"):
        _alone(lambda _lender, _now: None, tokens=(10_000, 9_500))
    made = Share.of(5_000, 1, slots=TOKEN_SLOTS).bucket
    with pytest.raises(BadJob, match="too small for this job: 4,800 is more than 90%"):
        _alone(lambda lender, now: lender.put("tokens", made, now), tokens=(10_000, 4_800))


@pytest.mark.parametrize("slots", [REQUEST_SLOTS, TOKEN_SLOTS])
@pytest.mark.parametrize("limit", [60, 5_000, 2_000_000, 10_000_000])
@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.85])
def test_whoever_finds_a_bucket_knows_what_it_was_made_for(limit: int, part: float, slots: int) -> None:
    """The limit, the size of a lease and its life are read from the bucket alone, and never too large."""
    made = Share.of(limit, int(limit * part), slots=slots)
    found = Share.read(made.bucket, slots=slots)
    assert limit - 1 <= found.limit <= limit
    assert found.quantum == made.quantum
    assert found.life_s <= made.life_s + 1e-3
