"""A hostile or broken service: the row gets a status, the run continues, and memory and time stay bounded."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.tools.attacks import ATTACKS, FORGERIES
from tests.tools.direct import job_of, results, run_steps
from tests.tools.expected import check_books
from tests.tools.hostile_server import answer_to
from tests.tools.jobs import Jobs
from tests.tools.measured import HostileServer, hostile_server, measure

KEY = "sk-canary-0123456789"
# gpt-4.1-mini
NANO = {name: Decimal(usd) / 1_000_000 for name, usd in (("input", "0.4"), ("cached", "0.1"), ("output", "1.6"))}
OUTPUT = 50
# Attacks that wait for the deadline have a short one; the others have one that a busy machine does not reach.
TIMEOUT_S = 120
SHORT_TIMEOUT_S = 6
WAITING = [name for name, attack in ATTACKS.items() if "timeout" in attack.codes]
AT_WORK = [name for name in ATTACKS if name not in WAITING]
QUICK = [name for name, attack in ATTACKS.items() if attack.requests == 1 and not name.startswith("endless")]


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


def _texts(names: list[str], *, good: int) -> list[str]:
    """Return a prompt for each attack with good ones around it; `unread` attacks get a long prompt."""
    texts = []
    for name in names:
        texts.append(f"<{name}> CANARY says " + ("x " * 300_000 if name.startswith("unread") else ""))
        texts += [f"good CANARY {name} {number}" for number in range(good)]
    return texts


def _job(folder: Path, url: str, texts: list[str], **settings: Any) -> dict[str, Any]:
    return job_of(
        folder,
        texts,
        url,
        **{
            "model": "gpt-4.1-mini",
            "max_output_tokens": OUTPUT,
            "endpoint": {"base_url": url, "api_key_env": "HELL_KEY"},
            "retry": {"attempts": 2, "timeout_s": TIMEOUT_S},
            "limits": {"max_at_once": 64},
            **settings,
        },
    )


def _check_row(row: dict[str, Any]) -> None:
    name = row["text"].partition(">")[0][1:] if row["text"].startswith("<") else "good"
    attack = ATTACKS[name]
    assert row["status"] == attack.status, name
    assert row["error_code"] in attack.codes, name
    assert row["attempts"] == attack.requests, name
    worst = row["estimated_prompt_tokens"] * NANO["input"] + OUTPUT * NANO["output"]
    assert row["in_doubt_usd"] == attack.doubt * worst, name
    prompt, cached, completion = attack.tokens
    used = (prompt - cached) * NANO["input"] + cached * NANO["cached"] + completion * NANO["output"]
    assert row["cost_usd"] == {"no": 0, "usage": used, "reserved": worst}[attack.paid], name
    assert row["completion_tokens"] == (completion if attack.paid == "usage" else None), name
    if row["status"] == "ok" and name != "tool_calls":
        assert answer_to(row["text"]) in row["completion"].replace("\ufffd ", "").replace("\0\x1b[2J ", ""), name
    shown = f"{row['error_message']} {row['model_used']} {row['request_id']} {row['finish_reason']}"
    assert "CANARY" not in shown, name
    assert KEY not in shown, name
    assert "\x1b" not in shown, name
    assert len(shown) < 1_000, name


@pytest.fixture(scope="module")
def worst_night(hostile: HostileServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run a good night, then two nights with another attack for each row, 64 at once, in one measured process."""
    folder = tmp_path_factory.mktemp("hostile")
    at_work, waiting = (_texts(names, good=2) for names in (AT_WORK, WAITING))
    tame = ["good" + text[text.find(">") :] if text.startswith("<") else text for text in at_work + waiting]
    short = {"attempts": 2, "timeout_s": SHORT_TIMEOUT_S}
    jobs = [
        _job(folder / "tame", hostile.url, tame),
        _job(folder / "at-work", hostile.url, at_work, tolerate={"not_ok": 1}),
        _job(folder / "waiting", hostile.url, waiting, tolerate={"not_ok": 1}, retry=short),
    ]
    figures, stderr = measure(folder, jobs, {"HELL_KEY": KEY})
    rows = [row for job in jobs[1:] for row in results(job)]
    return {"rows": rows, "figures": figures, "stderr": stderr, "seen": hostile.seen()}


def _check_rows(worst_night: dict[str, Any]) -> None:
    """Each row has the status, code, attempts and money of its attack in the table, and no other row is harmed."""
    assert len(worst_night["rows"]) == 3 * len(ATTACKS)
    wrong = []
    for row in worst_night["rows"]:
        try:
            _check_row(row)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)


def _check_memory(worst_night: dict[str, Any]) -> None:
    """All attacks at once take a bounded amount of memory beyond a good night's."""
    tame, _, waiting = worst_night["figures"]
    assert waiting["peak_kib"] - tame["peak_kib"] < 160 << 10  # a process's peak covers all that it has done


def _check_leftovers(worst_night: dict[str, Any]) -> None:
    """A hostile night leaves no more files, sockets, threads or tasks than a good one."""
    tame, *hostile = worst_night["figures"]
    for night in hostile:
        for kind in ("files", "threads", "tasks"):
            assert night[kind] <= tame[kind], kind


def _check_silence(worst_night: dict[str, Any]) -> None:
    """No library writes anything about the replies: no key, no prompt, no warning, no traceback."""
    assert worst_night["stderr"] == ""


def _check_redirects_and_cookies(worst_night: dict[str, Any]) -> None:
    """No redirect is followed and no cookie is sent back."""
    assert not {"strange_path", "cookie"} & worst_night["seen"].keys()


def test_the_worst_night(worst_night: dict[str, Any]) -> None:
    """Each attack gets its row, memory stays bounded, and nothing is left behind or written to stderr.
    No redirect is followed and no cookie is kept.

    This is one test, so that the night runs once and not once for each pytest worker.
    """
    wrong = []
    for check in (_check_rows, _check_memory, _check_leftovers, _check_silence, _check_redirects_and_cookies):
        try:
            check(worst_night)
        except AssertionError as error:
            wrong.append(f"{check.__name__}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.nightly
def test_time_stays_bounded(worst_night: dict[str, Any]) -> None:
    """All attacks at once take a bounded amount of CPU and of time beyond a good night's."""
    tame, at_work, waiting = worst_night["figures"]
    # two deadlines, and the wait between them
    assert at_work["seconds"] + waiting["seconds"] - tame["seconds"] < 2 * SHORT_TIMEOUT_S + 14
    assert at_work["cpu_s"] + waiting["cpu_s"] - tame["cpu_s"] < 10


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("name", FORGERIES)
def test_an_answer_never_lands_on_another_row(hostile: HostileServer, tmp_path: Path, name: str, at_once: int) -> None:
    """A reply without a request goes to no row: each row holds its own answer, however few connections there are."""
    texts = [f"<{name}> {n}" if n % 4 == 0 else f"good {n}" for n in range(16)]
    settings = _job(
        tmp_path,
        hostile.url,
        texts,
        endpoint={"base_url": hostile.url},
        limits={"max_at_once": at_once},
        tolerate={"not_ok": 1},
        retry={"attempts": 20},
    )
    run_steps(settings)
    for row in results(settings):
        _check_row(row)


def test_connections_are_used_again_until_one_speaks_unasked(hostile: HostileServer, tmp_path: Path) -> None:
    """Connections of a good service are reused.
    After one reply without a request, no connection is used a second time.
    """

    def connections(folder: str, first: str) -> int:
        before = hostile.seen()["connections"]
        texts = [f"{first} 0", *(f"good {n}" for n in range(1, 20))]
        settings = _job(
            tmp_path / folder, hostile.url, texts, endpoint={"base_url": hostile.url}, limits={"max_at_once": 1}
        )
        run_steps(settings)
        return hostile.seen()["connections"] - before - 1  # one connection was for this figure

    assert connections("good", "good") <= 2
    assert connections("bad", "<twice>") == 20


def test_a_run_against_a_hostile_server_ends_with_its_exit_code(
    hostile: HostileServer, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command finishes a run against a hostile service with exit 5 and sums equal to its rows.
    It shows nothing of the replies.
    """
    monkeypatch.setenv("HELL_KEY", KEY)
    texts = _texts(QUICK, good=1)
    settings = _job(jobs.folder / "job", hostile.url, texts)
    done = jobs.run(settings)
    assert (done.exit_code, done.summary["state"]) == (5, "finished"), done.stderr
    for row in done.rows:
        _check_row(row)
    check_books(done)
    output = done.stdout + done.stderr
    assert "CANARY" not in output
    assert KEY not in output
    assert "\x1b[2J" not in output
    assert "\x1b]0" not in output
