"""`parquill reconcile` on files, with a ledger that has money of which nothing more is known."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from parquill.flows.cli.reconcile import find_difference
from parquill.tasks.money.ledger import Ledger
from tests.tools.ledger_machine import entry

MAY, JUNE = datetime(2026, 5, 15, tzinfo=UTC), datetime(2026, 6, 15, tzinfo=UTC)


def test_money_that_cannot_be_compared_does_not_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A month in which the ledger has money that cannot be compared does not match, even if nothing else differs."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    costs = tmp_path / "costs.csv"
    costs.write_text('start_time,amount_value,line_item,api_key_id\n1779000000,1.00,"m, input",key_other\n')
    keys = {"OPENAI_API_KEY": "key_1"}
    found = find_difference(None, "2026-05", [costs], keys, Decimal(1), JUNE)
    assert found["matches"] is True
    assert found["notes"][0].startswith("the ledger has nothing of 2026-05 at https://api.openai.com/v1: if runs were")
    with Ledger() as ledger:
        run = replace(entry("a"), started_at=MAY, endpoint="https://api.openai.com/v1")
        ledger.open_run(run, 100, 0, 0, MAY)
    found = find_difference(None, "2026-05", [costs], keys, Decimal(1), JUNE)
    assert (found["matches"], found["not_compared_usd"]) == (False, "0.000000100")
    assert [line["state"] for line in found["lines"]] == ["other"]
