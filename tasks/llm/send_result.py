"""What a run's sender says at its end."""

from __future__ import annotations

from dataclasses import dataclass

from parquill.tasks.errors import Interrupted
from parquill.tasks.llm.run_sender import RunSender


@dataclass(frozen=True, slots=True)
class SendResult:
    """What the sender says at its end.

    `rule` is the outcome by which the service stopped the run, if it did, and `message` says why.
    """

    over_budget: int = 0
    rule: str | None = None
    message: str | None = None

    @classmethod
    def of(cls, run_sender: RunSender) -> SendResult:
        """Read it off a sender that has nothing more under way. Raises Interrupted if it was asked to stop."""
        sender = run_sender.sender
        if sender.stopping and sender.stop_rule is None:
            left = sender.progress.total - sender.progress.done
            raise Interrupted(f"interrupted with {left:,} rows left; run again to go on")
        rule = sender.stop_rule
        return (
            cls(sender.over_budget, rule.code, sender.stop_message or rule.sentence)
            if rule
            else cls(sender.over_budget)
        )

    @property
    def is_stop(self) -> bool:
        """Whether rows were left that a next start goes on with."""
        return bool(self.over_budget) or self.rule is not None
