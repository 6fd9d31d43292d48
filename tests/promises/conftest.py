"""The ledger of the tests of money, on each database that can hold it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from parquill.tasks.money.ledger import Ledger
from tests.fakes.postgres import NoPostgresError, Postgres, postgres
from tests.tools.ledger_machine import empty


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """Run a PostgreSQL for the tests of money alone."""
    try:
        with postgres() as running:
            yield running
    except NoPostgresError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty ledger, on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    found: str = request.getfixturevalue("server").address
    ledger = Ledger(found)
    empty(ledger)
    ledger.close()
    return found


@pytest.fixture
def ledger(address: str) -> Iterator[Ledger]:
    opened = Ledger(address)
    yield opened
    opened.close()
