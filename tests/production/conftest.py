"""One server and one worker for all tests of production."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.jobs import Jobs
from tests.production.house import House, opened_house
from tests.services.running import FakeService


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a test that failed what its server and its worker said."""
    report = yield
    house = getattr(item, "funcargs", {}).get("house")
    if report.failed and isinstance(house, House):
        report.sections.append(("server and worker", house.said()))
    return report


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server, a worker and every deployment."""
    with opened_house(tmp_path_factory.mktemp("house")) as opened:
        yield opened


@pytest.fixture
def made(service: FakeService, tmp_path: Path) -> Jobs:
    """Writes inputs and settings; the runs themselves are the worker's."""
    return Jobs(tmp_path, service)
