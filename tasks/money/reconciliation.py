"""Compares the ledger with what the service says it counted and charged, by day, model, lane and key.

Services split their figures differently. Lanes are compared apart only if the service's costs name them, and keys only
if it is known which of its keys is which. A model with a date in its name counts as the model without it.

The days of a row may differ by one: the ledger has the day on which a request ended, by the clock of its machine. So
whole months are judged, and days only explain a difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple

from parquill.tasks.job.lanes import LaneName
from parquill.tasks.money.amounts import usd_to_nano
from parquill.tasks.money.ledger_uses import BilledUse
from parquill.tasks.money.shutdowns import without_date

State = Literal["matched", "in_doubt", "late", "other", "price", "more_there", "less_there", "only_here", "only_there"]
# States that need nothing done. `other` is what other programs used; `late` may still change at the service.
AGREEING: frozenset[State] = frozenset({"matched", "in_doubt", "late", "other"})
NO_KEY = "(no key)"  # of what a service counted without one
MAX_STEP_USD = Decimal("0.01")  # services round to cents, if at all


class CountedUse(NamedTuple):
    """Requests and tokens that a service counted on a UTC day; `key` is the service's id of the key, if known.

    `lane` is None if the figures are not split by lane.
    """

    day: str
    model: str
    lane: LaneName | None
    key: str | None
    requests: int
    prompt_tokens: int
    completion_tokens: int


class ServiceCost(NamedTuple):
    """What a service charged on a UTC day for a model; `lane` is None if the entry names none."""

    day: str
    model: str
    lane: LaneName | None
    key: str | None
    usd: Decimal


class Place(NamedTuple):
    """What is compared: a model in a lane (or several, `batch+live`) with a key. `key` is None if keys are not."""

    model: str
    lane: str
    key: str | None


@dataclass(slots=True)
class Amounts:
    """Both sides of a comparison: money in nano-dollars, requests, tokens."""

    settled_nano: int = 0
    in_doubt_nano: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    service_nano: int = 0
    service_requests: int = 0
    service_prompt_tokens: int = 0
    service_completion_tokens: int = 0
    rounding_nano: int = 0  # by which `service_nano` may be off since the service rounds

    def add(self, other: Amounts) -> None:
        """Add other amounts."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def tokens(self) -> int:
        """All tokens by the ledger."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def service_tokens(self) -> int:
        """All tokens by the service."""
        return self.service_prompt_tokens + self.service_completion_tokens

    @property
    def is_here(self) -> bool:
        """Whether the ledger has anything."""
        return bool(self.settled_nano or self.in_doubt_nano or self.requests)

    @property
    def is_there(self) -> bool:
        """Whether the service has anything."""
        return bool(self.service_nano or self.service_requests or self.service_tokens)


class Line(NamedTuple):
    """One comparison; `day` is None for a whole month."""

    day: str | None
    place: Place
    amounts: Amounts
    state: State


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The comparison of a month: a line for each model, lane and key, and one for each day that does not match."""

    has_costs: bool
    has_uses: bool
    has_keys: bool
    lines: list[Line]
    days: list[Line]
    is_doubt_final: bool = True  # whether the service has all figures of the days with something in doubt

    @property
    def is_matching(self) -> bool:
        """Whether no line shows a difference."""
        return all(line.state in AGREEING for line in self.lines)

    @property
    def own(self) -> Amounts:
        """The sum of all lines without those of other programs."""
        whole = Amounts()
        for line in self.lines:
            if line.state != "other":
                whole.add(line.amounts)
        return whole

    @property
    def others_nano(self) -> int:
        """What other programs cost, in nano-dollars."""
        return sum(line.amounts.service_nano for line in self.lines if line.state == "other")

    @property
    def was_doubt_billed(self) -> bool | None:
        """Whether the service billed what is in doubt, or a part of it; None if that cannot be told.

        The numbers of requests tell it, since costs may differ a little for other reasons.
        """
        doubtful = [line for line in self.lines if line.amounts.in_doubt_nano]
        is_clear = all(line.state in {"matched", "in_doubt"} for line in doubtful)
        if not (doubtful and self.has_costs and self.has_uses and self.is_doubt_final and is_clear):
            return None
        more = [line.amounts.service_requests - line.amounts.requests for line in doubtful]
        # promise: reconcile: what is in doubt is called unbilled only if the service counted no more requests
        return any(count > 0 for count in more) if min(more) >= 0 else None


@dataclass(slots=True)
class _Table:
    """The amounts of each place and day."""

    cells: dict[tuple[Place, str], Amounts] = field(default_factory=lambda: defaultdict(Amounts))

    def lanes(self, model: str, key: str | None) -> set[str]:
        """Return the lanes of a model and a key."""
        return {place.lane for place, _ in self.cells if (place.model, place.key) == (model, key)}

    def join_lanes(self, model: str, key: str | None, lanes: Iterable[str]) -> None:
        """Compare the lanes of a model as one, since the service's costs do not tell which lane they are of."""
        joined = "+".join(sorted(lanes))
        for place, day in list(self.cells):
            if (place.model, place.key) == (model, key) and place.lane != joined:
                self.cells[place._replace(lane=joined), day].add(self.cells.pop((place, day)))


def reconcile(
    here: Sequence[BilledUse],
    uses: Sequence[CountedUse] | None,
    costs: Sequence[ServiceCost] | None,
    *,
    keys: Mapping[str, str],
    final_before: str,
    tolerance_percent: Decimal,
) -> Reconciliation:
    """Compare the ledger's uses with those of the service; `uses` or `costs` may be unknown, but not both.

    `keys` gives for names of keys in `here` the service's id of the key; keys are compared only if it has all names.
    The figures of days from `final_before` on may still grow. `tolerance_percent` is of what the ledger has.
    """
    has_keys = (
        bool(keys)
        and {use.key for use in here} <= set(keys)
        and all(any(each.key for each in figures) for figures in (uses, costs) if figures)
    )
    names = {identity: name for name, identity in sorted(keys.items(), reverse=True)} if has_keys else None

    def label(identity: str | None) -> str | None:
        # promise: reconcile: what the service counted without a key is not of a key of ours
        return None if names is None else names.get(identity or "", identity or NO_KEY)

    table = _Table()
    for use in here:
        place = Place(without_date(use.model), use.lane, None if names is None else label(keys[use.key]))
        table.cells[place, use.day].add(
            Amounts(use.settled_nano, use.in_doubt_nano, use.requests, use.prompt_tokens, use.completion_tokens)
        )
    for counted in uses or ():
        model, key = without_date(counted.model), label(counted.key)
        lane: str = counted.lane or "live"
        if counted.lane is None and (known := table.lanes(model, key)):
            table.join_lanes(model, key, known)
            lane = "+".join(sorted(known))
        cell = table.cells[Place(model, lane, key), counted.day]
        cell.service_requests += counted.requests
        cell.service_prompt_tokens += counted.prompt_tokens
        cell.service_completion_tokens += counted.completion_tokens
    _add_costs(table, costs or (), label)
    judge = _Judge(
        known_models={without_date(use.model) for use in here},
        known_keys=None if names is None else set(names.values()),
        has_costs=costs is not None,
        has_uses=uses is not None,
        share=tolerance_percent / 100,
    )

    def lacks(amounts: Amounts, day: str) -> int:
        """Return what the service may still add to a day."""
        return max(0, -judge.difference(amounts)) if day >= final_before else 0

    whole: dict[Place, Amounts] = defaultdict(Amounts)
    late: dict[Place, int] = defaultdict(int)
    for (place, day), amounts in table.cells.items():
        whole[place].add(amounts)
        late[place] += lacks(amounts, day)
    lines = [
        Line(None, place, whole[place], judge.state(place, whole[place], late[place]))
        for place in sorted(whole, key=str)
    ]
    days = [
        Line(day, place, amounts, state)
        for (place, day), amounts in sorted(table.cells.items(), key=lambda cell: (cell[0][1], str(cell[0][0])))
        if (state := judge.state(place, amounts, lacks(amounts, day))) not in {"matched", "other"}
    ]
    is_doubt_final = all(day < final_before for (_, day), amounts in table.cells.items() if amounts.in_doubt_nano)
    return Reconciliation(costs is not None, uses is not None, has_keys, lines, days, is_doubt_final)


def _add_costs(table: _Table, costs: Sequence[ServiceCost], label: Callable[[str | None], str | None]) -> None:
    """Add what the service charged; lanes that its entries do not tell apart are joined."""
    # promise: reconcile: no more is taken for rounding than half a cent for each entry
    half_nano = usd_to_nano(min(_step(costs), MAX_STEP_USD) / 2)
    entries: dict[tuple[str, str | None], list[ServiceCost]] = defaultdict(list)
    for cost in costs:
        entries[without_date(cost.model), label(cost.key)].append(cost)
    for (model, key), found in entries.items():
        known = table.lanes(model, key)
        named = {cost.lane or "live" for cost in found}
        only: str | None = None
        # promise: reconcile: costs that do not name their lane are compared with all lanes together
        if known and named != known:
            table.join_lanes(model, key, known)
            only = "+".join(sorted(known))
        for cost in found:
            cell = table.cells[Place(model, only or cost.lane or "live", key), cost.day]
            cell.service_nano += usd_to_nano(cost.usd)
            cell.rounding_nano += half_nano


def _step(costs: Iterable[ServiceCost]) -> Decimal:
    """Return the smallest amount by which the service's costs differ: it rounds them to as many decimals."""
    exponents = [int(cost.usd.normalize().as_tuple().exponent) for cost in costs]  # amounts are finite
    return Decimal(1).scaleb(least) if (least := min(exponents, default=0)) < 0 else Decimal(0)


@dataclass(frozen=True, slots=True)
class _Judge:
    known_models: set[str]
    known_keys: set[str] | None
    has_costs: bool
    has_uses: bool
    share: Decimal

    def difference(self, amounts: Amounts) -> int:
        """Return how much more the service has than the ledger: in nano-dollars, or in tokens without its costs."""
        if self.has_costs:
            return amounts.service_nano - amounts.settled_nano
        return amounts.service_tokens - amounts.tokens

    def state(self, place: Place, amounts: Amounts, late: int) -> State:
        """Judge a comparison; `late` is what the service may still add."""
        if self._is_other(place):
            return "other"
        # what the service may still add is no difference; what it has too much is one, even if as much is late
        more, known = self.difference(amounts) + late, amounts.settled_nano if self.has_costs else amounts.tokens
        tolerated = int(self.share * known) + (amounts.rounding_nano if self.has_costs else 0)
        state: State = "more_there" if more > 0 else "less_there"
        # promise: reconcile: figures of the last hours that are missing at the service are late, not wrong
        if abs(more) <= tolerated:
            state = "late" if late > tolerated else "matched"
        # promise: reconcile: a difference within what is in doubt is explained by it
        elif self.has_costs and 0 < more <= amounts.in_doubt_nano + tolerated:
            state = "in_doubt"
        elif not amounts.is_there:
            state = "only_here"
        elif not amounts.is_here:
            state = "only_there"
        elif self.has_costs and self.has_uses and self._do_tokens_agree(amounts):
            state = "price"
        return state

    def _is_other(self, place: Place) -> bool:
        # promise: reconcile: what a key of another program used is no difference
        if self.known_keys is not None:
            return place.key not in self.known_keys
        return place.model not in self.known_models

    def _do_tokens_agree(self, amounts: Amounts) -> bool:
        pairs = (
            (amounts.prompt_tokens, amounts.service_prompt_tokens),
            (amounts.completion_tokens, amounts.service_completion_tokens),
        )
        return all(abs(there - here) <= self.share * here for here, there in pairs)
