"""Events, and the automations that use them, on a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from parquill.tasks.orchestration.events import EVENTS, LABELS
from tests.deployed.live_stack import ROOT, LiveStack
from tests.tools.jobs import Jobs

pytestmark = pytest.mark.nightly

PLACEHOLDER_ID = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def messages() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Start a webhook on loopback; return its address and the list of the messages that it gets."""
    got: list[dict[str, Any]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(orjson.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Suppress the access log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture(scope="module")
def automated(
    stack: LiveStack, messages: tuple[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> LiveStack:
    """Return the stack with data/automations.yaml; only the block's id is replaced, by one for the webhook."""
    kind = stack.ask("GET", "/block_types/slug/custom-webhook")
    schema = stack.ask("POST", "/block_schemas/filter", block_schemas={"block_type_id": {"any_": [kind["id"]]}})[0]
    block = stack.ask(
        "POST",
        "/block_documents/",
        name="alerts",
        block_type_id=kind["id"],
        block_schema_id=schema["id"],
        data={"name": "alerts", "url": messages[0], "json_data": {"subject": "{{subject}}", "body": "{{body}}"}},
    )
    path = tmp_path_factory.mktemp("automations") / "automations.yaml"
    text = (ROOT / "data" / "automations.yaml").read_text()
    assert text.count(PLACEHOLDER_ID) == 5
    path.write_text(text.replace(PLACEHOLDER_ID, block["id"]))
    stack.command("automation", "create", "--from-file", str(path))
    return stack


def _subjects(got: list[dict[str, Any]], job: str) -> set[str]:
    return {each["subject"] for each in got if each["subject"].startswith(f"{job}:")}


def test_the_examples_deploy_as_they_stand(stack: LiveStack) -> None:
    """`prefect automation create --from-file ...` accepts each example file unchanged and creates all its parts."""
    for name in ("automations.yaml", "silent-runs.yaml"):
        stack.command("automation", "create", "--from-file", str(ROOT / "data" / name))
    made = stack.ask("POST", "/automations/filter", limit=50)
    assert {each["name"] for each in made} == {
        "parquill-soft-limit",
        "parquill-failed-rows",
        "parquill-over-estimate",
        "parquill-failed",
        "parquill-crashed",
        "parquill-silent-runs",
    }
    for each in made:
        stack.ask("DELETE", f"/automations/{each['id']}")


def test_each_message_comes_when_it_should(
    automated: LiveStack, made: Jobs, messages: tuple[str, list[dict[str, Any]]]
) -> None:
    """A passed soft limit, more than 1 % of rows not ok, a cost 20 % above the expected one, and a refused run each
    send one message. A run without these sends none.
    """
    got = messages[1]
    # unique names: other runs of this stack would change the expected cost
    made.service.configure(output_tokens="fixed:40", faults=[{"kind": "status:400", "match": "bad"}])
    quiet = made.job([f"text {n}" for n in range(40)], name="alarm-quiet", budget={"run_usd": 1})
    assert (
        automated.ended(automated.start_run("complete-prompts/complete", {"job": quiet}))["state_type"] == "COMPLETED"
    )
    rows = [*(f"text {n}" for n in range(60)), "bad"]
    failing = made.job(
        rows, name="alarm-failing", output=str(made.folder / "failing"), tolerate={"not_ok": 0.5}, budget={"run_usd": 1}
    )
    automated.ended(automated.start_run("complete-prompts/complete", {"job": failing}))
    soft = made.job(
        [f"other {n}" for n in range(40)],
        name="alarm-soft",
        output=str(made.folder / "soft"),
        budget={"run_usd": 0.002, "soft_fraction": 0.3},
        limits={"max_at_once": 4},
    )
    automated.ended(automated.start_run("complete-prompts/complete", {"job": soft}))
    # the first run has short answers and sets the expected cost; the answers of the next are more than four times as
    # long
    short = made.job([f"night {n}" for n in range(60)], name="alarm-dear", output=str(made.folder / "one"))
    made.service.configure(output_tokens="fixed:10")
    automated.ended(automated.start_run("complete-prompts/complete", {"job": short}))
    made.service.configure(output_tokens="fixed:45")
    longer = made.job([f"next {n}" for n in range(60)], name="alarm-dear", output=str(made.folder / "two"))
    automated.ended(automated.start_run("complete-prompts/complete", {"job": longer}))
    poor = made.job(["a"], name="alarm-refused", output=str(made.folder / "refused"), budget={"run_usd": 0.0000001})
    automated.ended(automated.start_run("complete-prompts/complete", {"job": poor}))
    LiveStack.wait("four messages", lambda: len(got) >= 4, 60)
    assert _subjects(got, "alarm-failing") == {"alarm-failing: 1.6393 % of the rows are not ok"}
    assert _subjects(got, "alarm-soft") == {"alarm-soft: soft limit"}
    assert len(_subjects(got, "alarm-dear")) == 1
    assert "% over the estimate" in next(iter(_subjects(got, "alarm-dear")))
    assert not _subjects(got, "alarm-quiet")
    (refused,) = (each for each in got if each["subject"].startswith("alarm-refused"))
    assert refused["subject"] == "alarm-refused · 1 row · gpt-4o-mini: Refused by budget"
    assert "exceeds the budget of $0.0000001" in refused["body"]
    assert len(got) == 4
    assert "CANARY" not in str(got)


def test_every_event_has_its_payload(stack: LiveStack, made: Jobs) -> None:
    """Each event in docs/reference/events.md is emitted with its documented payload, related to the flow run."""
    made.service.configure(output_tokens="fixed:40")
    job = made.job(
        [f"text {n}" for n in range(30)],
        name="told",
        output=str(made.folder / "told"),
        budget={"run_usd": 0.0004, "soft_fraction": 0.2, "when_short": "partial"},
        limits={"max_at_once": 2},
    )
    run = stack.start_run("complete-prompts/complete", {"job": job})
    assert stack.ended(run)["state_name"] == "Stopped by budget"

    def events() -> dict[str, dict[str, Any]]:
        wanted = {"event": {"prefix": ["parquill."]}, "related": {"id": [f"prefect.flow-run.{run}"]}}
        found = stack.ask("POST", "/events/filter", filter=wanted, limit=50)["events"]
        return {each["event"]: each for each in found}

    names = EVENTS.keys() - {"parquill.approval.requested"}
    LiveStack.wait("all events", lambda: set(events()) >= names, 30)
    for name in names:
        payload = events()[name]["payload"]
        assert set(payload) == {*EVENTS[name][1], "job", "model", "labels"}, name
    labels = events()["parquill.run.finished"]["resource"]
    assert labels.keys() >= LABELS.keys()
    assert labels["parquill.state"] == "stopped"
    assert labels["parquill.exit-code"] == "4"
    assert 0 < int(labels["parquill.not-ok-percent"]) <= 100
    assert Path(made.folder / "told" / "summary.json").exists()
