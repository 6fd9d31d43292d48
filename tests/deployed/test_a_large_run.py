"""A run of a hundred thousand rows, by the real command."""

from __future__ import annotations

import random
from decimal import Decimal

import orjson
import pyarrow.compute as pc
import pytest

from tests.tools.expected import billed_usd
from tests.tools.jobs import Jobs

pytestmark = pytest.mark.nightly


def test_sums_of_a_hundred_thousand_rows_are_exact(jobs: Jobs) -> None:
    """For 100,000 rows at 256 at once, the rows' costs, the summary, the ledger and the bill agree to the last digit.
    Each row is paid once.
    """
    draw = random.Random(5)
    texts = [f"{row} " + "word " * draw.randrange(1, 30) for row in range(100_000)]
    jobs.service.configure(output_tokens="lognormal:20:0.5", prompt_tokens="tiktoken:o200k_base", seed=5)
    settings = jobs.job(
        texts,
        limits={"max_at_once": 256},
        tolerate={"not_ok": 0.1},
        budget={"run_usd": 50, "monthly_usd": 100},
        price_as="gpt-4o",
    )
    done = jobs.spawn(settings).wait(400)
    assert done.exit_code == 0, done.stderr
    assert done.column("text") == texts
    assert jobs.service.stats()["billed_twice"] == []
    spend = orjson.loads(jobs.run(settings, "--json", command="spend").stdout)
    rows = pc.sum(done.table.column("cost_usd")).as_py()
    assert rows == Decimal(done.summary["cost_usd"]) == Decimal(spend["cost_usd"]) == billed_usd(jobs.service)
    assert rows != rows.quantize(Decimal("0.00001"))  # so the last digits are tested too
