"""Approval: a run whose expected cost is above `budget.approval_usd` waits for a person, who sees the estimate.

A deployed run is suspended: its process ends, and the answer has the worker start it again. Any other run pauses: its
process waits for the answer. Once given, the approval lies beside the plan, so a run that goes on after an interruption
does not ask again, and the answer to a process that has died since is found by the next.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.input.run_input import keyset_from_base_key
from pydantic import Field

from parquill.tasks.disk.files import DISK, read_json
from parquill.tasks.disk.run import Run
from parquill.tasks.errors import NotApproved
from parquill.tasks.events import tell
from parquill.tasks.money.gate import Verdict, asks_approval, judge
from parquill.tasks.money.month import booked_by_others
from parquill.tasks.money.prices import dollars, nano_of
from parquill.tasks.shown import escape
from parquill.tasks.tables import estimate_table

KEY = "approval"
DAY_S = 86_400
POLL_S = 2  # seconds between looks at the server while a run waits


class Approval(RunInput):
    """The answer of the person who is asked."""

    approve: bool = Field(default=True, description="Spend the money; switch it off to decline")


def timeout_s() -> int:
    """Seconds that a run waits for an answer."""
    return int(os.environ.get("PARQUILL_APPROVAL_TIMEOUT_S", DAY_S))


def silence(about: str) -> str:
    """The sentence of a run that nobody answered."""
    return f"nobody approved it within {timeout_s():,} seconds: {about}"


def approval_path(run: Run) -> Path:
    """Where the approval of a run lies: {asked_at, flow_run_id, waits, approved_at, by}."""
    return run.folder.path / "approval.json"


def approve_run(run: Run, by: str) -> None:
    """Note that a person has approved the run. Raises DiskFailed."""
    found = read_json(approval_path(run)) or {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    DISK.write_own(approval_path(run), {**found, "approved_at": now, "by": by})


def is_approved(run: Run) -> bool:
    """Whether a person has approved the run."""
    return "approved_at" in (read_json(approval_path(run)) or {})


def wait_for_approval(run: Run) -> None:
    """Let the run pass if its expected cost asks nobody, or when a person approves; call it in the flow itself.

    Raises NotApproved when it is declined, or when nobody answers within PARQUILL_APPROVAL_TIMEOUT_S (default a day).
    """
    verdict = judge(run.job, run.estimate, run.price, run.totals(), booked_by_others(run.job, run.run_id))
    if not asks_approval(run.job, verdict) or is_approved(run):
        return
    answer = _earlier_answer(run)
    if answer is None:
        answer = _ask(run, verdict)
    if not answer.approve:
        approval_path(run).unlink(missing_ok=True)  # who starts it again is asked again
        raise NotApproved(f"declined: {_expected(run, verdict)}")
    approve_run(run, "Prefect")


def _expected(run: Run, verdict: Verdict) -> str:
    limit = run.job.budget.approval_usd
    assert limit is not None  # noqa: S101 - it asked
    return f"expected {dollars(verdict.expected)} is above budget.approval_usd = {dollars(nano_of(limit))}"


def _ask(run: Run, verdict: Verdict) -> Approval:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise NotApproved(f"{_expected(run, verdict)}, and nobody can be asked outside of a flow")
    deployed = context.flow_run.deployment_id is not None
    waits = "suspended" if deployed else "paused"
    asked = {"asked_at": datetime.now(UTC).isoformat(timespec="seconds"), "waits": waits}
    DISK.write_own(approval_path(run), {**asked, "flow_run_id": str(context.flow_run.id)})
    tell("approval.requested", run.job, run_id=run.run_id, message=_expected(run, verdict))
    text = f"**{escape(run.job.name)}** waits for your approval: {escape(_expected(run, verdict))}.\n\n"
    asking = Approval.with_initial_data(description=text + estimate_table(run.estimate))
    seconds = timeout_s()
    try:
        if deployed:
            answer: Any = suspend_flow_run(wait_for_input=asking, timeout=seconds, key=KEY)
        else:
            answer = pause_flow_run(wait_for_input=asking, timeout=seconds, poll_interval=POLL_S, key=KEY)
    except FlowPauseTimeout:
        raise NotApproved(silence(_expected(run, verdict))) from None
    return Approval(approve=answer.approve)


def _earlier_answer(run: Run) -> Approval | None:
    """The answer to a process that asked for this run and is gone."""
    asked = read_json(approval_path(run))
    context = FlowRunContext.get()
    if asked is None or "flow_run_id" not in asked:
        return None
    if context is not None and context.flow_run is not None and str(context.flow_run.id) == asked["flow_run_id"]:
        return None  # this one is resumed: asking again gives its answer
    with get_client(sync_client=True) as client:
        try:
            keys = keyset_from_base_key(f"{asked['waits']}-{KEY}")
            value = client.read_flow_run_input(flow_run_id=UUID(asked["flow_run_id"]), key=keys["response"])
        except Exception:  # noqa: BLE001 - another server, or no answer: then it is asked for here
            return None
    return Approval.model_validate_json(value) if value else None
