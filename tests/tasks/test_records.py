"""Charges are stored and added up without loss."""

from __future__ import annotations

from dataclasses import asdict

import orjson
from hypothesis import given
from hypothesis import strategies as st

from parquill.tasks.records import NO_CHARGE, Charge, Outcome, Usage, to_json

_counts = st.sampled_from([0, 1, 7])
_usages = st.none() | st.builds(Usage, _counts, _counts, _counts, _counts, _counts)
_charges = st.builds(Charge, _counts, _counts, _counts, _usages)


@given(_charges)
def test_a_stored_charge_is_read_again(charge: Charge) -> None:
    """A charge comes back from JSON as it was, also if it has only requests or only money in doubt."""
    assert Charge.of(orjson.loads(orjson.dumps(asdict(charge), default=to_json))) == charge
    assert Charge.of(None) == NO_CHARGE


@given(_charges, _usages, _usages)
def test_the_total_of_a_row_has_all_of_it(prior: Charge, usage: Usage | None, failed: Usage | None) -> None:
    """The total of a row is its own cost, that of its failed requests, and that of earlier runs."""
    outcome = Outcome(
        0, "k", "ok", usage=usage, failed_usage=failed, cost_nano=5, in_doubt_nano=3, attempts=2, prior=prior
    )
    total = outcome.total
    assert (total.cost_nano, total.in_doubt_nano) == (5 + prior.cost_nano, 3 + prior.in_doubt_nano)
    assert total.attempts == 2 + prior.attempts
    known = [each for each in (usage, failed, prior.usage) if each is not None]
    assert total.usage == (sum(known, Usage()) if known else None)
