"""Which waiting run a name selects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from parquill.flows.cli import approve
from parquill.flows.cli.approve import answer
from parquill.tasks.errors import ParquillError


@pytest.mark.parametrize(
    ("run", "name", "is_meant"),
    [
        ("shop · 1,000 rows · gpt-4o-mini", "shop", True),
        ("shop · 1 row · gpt-4o-mini", "shop", True),
        ("shop · gpt-4o-mini", "shop", True),  # the name before the rows are counted
        ("shop: texts · nightly · 2 rows · gpt-4o-mini", "shop: texts · nightly", True),
        ("shop: texts · nightly · 2 rows · gpt-4o-mini", "shop: texts", False),
        ("shop · nightly · gpt-4o-mini", "shop", False),
        ("shop · 12 rows · 2 rows · gpt-4o-mini", "shop", False),
        ("shopping · 2 rows · gpt-4o-mini", "shop", False),
        ("a.b · 2 rows · gpt-4o-mini", "a.b", True),
        ("a+b · 2 rows · gpt-4o-mini", "a.b", False),
        ("", "shop", False),
    ],
)
def test_a_job_is_meant_by_its_whole_name(run: str, name: str, is_meant: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - parametrized
    """A job's name selects its own run, whatever its characters, and not a job whose name only begins like it."""
    found = [SimpleNamespace(id="an id", name=run)]
    answered: list[Any] = []
    monkeypatch.setattr(approve, "waiting", lambda: found)
    monkeypatch.setattr("prefect.flow_runs.resume_flow_run", lambda flow_run, **_: answered.append(flow_run))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    if is_meant:
        assert answer(name, approve=True) == run
    else:
        with pytest.raises(ParquillError, match="waits for approval"):
            answer(name, approve=True)
    assert bool(answered) is is_meant
