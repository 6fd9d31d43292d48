"""One server and one worker for all deployment tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.deployed.live_stack import LiveStack, open_stack
from tests.fakes.running import FakeService
from tests.tools.jobs import Jobs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the output of the server and the worker to the report of a failed test."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(stack, LiveStack):
        report.sections.append(("server and worker", stack.output()))
    return report


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """Start a server, a worker and every deployment; the workers of pytest share the work of deploying."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with open_stack(tmp_path_factory.mktemp("stack"), deployed=shared / "deployed.db") as opened:
        yield opened


@pytest.fixture
def made(service: FakeService, tmp_path: Path) -> Jobs:
    """Return a writer of inputs and settings; the worker runs the jobs."""
    return Jobs(tmp_path, service)
