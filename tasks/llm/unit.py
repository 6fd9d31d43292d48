"""A unit of work: ordered steps, each of which is one request. Today's unit is one row with one step.

A step may need the answers of the steps before it: it is rendered just before it is sent. Its key is known while
planning, since it derives from the key of the step before (`prompts.request.chain_key`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from parquill.tasks.errors import DiskFailed
from parquill.tasks.llm.reply_reader import Result
from parquill.tasks.llm.shard_report import Waiting
from parquill.tasks.records import NO_CHARGE, Charge, Outcome
from parquill.tasks.storage.journal import Journal
from parquill.tasks.storage.replay import RowState, ShardState


@dataclass(slots=True)
class OpenShard:
    """A shard that is being completed: its journal and its state so far.

    `over_budget` counts the steps that did not fit the budget; `waiting` is what its open steps wait for.
    """

    journal: Journal
    state: ShardState
    over_budget: int = 0
    waiting: list[Waiting] = field(default_factory=list)


@dataclass(slots=True)
class Step:
    """One request to send; money in nano-dollars. `tokens` are reserved: the input with its allowance, and all output.

    `worst_nano` is the most that it can cost at the run's price; `reserve_nano` is what its latest request reserves.
    `number` is its planned row in the shard, under which the journal records it. `render` writes the messages from the
    outcomes of the unit's earlier steps; None if they are fixed.
    """

    shard: OpenShard
    number: int
    key: str
    messages: str
    parameters: str | None
    tokens: int
    worst_nano: int
    expected_tokens: float = 0.0  # of the prompt, as the service is expected to report it
    prior: Charge = NO_CHARGE
    render: Callable[[Sequence[Outcome]], str] | None = None
    state: RowState = field(default_factory=RowState)
    unreadable: int = 0
    throttled_since: float | None = None
    refused: Result | None = None  # a request that was refused for the name of max_output_tokens only
    reserve_nano: int = field(init=False)

    def __post_init__(self) -> None:
        self.reserve_nano = self.worst_nano

    @property
    def outcome(self) -> Outcome | None:
        """The step's outcome; None while it has none."""
        return self.shard.state.outcomes.get(self.number)

    @property
    def is_first_try(self) -> bool:
        """Whether its latest request is its first one, also counting earlier runs and starts.

        A request that was refused for the name of max_output_tokens does not count.
        """
        # promise: refusals: a refusal that follows a refused limit name counts as evidence
        return self.state.requests == 1 + (self.refused is not None) and self.prior.attempts == 0

    def uncharge(self) -> None:
        """Give the step one attempt back, since the failure hit every row."""
        if self.outcome is not None:
            return
        self.state.failures -= 1
        with contextlib.suppress(DiskFailed):  # the lane gets the same error at its next record
            self.shard.journal.append({"type": "uncharge", "row": self.number})


@dataclass(frozen=True, slots=True)
class Unit:
    """Steps of one shard that are completed in order. Units are independent of each other."""

    steps: Sequence[Step]

    def next_step(self) -> Step | None:
        """Return the step to send next, rendered; None if all have an outcome, or the latest one holds no answer."""
        earlier: list[Outcome] = []
        for step in self.steps:
            outcome = step.outcome
            if outcome is None:
                if step.render is not None:
                    step.messages = step.render(earlier)
                return step
            # promise: units: a step is not sent after one without an answer
            if outcome.completion is None:
                return None
            earlier.append(outcome)
        return None

    @property
    def open_steps(self) -> int:
        """How many steps have no outcome."""
        return sum(step.outcome is None for step in self.steps)

    @property
    def size(self) -> int:
        """Characters of the messages that are in memory now."""
        return sum(len(step.messages) for step in self.steps)


# Reads the units of one shard from the start; a lane may read them more than once.
Units = Callable[[], AsyncIterator[Unit]]
