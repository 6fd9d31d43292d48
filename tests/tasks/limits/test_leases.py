"""Limits shared by several processes, in simulated time: minutes of several senders in a second."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.limits.leased_meter import Pace
from parquill.tasks.limits.leases import ANSWER_S, Lessee, LimitDimension, find_limit
from parquill.tasks.limits.limiter import RateLimiter
from parquill.tasks.limits.shares import REQUEST_SLOTS, TOKEN_SLOTS, Bucket, BucketShape
from tests.tasks.llm.simulated import SimulatedLender, simulate

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
                LimitDimension(name, limit, largest),
                lender,
                say=lambda _, text: self.said.append(text),
                clock=loop.time,
                draw=self._draw.random,
            )
            for name, (limit, largest) in kinds.items()
        ]
        self.limits = RateLimiter(
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


def _interrupted_with_large_requests(part: float, processes: int, seed: int) -> tuple[list[Process], Sent]:
    limit, draw = 30_000, random.Random(seed)
    largest = int(limit * part)

    async def run() -> list[Process]:
        lender = SimulatedLender()
        loop = asyncio.get_running_loop()
        made = [Process(lender, seed * 10 + number, tokens=(limit, largest)) for number in range(processes)]
        loop.call_later(150 + draw.uniform(0, 40), setattr, lender, "away", True)
        loop.call_later(330 + draw.uniform(0, 40), setattr, lender, "away", False)
        works = [
            process.send(sizes(largest // 2, largest, seed * 10 + number), 480, by_tokens=True)
            for number, process in enumerate(made)
        ]
        await asyncio.gather(*works)
        return made

    made = simulate(run())
    return made, [entry for process in made for entry in process.sent]


@pytest.mark.parametrize(
    ("part", "processes"),
    [
        *[(0.1, 3), (0.33, 1)],
        *(pytest.param(*each, marks=pytest.mark.nightly) for each in [(0.05, 2), (0.1, 1), (0.2, 3), (0.33, 3)]),
    ],
)
def test_large_requests_keep_their_pace_without_a_server(part: float, processes: int) -> None:
    """With leases many seconds apart a run alone has the pace that it had, and no minute is passed, then or afterwards."""
    limit = 30_000
    for seed in range(3):
        made, sent = _interrupted_with_large_requests(part, processes, seed)
        assert busiest(sent) <= limit
        before, alone = units_between(sent, 1060, 1150), units_between(sent, 1200, 1330)
        assert alone / 130 >= (0.6 if processes == 1 else 0.2) * before / 90
        paces = [
            float(text.split("alone at ")[1].split()[0].replace(",", ""))
            for process in made
            for text in process.said
            if "alone at" in text
        ]
        assert max(paces) > 0.05 * limit


def test_a_small_pace_is_told() -> None:
    """The pace of a run that was granted hardly anything is told in digits that say something."""

    async def run() -> list[str]:
        lender = SimulatedLender()
        process = Process(lender, requests=(4, 1))
        await process.lessees[0].begin()
        await asyncio.sleep(30)
        lender.away = True
        await asyncio.sleep(30)
        return process.said

    assert "goes on alone at 0.03 a minute" in simulate(run())[-1]


def test_a_pace_holds_in_any_minute() -> None:
    """Alone, a run begins with nothing saved up; no minute holds more than its part, or than one larger request."""
    draw = random.Random(3)
    for largest in (10, 90, 150):
        pace, now, sent = Pace(60.0, 100.0, 0.0, 60.0), 0.0, []
        while now < 600:
            units = draw.randint(1, largest)
            while (wait := pace.wait_s(now, units)) > 0:
                now += wait
            pace.take(now, units)
            sent.append((now, float(units)))
            assert sum(units for _, units in sent) <= 60 * now / 60 + 1e-6
        assert busiest(sent) <= max(100, largest)
        assert units_between(sent, 0, 600) >= (500 if largest < 100 else 300)


def test_a_short_absence_changes_nothing() -> None:
    """A server that is away for less than the patience is waited for, and nobody goes on alone."""
    made, sent = _interrupted(3_000, 4, 160)
    assert busiest(sent) <= 3_000
    assert all(len(process.said) == 1 for process in made)


def test_without_a_server_the_local_limit_is_used() -> None:
    """A run that meets no server waits for one with a hundredth of its limit, for three minutes, then keeps to its own limits, and says both; it shares as soon as there is a server."""

    async def run() -> Process:
        lender = SimulatedLender()
        lender.away = True
        process = Process(lender, requests=(600, 1))
        asyncio.get_running_loop().call_later(320, setattr, lender, "away", False)
        await process.send(sizes(1, 1), 400)
        return process

    process = simulate(run())
    assert 5 <= busiest([entry for entry in process.sent if entry[0] < 1180]) <= 6
    assert busiest(process.sent, 59.7) <= 600
    assert units_between(process.sent, 1190, 1320) >= 0.97 * 1_300
    assert "no Prefect server answers (ConnectError); others may have the rest of the limit" in process.said[0]
    assert "takes 6 a minute until one does; after 3 minutes it takes its own 600" in process.said[0]
    assert "no Prefect server answers (ConnectError); this run keeps to its own limit of 600" in process.said[1]
    assert "600 a minute are shared" in process.said[2]


@pytest.mark.parametrize(("away_s", "others"), [(4, 1), (30, 1), (30, 3), (170, 2)])
def test_runs_that_begin_while_the_server_is_away_pass_no_minute(away_s: float, others: int) -> None:
    """A run that begins while the server does not answer leaves the limit to those that had it, and then takes its part."""
    limit = 600

    async def run() -> list[Process]:
        lender = SimulatedLender()
        loop = asyncio.get_running_loop()
        made = [Process(lender, seed, requests=(limit, 1)) for seed in range(1 + others)]
        loop.call_later(99.9, setattr, lender, "away", True)
        loop.call_later(100 + away_s, setattr, lender, "away", False)

        async def later(process: Process) -> None:
            await asyncio.sleep(100)
            await process.send(sizes(1, 1), away_s + 120)

        await asyncio.gather(made[0].send(sizes(1, 1), away_s + 220), *map(later, made[1:]))
        return made

    made = simulate(run())
    assert busiest([entry for process in made for entry in process.sent]) <= limit
    least = 0.7 / len(made) * 0.9 * limit
    assert min(units_between(process.sent, 1160 + away_s, 1220 + away_s) for process in made) >= least
    assert all(("others may have the rest" in process.said[0]) == (away_s > 5) for process in made[1:])


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
    made = BucketShape.of(300, 1, slots=REQUEST_SLOTS).bucket
    process = _alone(lambda lender, now: lender.put("requests", made, now), requests=(6_000, 1))
    assert 0.9 * 300 <= busiest(process.sent) <= 300
    assert "it was made for 300 a minute" in process.said[0]
    assert "job's 6,000" in process.said[0]


def test_the_job_s_own_limit_holds_beside_the_shared_one() -> None:
    """A run never passes its own limit, however much the shared one would give."""
    made = BucketShape.of(60_000, 1, slots=REQUEST_SLOTS).bucket
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


def test_what_large_requests_leave_of_the_limit_is_told() -> None:
    """The log says what can be used, at most, whenever that is less than 90 %, whoever made the limit."""
    ours = "are shared by all runs that name it"
    process = _alone(lambda _lender, _now: None, tokens=(30_000, 10_000), requests=(600, 1))
    told = f"{ours}, of which about 43 % can be used beside requests of up to 10,000 tokens"
    assert set(process.said) == {
        f"limits.shared, tokens: 30,000 a minute {told}",
        f"limits.shared, requests: 600 a minute {ours}",
    }
    made = BucketShape.of(60_000, 6_000, slots=TOKEN_SLOTS).bucket
    process = _alone(lambda lender, now: lender.put("tokens", made, now), tokens=(30_000, 10))
    assert "60,000 a minute, of which about 76 % can be used beside requests of up to 6,000 tokens" in process.said[0]
    process = _alone(lambda _lender, _now: None, requests=(4, 1))
    assert process.said[0].endswith("of which about 74 % can be used")


def _one_after_another(pause_s: float, seed: int) -> Sent:
    """A job with large requests, then several of any size at about the same moment."""
    limit, draw = 60_000, random.Random(seed)
    small = draw.random() < 0.5

    async def run() -> Sent:
        lender = SimulatedLender()
        first = Process(lender, seed, tokens=(limit, 20_000))
        # one that never ends knows the old shape
        await (idle := Process(lender, seed + 1, tokens=(limit, 10))).lessees[0].begin()
        await first.send(sizes(10_000, 20_000, seed), draw.uniform(20, 140), by_tokens=True)
        await asyncio.sleep(pause_s)
        made = [
            Process(lender, seed * 10 + number, tokens=(limit, largest))
            for number, largest in enumerate([200, 200 if small else 20_000, draw.choice([200, 3_000])])
        ]

        async def begin(process: Process, largest: int) -> None:
            await asyncio.sleep(draw.choice([0.0, 0.02, 0.2, 5.0]) * draw.random())
            await process.send(sizes(largest // 2, largest, seed), 200, by_tokens=True)

        slow = asyncio.create_task(_now_and_then(idle, draw))
        await asyncio.gather(*(begin(process, process.lessees[0]._kind.largest) for process in made))
        slow.cancel()
        return [entry for process in (first, idle, *made) for entry in process.sent]

    return simulate(run())


async def _now_and_then(process: Process, draw: random.Random) -> None:
    loop = asyncio.get_running_loop()
    while True:
        (await process.limits.acquire(10)).release()
        process.sent.append((loop.time(), 10))
        await asyncio.sleep(draw.uniform(0.0, 3.0))


@pytest.mark.parametrize(
    "pause_s",
    [0.0, 178.0, *(pytest.param(pause_s, marks=pytest.mark.nightly) for pause_s in (60.0, 150.0, 181.0, 240.0))],
)
def test_no_minute_is_passed_whatever_follows_large_requests(pause_s: float) -> None:
    """Runs of any size that begin at any time after one with large requests never pass the limit with it, or together."""
    for seed in range(4):
        assert busiest(_one_after_another(pause_s, seed)) <= 60_000


def test_an_unused_limit_takes_the_shape_of_smaller_requests() -> None:
    """A limit that was made for large requests and is not used any more gives jobs with small ones 90 % again."""
    limit = 60_000

    async def run(pause_s: float) -> Process:
        lender = SimulatedLender()
        await Process(lender, 1, tokens=(limit, 20_000)).send(sizes(10_000, 20_000), 60, by_tokens=True)
        await asyncio.sleep(pause_s)
        small = Process(lender, 2, tokens=(limit, 100))
        await small.send(sizes(50, 100), 200, by_tokens=True)
        return small

    later = simulate(run(220))
    assert busiest(later.sent) <= limit
    assert units_between(later.sent, 1300, 1470) >= 0.9 * limit * 170 / 60
    assert "of which" not in later.said[0]
    soon = simulate(run(100))
    assert "about 43 % can be used beside requests of up to 20,000 tokens" in soon.said[0]
    assert busiest(soon.sent) <= limit


class _Slow(SimulatedLender):
    """Takes its time; a change of shape is made, and answered, `late_s` after it was asked for, even if nobody waits."""

    def __init__(self, late_s: float) -> None:
        super().__init__()
        self.late_s = late_s
        self.shapes: list[Bucket] = []
        self._late: list[asyncio.Task[None]] = []

    async def reshape(self, kind: str, bucket: Bucket) -> None:
        self.shapes.append(bucket)
        task = asyncio.create_task(self._reshape(kind, bucket, self.late_s if len(self.shapes) > 1 else 0.5))
        self._late.append(task)
        await asyncio.shield(task)

    async def _reshape(self, kind: str, bucket: Bucket, late_s: float) -> None:
        await asyncio.sleep(late_s)
        await super().reshape(kind, bucket)


def _narrowed(late_s: float, seconds: float) -> tuple[_Slow, int]:
    """A limit for large requests that is narrowed slowly, and tokens that another run is lent in `seconds`."""
    limit = 60_000

    async def run() -> tuple[_Slow, int]:
        lender = _Slow(late_s)
        lender.put("tokens", BucketShape.of(limit, 20_000, slots=TOKEN_SLOTS).bucket, 0.0)
        small, other = Process(lender, 1, tokens=(limit, 100)), Process(lender, 2, tokens=(limit, 20_000))
        narrowing = asyncio.create_task(small.lessees[0].begin())
        await asyncio.sleep(0.6)
        lent = lender.lent["tokens"]
        work = asyncio.create_task(other.send(sizes(100, 100), seconds, by_tokens=True))
        await work
        await narrowing
        return lender, lender.lent["tokens"] - lent

    return simulate(run())


def test_a_limit_is_closed_before_it_is_narrowed() -> None:
    """While a change of shape is under way, however late the server makes it, nothing is lent that it could not know of."""
    lender, lent = _narrowed(40.0, 39.0)
    assert len(lender.shapes) == 2
    assert lent == 0


def test_what_flowed_in_while_a_limit_was_narrowed_counts() -> None:
    """What others could be granted meanwhile is taken from the new shape beforehand."""
    lender, _ = _narrowed(0.1, 1.0)
    wide, narrow = lender.shapes[:2]
    assert narrow.per_second > 2 * wide.per_second
    assert narrow.taken >= narrow.capacity + 0.5 * wide.per_second


def test_what_another_shape_granted_is_not_used() -> None:
    """A run that still believes in the old shape of a limit leases nothing for the life that the old one gave."""

    async def run() -> float:
        lender = SimulatedLender()
        process = Process(lender, tokens=(60_000, 10))
        clock = asyncio.get_running_loop().time
        lender.put("tokens", BucketShape.of(60_000, 6_000, slots=TOKEN_SLOTS).bucket, clock())
        lessee = process.lessees[0]
        await lessee.begin()
        await lessee.end()
        await asyncio.sleep(12.0)
        lender.put("tokens", BucketShape.of(60_000, 20_000, slots=TOKEN_SLOTS).bucket, clock())
        lessee._looked = clock()
        lessee.meter.wait_s(clock(), 10)
        await lessee._step()
        return lessee.meter.held(clock())

    assert simulate(run()) == 0


def test_a_request_that_is_nearly_the_limit_is_refused() -> None:
    """One request of more than nine tenths of a shared limit could hardly ever be leased: the job is refused at once."""
    with pytest.raises(BadJob, match="9,500 is more than 90% of 10,000"):
        _alone(lambda _lender, _now: None, tokens=(10_000, 9_500))
    made = BucketShape.of(5_000, 1, slots=TOKEN_SLOTS).bucket
    with pytest.raises(BadJob, match="too small for this job: 4,800 is more than 90%"):
        _alone(lambda lender, now: lender.put("tokens", made, now), tokens=(10_000, 4_800))


@pytest.mark.parametrize("slots", [REQUEST_SLOTS, TOKEN_SLOTS])
@pytest.mark.parametrize("limit", [60, 5_000, 2_000_000, 10_000_000])
@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.85])
def test_whoever_finds_a_bucket_knows_what_it_was_made_for(limit: int, part: float, slots: int) -> None:
    """The limit, the size of a lease and its life are read from the bucket alone, to the last unit."""
    made = BucketShape.of(limit, int(limit * part), slots=slots)
    found = BucketShape.read(made.bucket, slots=slots)
    assert (found.limit, found.quantum, found.life_s) == (made.limit, made.quantum, made.life_s)


class _Hanging(SimulatedLender):
    """Takes the question, and says nothing for an hour."""

    async def read(self, kind: str) -> Bucket | None:
        await asyncio.sleep(3_600.0)
        return await super().read(kind)


@pytest.mark.parametrize("why", ["away", "hanging"])
def test_a_limit_that_nobody_can_tell_is_none(why: str) -> None:
    """What others share is not waited for longer than for any answer; without one there is nothing to keep to."""
    lender = _Hanging() if why == "hanging" else SimulatedLender()
    lender.away = why == "away"

    async def look() -> tuple[int | None, float]:
        began = asyncio.get_running_loop().time()
        found = await find_limit("requests", lender)
        return found, asyncio.get_running_loop().time() - began

    found, took = simulate(look())
    assert found is None
    assert took <= ANSWER_S
