"""One server and one worker for all tests of production."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.jobs import Jobs
from tests.production.house import House
from tests.services.running import FakeService


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server, a worker and every deployment."""
    built = House(tmp_path_factory.mktemp("house"))
    try:
        built.open()
        yield built
    finally:
        built.close()


@pytest.fixture
def made(service: FakeService, tmp_path: Path) -> Jobs:
    """Writes inputs and settings; the runs themselves are the worker's."""
    return Jobs(tmp_path, service)
