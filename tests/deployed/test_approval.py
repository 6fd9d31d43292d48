"""`budget.approval_usd`: if a run's expected cost is above it, the run waits for a person."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import SetStateStatus
from prefect.input.run_input import keyset_from_paused_state

from parquill.flows.cli.approve import answer, question_of, waiting
from parquill.tasks.errors import ParquillError
from tests.deployed.live_stack import LiveStack
from tests.end_to_end.test_prefect import Api
from tests.fakes.losing_proxy import Chosen, losing
from tests.tools.jobs import PARQUILL, Jobs, Spawned

WAIT_S = 120


@pytest.fixture
def costly(jobs: Jobs, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return a job that needs approval, with a unique name."""
    name = f"ask-{abs(hash(request.node.name)) % 10**8}"
    return jobs.job([f"text {row}" for row in range(10)], name=name, budget={"run_usd": 1, "approval_usd": 0.00001})


def _wait_for(name: str) -> None:
    def asks() -> bool:
        return any((each.name or "").startswith(name) and question_of(each)["question"] for each in waiting())

    LiveStack.wait("a question", asks, WAIT_S)


def _start(jobs: Jobs, settings: dict[str, Any]) -> Spawned:
    spawned = jobs.spawn(settings)
    _wait_for(settings["name"])
    assert jobs.service.stats()["requests"] == 0
    return spawned


def test_approved_it_goes_on(jobs: Jobs, costly: dict[str, Any], prefect_server: str) -> None:
    """A run that waits sends nothing and shows the estimate; after `parquill approve` it continues to its end."""
    spawned = _start(jobs, costly)
    (run,) = Api(prefect_server, costly["name"]).flow_runs()
    assert run["state_type"] == "PAUSED"
    done = jobs.run(costly, command="report")
    assert done.summary == {}  # nothing runs yet
    assert answer(costly["name"], approve=True).startswith(costly["name"])
    done = spawned.wait()
    assert done.exit_code == 0, done.stderr
    assert "waiting for approval" in done.stderr
    assert done.summary["rows"]["ok"] == 10
    with pytest.raises(ParquillError, match="waits for approval"):
        answer(costly["name"], approve=True)


def test_a_pilot_waits_too(jobs: Jobs, costly: dict[str, Any], prefect_server: str) -> None:  # noqa: ARG001 - the server must run
    """If a pilot alone may exceed approval_usd, the run waits before the pilot and needs only one approval."""
    jobs.service.configure(output_tokens="fixed:10", prompt_tokens="tiktoken:o200k_base")
    jobs.write([f"text {row:04}" for row in range(1_200)])
    settings = {**costly, "max_output_tokens": 200, "budget": {"run_usd": 0.12, "approval_usd": 0.0005}}
    spawned = _start(jobs, settings)
    assert answer(costly["name"], approve=True).startswith(costly["name"])
    done = spawned.wait()
    assert done.exit_code == 0, done.stderr
    assert done.summary["estimate"]["basis"] == "pilot"
    assert done.summary["rows"]["ok"] == 1_200
    assert jobs.service.stats()["billed_twice"] == []


LOST: dict[str, Chosen] = {
    "the pause": lambda _method, path, body: path.endswith("/set_state") and b'"PAUSED"' in body,
    "the question": lambda method, path, body: method == "POST" and path.endswith("/input") and b"-schema" in body,
    "its text": lambda method, path, body: method == "POST" and path.endswith("/input") and b"-description" in body,
}


@pytest.mark.nightly
@pytest.mark.parametrize("what", LOST)
def test_an_answer_of_the_server_is_lost(jobs: Jobs, costly: dict[str, Any], prefect_server: str, what: str) -> None:
    """If the server accepts a request but its reply is lost, the run still waits with a question to answer."""
    with losing(prefect_server, LOST[what]) as (address, asked):
        spawned = jobs.spawn(costly, environment={"PREFECT_API_URL": address})
        _wait_for(costly["name"])
        LiveStack.wait("the same to be asked again", lambda: len(asked) > 1, WAIT_S)
        assert jobs.service.stats()["requests"] == 0
        answer(costly["name"], approve=True)
        done = spawned.wait()
    assert done.exit_code == 0, done.stderr
    assert done.summary["rows"]["ok"] == 10


def test_declined_it_ends(jobs: Jobs, costly: dict[str, Any], prefect_server: str) -> None:
    """A declined run exits 3, sends nothing, and its state says so; a second start asks for approval again."""
    spawned = _start(jobs, costly)
    answer(costly["name"], approve=False)
    done = spawned.wait()
    assert done.exit_code == 3
    assert "declined: at most $" in done.stderr
    (run,) = Api(prefect_server, costly["name"]).flow_runs()
    assert (run["state_type"], run["state_name"]) == ("FAILED", "Not approved")
    assert jobs.service.stats()["requests"] == 0
    again = _start(jobs, costly)
    answer(costly["name"], approve=True)
    assert again.wait().exit_code == 0


@pytest.mark.nightly
def test_silence_times_out(jobs: Jobs, costly: dict[str, Any], prefect_server: str) -> None:
    """A run without an answer exits 3 after its timeout, with nothing sent, and its state says why."""
    done = jobs.spawn(costly, environment={"PARQUILL_APPROVAL_TIMEOUT_S": "2"}).wait()
    assert done.exit_code == 3
    assert "not approved within 2 seconds" in done.stderr
    (run,) = Api(prefect_server, costly["name"]).flow_runs()
    assert run["state_type"] == "FAILED"
    assert run["state"]["message"] == "The flow was not approved and never resumed."
    assert jobs.service.stats()["requests"] == 0


def test_an_answer_outlives_the_process_that_asked(jobs: Jobs, costly: dict[str, Any]) -> None:
    """If the process that asked is killed, an answer that comes later counts for the run that resumes."""
    spawned = _start(jobs, costly)
    spawned.process.send_signal(signal.SIGKILL)
    spawned.process.wait()
    answer(costly["name"], approve=True)
    done = jobs.run(costly)
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["billed"] == 10


@pytest.mark.nightly
def test_a_dead_run_does_not_wait(jobs: Jobs, costly: dict[str, Any], prefect_server: str) -> None:
    """If a run was killed while it waited, the next run sets it to Crashed and asks instead.
    The job's name then means only the new run.
    """
    spawned = _start(jobs, costly)
    spawned.process.send_signal(signal.SIGKILL)
    spawned.process.wait()
    again = jobs.spawn(costly)
    api = Api(prefect_server, costly["name"])
    states = ["CRASHED", "PAUSED"]
    LiveStack.wait(str(states), lambda: [run["state_type"] for run in api.flow_runs()] == states, WAIT_S)
    answer(costly["name"], approve=True)
    assert again.wait().exit_code == 0


def test_what_is_cheap_asks_nobody(jobs: Jobs) -> None:
    """A run whose expected cost is not above the threshold starts at once."""
    settings = jobs.job(["a"], budget={"run_usd": 1, "approval_usd": 0.5})
    assert jobs.run(settings).exit_code == 0


@pytest.mark.nightly
def test_nobody_to_ask(jobs: Jobs, costly: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal and without a server that others can reach, the run is refused and nothing is sent."""
    monkeypatch.delenv("PREFECT_API_URL")
    done = jobs.spawn(costly).wait()
    assert done.exit_code == 3
    assert "no one can be asked here" in done.stderr
    assert jobs.service.stats()["requests"] == 0


def test_the_command_lists_and_answers(jobs: Jobs, costly: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """`parquill approve` lists the waiting runs with question and deadline, and `parquill approve JOB` answers."""
    from parquill.flows.cli.commands import main

    spawned = _start(jobs, costly)
    with pytest.raises(SystemExit):
        main(["approve", "--json"])
    (listed,) = (each for each in orjson.loads(capsys.readouterr().out)["waiting"] if costly["name"] in each["name"])
    assert re.fullmatch(r"at most \$0\.\d+ is above budget\.approval_usd = \$0\.00001\.", listed["question"])
    left = datetime.fromisoformat(listed["until"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=58) < left < timedelta(hours=24)
    with pytest.raises(SystemExit) as ended:
        main(["approve", costly["name"], "--json"])
    assert not ended.value.code
    assert spawned.wait().exit_code == 0


@pytest.mark.nightly
def test_an_answer_that_comes_before_the_question(jobs: Jobs, costly: dict[str, Any]) -> None:
    """If an answer comes before a waiting run has stored its question, the command retries and is not refused."""
    spawned = _start(jobs, costly)
    (run,) = (each for each in waiting() if (each.name or "").startswith(costly["name"]))
    with get_client(sync_client=True) as client:
        assert run.state is not None
        key = keyset_from_paused_state(run.state)["schema"]
        question = client.read_flow_run_input(run.id, key)
        client.delete_flow_run_input(run.id, key)
        tries = []

        def wait(seconds: float) -> None:
            tries.append(seconds)
            if len(tries) == 3:
                client.create_flow_run_input(run.id, key, question)

        answer(costly["name"], approve=True, sleep=wait)
    assert len(tries) == 3
    assert spawned.wait().exit_code == 0


@pytest.mark.parametrize(
    "name",
    [
        "shop: texts · nightly",
        *(pytest.param(each, marks=pytest.mark.nightly) for each in ("shop · 12 rows", "a · b · c")),
    ],
)
def test_a_job_is_meant_by_whatever_name_it_has(jobs: Jobs, costly: dict[str, Any], name: str) -> None:
    """A job whose name holds a colon or a middle dot is listed with its whole question.
    Only its full name answers it, not a part.
    """
    settings = {**costly, "name": f"{costly['name']} {name}"}
    spawned = _start(jobs, settings)
    (run,) = (each for each in waiting() if (each.name or "").startswith(settings["name"]))
    assert str(question_of(run)["question"]).startswith("at most $0.")
    with pytest.raises(ParquillError, match="waits for approval"):
        answer(settings["name"].split(" · ")[0].split(": ")[0], approve=True)
    assert answer(settings["name"], approve=True) == run.name
    assert spawned.wait().exit_code == 0


@pytest.mark.nightly
def test_a_server_that_refuses_the_answer(jobs: Jobs, costly: dict[str, Any]) -> None:
    """If Prefect's server refuses an answer with a conflict, the command explains it in one sentence, with advice."""
    spawned = _start(jobs, costly)
    (run,) = (each for each in waiting() if (each.name or "").startswith(costly["name"]))
    assert run.state is not None
    key = keyset_from_paused_state(run.state)["response"]
    with get_client(sync_client=True) as client:
        client.create_flow_run_input(run.id, key, "{}")
        with pytest.raises(ParquillError, match=r"Prefect's server refused the request \(HTTP 409\)"):
            answer(costly["name"], approve=True)
        client.delete_flow_run_input(run.id, key)
    answer(costly["name"], approve=False)
    assert spawned.wait().exit_code == 3


@pytest.mark.nightly
def test_an_answer_that_says_nothing(jobs: Jobs, costly: dict[str, Any]) -> None:
    """A run that is resumed with neither yes nor no continues to wait, and accepts a later answer."""
    spawned = _start(jobs, costly)
    (run,) = (each for each in waiting() if (each.name or "").startswith(costly["name"]))
    with get_client(sync_client=True) as client:
        empty_answers: list[dict[str, Any] | None] = [{}, None]
        for empty_answer in empty_answers:
            refused = client.resume_flow_run(run.id, run_input=empty_answer)
            assert refused.status == SetStateStatus.REJECT
            assert "required" in str(refused.details)
        assert client.read_flow_run(run.id).state == run.state
    answer(costly["name"], approve=True)
    assert spawned.wait().exit_code == 0


@pytest.mark.parametrize(
    "seconds", ["abc", *(pytest.param(each, marks=pytest.mark.nightly) for each in ("0", "-5", "1.5", "99999999999"))]
)
def test_a_time_that_is_none(jobs: Jobs, costly: dict[str, Any], seconds: str) -> None:
    """A timeout that is not a number of seconds exits 2; the error names the variable, and no question is asked."""
    done = jobs.spawn(costly, environment={"PARQUILL_APPROVAL_TIMEOUT_S": seconds}).wait()
    assert done.exit_code == 2
    assert f"PARQUILL_APPROVAL_TIMEOUT_S is '{seconds}'" in done.stderr
    assert "waiting for approval" not in done.stderr
    assert not [each for each in waiting() if (each.name or "").startswith(costly["name"])]


@pytest.mark.nightly
def test_the_end_of_input_is_no_answer(jobs: Jobs, costly: dict[str, Any]) -> None:
    """Ctrl-D at the terminal's question exits 3 with one sentence, and nothing is sent."""
    code, output = _at_a_terminal(jobs, costly, b"\x04")
    assert code == 3, output
    assert "not approved, the question was not answered: at most $" in output
    code, output = _at_a_terminal(jobs, costly, b"n\n")
    assert (code, "declined: at most $" in output) == (3, True)
    assert jobs.service.stats()["requests"] == 0
    code, output = _at_a_terminal(jobs, costly, b"y\n")
    assert code == 0, output


def _at_a_terminal(jobs: Jobs, settings: dict[str, Any], typed: bytes) -> tuple[int, str]:
    """Run the command at a terminal, type when it asks, and return its exit code and output."""
    master, slave = pty.openpty()
    command = [PARQUILL, "run", str(jobs.job_file(settings))]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    output = b""
    try:
        with contextlib.suppress(OSError):  # the terminal is closed
            while select.select([master], [], [], WAIT_S)[0] and (part := os.read(master, 65_536)):
                asks, output = b"Spend it?" in output, output + part
                if not asks and b"Spend it?" in output:
                    os.write(master, typed)
        return process.wait(WAIT_S), output.decode()
    finally:
        process.kill()
        os.close(master)
