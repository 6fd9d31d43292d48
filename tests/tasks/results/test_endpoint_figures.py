"""What the summary has for each endpoint."""

from __future__ import annotations

from parquill.tasks.records import Totals, Use, UseKey
from parquill.tasks.results.summary import endpoints_json


def test_requests_before_there_were_several_endpoints() -> None:
    """Requests of an earlier start with one endpoint are added to those of the first one; nothing is left out."""
    uses = {
        UseKey(1, "m", "live"): Use(sent=2, settled_nano=5),
        UseKey(1, "m", "live", "a"): Use(sent=1, settled_nano=7),
        UseKey(2, "m", "live", "b"): Use(sent=4, settled_nano=11),
    }
    found = endpoints_json(["a", "b", "c"], Totals(uses=uses))
    assert {label: (each["requests"], each["cost_usd"]) for label, each in found.items()} == {
        "a": (3, "0.000000012"),
        "b": (4, "0.000000011"),
        "c": (0, "0.000000000"),
    }
