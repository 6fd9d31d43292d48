"""Approval: a run whose expected cost is above `budget.approval_usd` waits for a person, who sees the estimate.

A deployed run is suspended: its process ends, and after the answer the worker starts it again. Any other run pauses:
its process waits for the answer. Each question has its own key, saved with the plan before the question is asked: a run
that resumes the plan finds the answer by that key. A new plan, or one that has become more expensive, is asked about
again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from functools import partial
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout, Pause, PrefectHTTPStatusError
from prefect.flow_runs import apause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import acreate_flow_run_input, create_flow_run_input
from prefect.input.run_input import Keyset, keyset_from_base_key
from pydantic import ConfigDict, Field

from parquill.tasks.errors import BadJob, NotApproved
from parquill.tasks.money.gate import Verdict, approval_sentence, asks_approval
from parquill.tasks.orchestration.artifacts import estimate_table
from parquill.tasks.orchestration.events import emit
from parquill.tasks.orchestration.flow_run import retry_while_unavailable, wait_unless_cancelled
from parquill.tasks.prompts.approvals import (
    Question,
    approve_run,
    forget_question,
    is_approved,
    note_question,
    now,
    questions_about,
)
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import Standing
from parquill.tasks.results.escaping import escape

KEY = "approval"  # the keys of all questions begin with this
AGAIN = "Run again to be asked again"
ASKS = "waits for your approval: "
TIMEOUT = "PARQUILL_APPROVAL_TIMEOUT_S"
DAY_S = 86_400
MAX_TIMEOUT_S = 3_650 * DAY_S
POLL_INTERVAL_S = 2  # between polls of the server while a run waits


class Approval(RunInput):
    """The answer to a question for approval; Prefect's UI shows it as a form."""

    # Off by default: a careless Submit must not spend money. Prefect does not keep an empty answer, so `approve` is
    # required: an empty answer is refused.
    # promise: P4 an empty answer is refused, not taken as approval
    model_config = ConfigDict(json_schema_extra={"required": ["approve"]})
    approve: bool = Field(default=False, description="Switch this on to spend the money; off declines")

    # Prefect stores the form, then its text, and refuses what it already has. After a lost reply both are tried again.
    @classmethod
    def save(cls, keyset: Keyset, flow_run_id: UUID | None = None) -> None:
        """Store the form and its text, in whichever part the server lacks them."""
        with _unless_stored():
            super().save(keyset, flow_run_id)
        with _unless_stored():
            create_flow_run_input(keyset["description"], cls._description, flow_run_id)

    @classmethod
    async def asave(cls, keyset: Keyset, flow_run_id: UUID | None = None) -> None:
        """Store the form and its text, in whichever part the server lacks them."""
        with _unless_stored():
            await super().asave(keyset, flow_run_id)
        with _unless_stored():
            await acreate_flow_run_input(keyset["description"], cls._description, flow_run_id)


@contextlib.contextmanager
def _unless_stored() -> Iterator[None]:
    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code != httpx.codes.CONFLICT:
            raise


def timeout_s() -> int:
    """Return the seconds that a run waits for an answer. Raises BadJob if PARQUILL_APPROVAL_TIMEOUT_S is not valid."""
    text = os.environ.get(TIMEOUT, str(DAY_S)).strip()
    seconds = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_TIMEOUT_S)) else 0
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise BadJob(f"{TIMEOUT} is {text!r}; it must be a whole number of seconds from 1 to {MAX_TIMEOUT_S}")
    return seconds


def timeout_message(about: str) -> str:
    """Return the message of a run that got no answer in time."""
    return f"not approved within {timeout_s():,} seconds: {about}"


def wait_for_approval(run: Run, standing: Standing) -> None:
    """Return if the run needs no approval, or once a person approves it; call this in the flow itself.

    Raises NotApproved if it is declined or not answered within PARQUILL_APPROVAL_TIMEOUT_S (default a day); BadJob if
    that is not a number of seconds; Interrupted if the run is cancelled meanwhile.
    """
    verdict = standing.verdict
    if not asks_approval(run.job, verdict) or is_approved(run):
        return
    # promise: P4 an approval question that was answered is not asked again
    question, answer = _earlier_answer(run) or _ask(run, verdict, timeout_s())
    # promise: P4 a declined approval stops the run
    if not answer.approve:
        forget_question(run, question)
        raise NotApproved(f"declined: {approval_sentence(run.job, verdict)}")
    # promise: P4 an approval records the cost that was shown
    approve_run(run, "Prefect", question.expected)


def _ask(run: Run, verdict: Verdict, seconds: int) -> tuple[Question, Approval]:
    context, why = FlowRunContext.get(), approval_sentence(run.job, verdict)
    if context is None or context.flow_run is None:
        raise NotApproved(f"{why}, and no one can be asked outside a flow")
    deployed = context.flow_run.deployment_id is not None
    text = f"**{escape(run.job.name)}** {ASKS}{escape(why)}.\n\n"
    asking = Approval.with_initial_data(description=text + estimate_table(run.estimate))
    waits = "suspended" if deployed else "paused"
    # Prefect answers a second question with the same key from the first, or refuses it
    # promise: P4 each approval question has its own key
    key = f"{KEY}-{run.run_id}-{secrets.token_hex(4)}"
    keyset = keyset_from_base_key(f"{waits}-{key}")
    question = Question(str(context.flow_run.id), waits, key, run.estimate.expected_nano, now())
    note_question(run, question)
    emit("approval.requested", run.job, run_id=run.run_id, message=why)
    try:
        if deployed:
            _suspend(asking, keyset, seconds, key)
        else:
            pause = partial(
                apause_flow_run, wait_for_input=asking, timeout=seconds, poll_interval=POLL_INTERVAL_S, key=key
            )
            wait_unless_cancelled(pause, partial(asking.asave, keyset))
    except FlowPauseTimeout:
        raise NotApproved(timeout_message(why)) from None
    except httpx.HTTPError:
        raise NotApproved(f"Prefect's server did not accept the question: {why}. {AGAIN}") from None
    # only a person's answer counts: without one, Prefect would return the form's default
    answer = _answer_to(question)
    # promise: P4 a run without an answer is not approved
    if answer is None:
        raise NotApproved(f"Prefect's server has no answer: {why}. {AGAIN}")
    return question, answer


def _suspend(asking: type[Approval], keyset: Keyset, seconds: int, key: str) -> None:
    """Suspend the run, which ends its process. Raises Pause once the server has the question.

    When the run is suspended, the server drops what it has under a question's keys, so the form is stored after that.
    If the server's reply to the suspension is lost, Prefect raises Pause without storing the form.
    """
    try:
        retry_while_unavailable(lambda: suspend_flow_run(wait_for_input=asking, timeout=seconds, key=key))
    except Pause:
        # promise: approval: a question is stored even if the reply to the suspension is lost
        retry_while_unavailable(lambda: asking.save(keyset))
        raise


def _earlier_answer(run: Run) -> tuple[Question, Approval] | None:
    """Return the answer to a question about this plan: this flow run's own, or a yes to another flow run.

    A no ends only the flow run that asked; the next start of the job asks again.
    """
    context = FlowRunContext.get()
    mine = str(context.flow_run.id) if context is not None and context.flow_run is not None else None
    # promise: P4 a flow run's own answer takes precedence over others
    for question in sorted(questions_about(run), key=lambda each: each.flow_run_id != mine):
        answer = _answer_to(question)
        # promise: P4 a decline in another flow run does not count as an answer
        if answer is not None and (answer.approve or question.flow_run_id == mine):
            return question, answer
    return None


def _answer_to(question: Question) -> Approval | None:
    """Return the answer to a question; None if there is none, or if another server has it."""
    with get_client(sync_client=True) as client:
        try:
            key = keyset_from_base_key(f"{question.waits}-{question.key}")["response"]
            value = client.read_flow_run_input(flow_run_id=UUID(question.flow_run_id), key=key)
        except Exception:  # noqa: BLE001 - whatever the error is, there is no approval
            return None
    return Approval.model_validate_json(value) if value else None
