"""Scheduled, watched, stopped and approved: what a team does with Parquill on its Prefect server."""

from __future__ import annotations

import os
import signal
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.jobs import Jobs, read_results
from tests.production.house import House

DEPLOYMENTS = {
    "translate/translate-nightly": ("30 2 * * *", "Europe/Paris"),
    "summarize/summarize-nightly": ("0 3 * * *", "Europe/Paris"),
    "estimate-cost/estimate": None,
    "complete-prompts/complete": None,
}


def _summary(settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads((Path(settings["output"]) / "summary.json").read_bytes())
    return found


def _settled(made: Jobs, settings: dict[str, Any], rows: int) -> None:
    """Every row has its answer, and none was paid twice but what was in flight."""
    table = read_results(Path(settings["output"]))
    assert table.column("status").to_pylist() == ["ok"] * rows
    stats = made.service.stats()
    assert stats["billed"] - rows <= settings["limits"]["max_at_once"]


def _slow(made: Jobs, rows: int, **changes: Any) -> dict[str, Any]:
    made.service.configure(latency_ms=100)
    return made.job([f"text {row}" for row in range(rows)], limits={"max_at_once": 8}, **changes)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_what_is_deployed(house: House, name: str) -> None:
    """Each deployment has its schedule with a time zone, a description, a strategy for collisions, and help for every parameter; nothing in it is a secret."""
    found = house.ask("GET", f"/deployments/name/{name}")
    schedules = [(each["schedule"]["cron"], each["schedule"]["timezone"]) for each in found["schedules"]]
    assert schedules == ([DEPLOYMENTS[name]] if DEPLOYMENTS[name] else [])
    assert found["description"]
    assert "parquill" in found["tags"]
    assert found["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    for parameter in found["parameter_openapi_schema"]["properties"].values():
        assert parameter.get("description")
    for definition in found["parameter_openapi_schema"].get("definitions", {}).values():
        for setting in definition.get("properties", {}).values():
            assert setting.get("description") or "$ref" in str(setting)
    assert 'api_key"' not in orjson.dumps(found).decode()


def test_a_scheduled_translation(house: House, made: Jobs) -> None:
    """A nightly run is of its scheduled day in the job's time zone, uses the glossary, and the next night pays only for what is new."""
    made.service.configure(log=200, log_bodies=True)
    folder = made.folder
    texts = pa.table({"id": ["a", "b"], "text": ["good morning", "good night"]})
    made.write(texts, "in/dt=2026-03-29/x.parquet")
    more = pa.table({"id": ["a", "b", "c"], "text": ["good morning", "good night", "good luck"]})
    made.write(more, "in/dt=2026-03-30/x.parquet")
    parameters = {
        "name": "nights",
        "input": str(folder / "in" / "dt={date}"),
        "output": str(folder / "out" / "dt={date}"),
        "languages": ["fr", "de"],
        "text_column": "text",
        "glossary": {"fr": {"night": "nuit"}},
        "tone": "friendly",
        "run_usd": 1,
        "settings": {
            "timezone": "Europe/Paris",
            "state": str(folder / "state"),
            "id_column": "id",
            "endpoint": {"base_url": made.service.url},
        },
    }
    # 23:30 UTC is half past one of the next day in Paris, in the night in which its clocks go forward
    first = house.ended(house.start_run("translate/translate-nightly", parameters, "2026-03-28T23:30:00Z"))
    assert (first["state_type"], first["state_name"]) == ("COMPLETED", "Completed"), first["state"]["message"]
    assert first["name"] == "nights · 4 rows · gpt-4o-mini"
    table = read_results(folder / "out" / "dt=2026-03-29")
    assert table.column("language").to_pylist() == ["fr", "de"] * 2
    bodies = [entry["body"] for entry in made.service.log()]
    assert sum("nuit" in body for body in bodies) == 2
    assert all("friendly" in body for body in bodies)
    house.ended(house.start_run("translate/translate-nightly", parameters, "2026-03-29T22:30:00Z"))
    table = read_results(folder / "out" / "dt=2026-03-30")
    assert table.column("reused").to_pylist() == [True, True, True, True, False, False]
    assert made.service.stats()["billed"] == 6


def test_a_summary_of_articles(house: House, made: Jobs) -> None:
    """The ready flow for summaries asks for its length, style and language, and says what it cost."""
    made.service.configure(log=200, log_bodies=True)
    made.write(["a long article", "another"])
    parameters = {
        "name": "articles",
        "input": str(made.folder / "prompts.parquet"),
        "output": str(made.folder / "out"),
        "length": "one sentence",
        "style": "neutral",
        "language": "French",
        "settings": {"endpoint": {"base_url": made.service.url}},
    }
    run = house.ended(house.start_run("summarize/summarize-nightly", parameters))
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert run["state"]["message"].startswith("2 of 2 rows ok, $")
    body = made.service.log()[0]["body"]
    assert all(word in body for word in ("one sentence", "neutral", "French"))


def test_a_state_says_what_happened(house: House, made: Jobs) -> None:
    """Failed rows within tolerance, too many of them, and a budget that does not suffice are told apart by the state."""
    made.service.configure(faults=[{"kind": "length", "match": "cut"}])
    texts = ["cut", *(f"text {row}" for row in range(19))]
    told = {}
    for name, changes in (
        ("tolerated", {"tolerate": {"not_ok": 0.1}}),
        ("failing", {}),
        ("refused", {"budget": {"run_usd": 0.00001}}),
    ):
        settings = made.job(texts, name=name, output=str(made.folder / name), **changes)
        run = house.ended(house.start_run("complete-prompts/complete", {"job": settings}))
        told[name] = (run["state_type"], run["state_name"])
        assert run["state"]["message"]
    assert told == {
        "tolerated": ("COMPLETED", "Completed with failed rows"),
        "failing": ("FAILED", "Completed with failed rows"),
        "refused": ("FAILED", "Refused by budget"),
    }


def test_approved_after_the_process_is_gone(house: House, made: Jobs) -> None:
    """A deployed run above approval_usd is suspended: its process ends; approved by the command it is started again and completes."""
    settings = made.job([f"text {row}" for row in range(10)], name="suspended", budget={"approval_usd": 0.00001})
    run = house.start_run("complete-prompts/complete", {"job": settings})
    assert house.ended(run, ["PAUSED"])["state_name"] == "Suspended"
    assert made.service.stats()["requests"] == 0
    listed = house.parquill("approve", "--json")
    assert run in listed.stdout
    answered = house.parquill("approve", run)
    assert answered.returncode == 0, answered.stderr
    assert house.ended(run)["state_type"] == "COMPLETED"
    assert made.service.stats()["billed"] == 10


def test_cancelled_in_the_ui(house: House, made: Jobs) -> None:
    """Cancelled, a run sends nothing more within a second, journals what is in flight, is Cancelled, and the next goes on."""
    settings = _slow(made, 400, name="cancelled")
    run = house.start_run("complete-prompts/complete", {"job": settings})
    house.wait("requests", lambda: made.service.stats()["requests"] > 30)
    cancelling = {"type": "CANCELLING", "name": "Cancelling"}
    house.ask("POST", f"/flow_runs/{run}/set_state", state=cancelling, force=False)
    house.wait("the process to stop", lambda: _summary(settings)["state"] == "stopped")
    sent = made.service.stats()["requests"]
    time.sleep(1.0)
    assert made.service.stats()["requests"] == sent
    assert house.ended(run)["state_type"] == "CANCELLED"
    made.service.configure(latency_ms=0)
    again = house.ended(house.start_run("complete-prompts/complete", {"job": settings}))
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    assert made.service.stats()["billed_twice"] == []
    _settled(made, settings, 400)


def test_a_killed_run_is_taken_over(house: House, made: Jobs) -> None:
    """When the flow's process is killed the run is Crashed, and the next one takes over its work."""
    settings = _slow(made, 300, name="killed")
    run = house.start_run("complete-prompts/complete", {"job": settings})
    house.wait("requests", lambda: made.service.stats()["requests"] > 30)
    os.kill(house.flow_process(), signal.SIGKILL)
    assert house.ended(run)["state_type"] == "CRASHED"
    made.service.configure(latency_ms=0)
    again = house.ended(house.start_run("complete-prompts/complete", {"job": settings}))
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    _settled(made, settings, 300)


def test_the_server_goes_away_for_a_while(house: House, made: Jobs) -> None:
    """A server that is away in the middle of a run costs neither the run nor a row."""
    settings = _slow(made, 700, name="away")
    ended: list[Any] = []
    path = made.job_file(settings)
    thread = threading.Thread(target=lambda: ended.append(house.parquill("run", str(path))))
    thread.start()
    house.wait("requests", lambda: made.service.stats()["requests"] > 30)
    house.stop_server()
    time.sleep(4)
    house.start_server()
    thread.join(90)
    assert ended[0].returncode == 0, ended[0].stderr
    _settled(made, settings, 700)
    assert made.service.stats()["billed_twice"] == []
    runs = house.ask("POST", "/flow_runs/filter", flow_runs={"name": {"like_": "away"}})
    assert [run["state_type"] for run in runs] == ["COMPLETED"]


def test_the_server_is_away_at_the_end(house: House, made: Jobs) -> None:
    """A server that stays away costs the report only: files are whole, the exit code is right, the next run has nothing to do."""
    settings = _slow(made, 200, name="gone")
    ended: list[Any] = []
    path = made.job_file(settings)
    thread = threading.Thread(target=lambda: ended.append(house.parquill("run", str(path))))
    thread.start()
    house.wait("requests", lambda: made.service.stats()["requests"] > 30)
    house.stop_server()
    try:
        thread.join(110)
        assert not thread.is_alive()
        assert ended[0].returncode == 0, ended[0].stderr
        assert "Prefect" in ended[0].stderr
        _settled(made, settings, 200)
    finally:
        house.start_server()
    sent = made.service.stats()["requests"]
    assert house.parquill("run", str(path)).returncode == 0
    assert made.service.stats()["requests"] == sent
    assert Decimal(_summary(settings)["cost_usd"]) > 0


def test_a_key_from_a_block(house: House, made: Jobs) -> None:
    """The key may be a Prefect Secret block, named in the job; it is nowhere among parameters and states."""
    canary = "sk-canary-of-a-block-1234567890"
    code = f"from prefect.blocks.system import Secret; Secret(value={canary!r}).save('the-key', overwrite=True)"
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code], env=house.environment, check=True, capture_output=True)
    made.service.configure(require_key=canary)
    settings = made.job(["a", "b"], name="blocked", endpoint={"api_key_block": "the-key"})
    run = house.ended(house.start_run("complete-prompts/complete", {"job": settings}))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert canary not in orjson.dumps(run).decode()


def test_outputs_are_plain_files(house: House, made: Jobs) -> None:
    """What a deployed run writes is what the command writes: results, summary, history, report."""
    settings = made.job(["a"], name="plain")
    house.ended(house.start_run("complete-prompts/complete", {"job": settings}))
    output = Path(settings["output"])
    assert {path.name for path in output.iterdir()} == {
        "results",
        "summary.json",
        "history",
        "report.html",
        ".parquill",
    }
    assert pq.read_table(output / "results").num_rows == 1
