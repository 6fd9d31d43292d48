"""The pilot of a first run, in its flow."""

from __future__ import annotations

from prefect import get_run_logger

from parquill.tasks.llm.first_pilot import complete_first_pilot, may_need_pilot, needs_pilot, pilot_must_ask
from parquill.tasks.orchestration.approval import wait_for_approval
from parquill.tasks.orchestration.flow_run import stop_when_cancelled
from parquill.tasks.orchestration.run_log import run_log
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import read_standing


def pilot_first(run: Run) -> Run:
    """Return the run, with the estimate of a pilot if the gate would refuse it for its worst case.

    Waits for approval before a pilot that may exceed `budget.approval_usd` by itself. Raises NotApproved, Interrupted,
    ServiceStopped, StoppedByBudget.
    """
    if not may_need_pilot(run):
        return run
    standing = read_standing(run)
    if not needs_pilot(run, standing):
        return run
    if pilot_must_ask(run, standing):
        # promise: P4 a pilot that needs approval waits for it
        wait_for_approval(run, standing)
    run, message = complete_first_pilot(run, stop_when_cancelled, run_log())
    get_run_logger().info(message)
    return run
