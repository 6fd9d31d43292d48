"""The totals of the result rows: by status, by error, by `for_each` value; tokens and money."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from parquill.tasks.llm.finish_reasons import unknown_name
from parquill.tasks.money.calibration import CountComparison
from parquill.tasks.money.length_stats import History
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.records import STATUSES, Usage
from parquill.tasks.results.overview import Overview
from parquill.tasks.results.result_batch import ShownRow

LISTED = 20
ForEachValues = tuple[str, ...]  # a row's values of the `for_each` names, in the job's order


@dataclass(slots=True)
class Group:
    """The rows of one `for_each` value, what this run paid for them, and the answers that it paid for."""

    rows: int = 0
    ok: int = 0
    cost_nano: int = 0
    answers: int = 0
    answer_tokens: int = 0

    @property
    def mean_answer_tokens(self) -> float | None:
        """The mean length of the answers in tokens; None without answers."""
        return round(self.answer_tokens / self.answers, 1) if self.answers else None


@dataclass(slots=True)
class ResultTotals:
    """The totals of the result rows; money in nano-dollars, tokens and money of this run's rows only."""

    rows: dict[str, int] = field(default_factory=lambda: {"total": 0, **dict.fromkeys(STATUSES, 0), "reused": 0})
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Usage._fields, 0))
    cost_nano: int = 0
    in_doubt_nano: int = 0
    saved_nano: int = 0
    usage_unknown: int = 0
    usage_flags: dict[str, int] = field(default_factory=dict)  # why the usage of a reply does not add up -> rows
    over_reserved: Counter[str] = field(default_factory=Counter)  # why replies cost more than reserved -> rows
    prompts_cut_at: dict[str, int] = field(default_factory=dict)  # tokens that the server read of a prompt -> rows
    unknown_finish_reasons: dict[str, int] = field(default_factory=dict)  # of rows that are ok -> rows
    price_as: ModelPrice | None = None
    price_as_femto: int = 0  # what the same rows would have cost at the price of `price_as`
    failed_in_doubt: int = 0  # rows that `retry.in_doubt: hold` does not try again
    history: History = field(default_factory=History)  # lengths of the answers that this run paid for
    compared: CountComparison = field(
        default_factory=CountComparison
    )  # counted and reported prompt tokens of these answers
    errors: dict[str, int] = field(default_factory=dict)
    lanes: dict[str, Group] = field(default_factory=dict)
    groups: dict[str, dict[str, Group]] = field(default_factory=dict)  # by `for_each` name and its value
    overview: Overview | None = None  # None before the results are written

    @property
    def first_failure(self) -> ShownRow | None:
        """The first row that is not ok, in the order of the results; None if all are ok."""
        failures = {} if self.overview is None else self.overview.failures
        return next((rows[0] for rows in failures.values()), None)

    def add(self, line: dict[str, Any], each: ForEachValues, names: Sequence[str], run_id: str) -> None:
        """Count a line of the results with its values of the `for_each` names; money is that of run `run_id`."""
        # also for a row that reuses an answer: its own earlier requests may be in doubt
        status, is_own = line["status"], line["run_id"] == run_id
        cost_nano = stored_nano(line, "cost") if is_own else 0
        self.rows["total"] += 1
        self.rows[status] += 1
        self.rows["reused"] += bool(line["reused"])
        if is_own:
            self._add_paid(line, cost_nano)
        self.failed_in_doubt += line.get("in_doubt", False)
        if status == "ok" and (name := unknown_name(line["finish_reason"])) is not None:
            _count(self.unknown_finish_reasons, name)
        if status != "ok":
            self.errors[line["error_code"]] = self.errors.get(line["error_code"], 0) + 1
        for name, value in zip(names, each, strict=True):
            group = self.groups.setdefault(name, {}).setdefault(value, Group())
            group.rows += 1
            group.ok += status == "ok"
            group.cost_nano += cost_nano
            if is_own and not line["reused"] and line["completion"] is not None:
                group.answers += 1
                group.answer_tokens += line["completion_tokens"] or 0

    def _add_paid(self, line: dict[str, Any], cost_nano: int) -> None:
        self.cost_nano += cost_nano
        self.in_doubt_nano += stored_nano(line, "in_doubt")
        for kind in self.tokens:
            self.tokens[kind] += line[f"{kind}_tokens"] or 0
        self.usage_unknown += line.get("usage_unknown", False)
        if (flag := line.get("usage_flag")) is not None:
            self.usage_flags[flag] = self.usage_flags.get(flag, 0) + 1
        if line["error_code"] == "prompt_cut" and (read := line.get("read_tokens")) is not None:
            _count(self.prompts_cut_at, str(read))
        if self.price_as is not None and line["prompt_tokens"]:
            usage = Usage(*(line[f"{kind}_tokens"] or 0 for kind in Usage._fields))
            self.price_as_femto += self.price_as.femto(usage)
        if (lane := line.get("lane")) is not None and not line["reused"]:
            bought = self.lanes.setdefault(lane, Group())
            bought.rows += 1
            bought.cost_nano += cost_nano


def _count(names: dict[str, int], name: str) -> None:
    """Count a name that the service chose; beyond LISTED names, as 'others'."""
    if name not in names and len(names) >= LISTED:
        name = "others"
    names[name] = names.get(name, 0) + 1


def stored_nano(line: dict[str, Any], name: str) -> int:
    """Return a line's nano-dollars, from its own figure or that of the kept row."""
    kept = line.get(f"{name}_usd")
    return int(kept.scaleb(9)) if kept is not None else int(line[f"{name}_nano"])
