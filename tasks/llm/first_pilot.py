"""The pilot of a first run (`budget.pilot: auto`): it tells what the run costs when the worst case does not fit.

Without earlier answers only the worst case is known, which may be several times the true cost. So before the gate
refuses such a run, a pilot completes a sample for at most 1 % of the budget, and the gate decides on what it learned.
The pilot is the beginning of the run: the same run id, the same budget, and its rows are not paid for again. With
`when_short: partial` the gate refuses nothing, so there is no pilot.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from parquill.tasks.errors import RefusedByBudget
from parquill.tasks.money.amounts import usd_to_nano
from parquill.tasks.money.length_model import MIN_ANSWERS
from parquill.tasks.prompts.approvals import is_approved
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import Standing

if TYPE_CHECKING:
    from parquill.tasks.limits.lease_client import LogFn
    from parquill.tasks.llm.run_sender import RunSender


def may_need_pilot(run: Run) -> bool:
    """Whether a pilot may find out what the run really costs, if the gate would refuse it for its worst case."""
    budget = run.job.budget
    # promise: gate: with `budget.pilot: never` no pilot is completed
    # promise: gate: a run with `when_short: partial` completes no pilot
    return budget.pilot == "auto" and budget.when_short == "refuse" and run.estimate.is_worst_case


def needs_pilot(run: Run, standing: Standing) -> bool:
    """Whether the gate would refuse the run for its worst case, and a pilot may find out what it really costs."""
    return may_need_pilot(run) and not standing.verdict.fits and standing.verdict.left > 0


def pilot_must_ask(run: Run, standing: Standing) -> bool:
    """Whether a person must approve the run before its pilot: the pilot alone may exceed `budget.approval_usd`."""
    from parquill.tasks.llm.pilot import most_of_auto  # imports the HTTP client

    limit = run.job.budget.approval_usd
    return limit is not None and not is_approved(run) and most_of_auto(run, standing).nano > usd_to_nano(limit)


def complete_first_pilot(
    run: Run,
    watch: Callable[[RunSender], AbstractContextManager[Any]] = nullcontext,
    log: LogFn | None = None,
) -> tuple[Run, str]:
    """Complete the pilot of a run that needs one; return the run with its new estimate, and a sentence for people.

    If even a pilot does not fit, nothing is sent and the run is returned as it is. Raises like `run_pilot`.
    """
    from parquill.tasks.llm.pilot import run_pilot

    try:
        pilot = run_pilot(run, None, least=MIN_ANSWERS, watch=watch, log=log)
    except RefusedByBudget as refused:
        return run, f"no pilot was run: {refused}"
    return pilot.run, pilot.sentence
