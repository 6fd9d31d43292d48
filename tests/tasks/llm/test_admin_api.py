"""What an admin key reads of an account, and what its failures say."""

from __future__ import annotations

import traceback
from datetime import date
from decimal import Decimal
from typing import Any

import httpx
import pytest

from parquill.tasks.errors import ParquillError
from parquill.tasks.job.key import Key
from parquill.tasks.llm.admin_api import MAX_PAGES, AdminApi, ProjectLimits, SpendLimit

CANARY = "sk-admin-canary-4711"


class Account:
    """Answers by the path of a call; a list has a page for each call."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {name.replace("__", "/"): value for name, value in answers.items()}
        self.asked: list[str] = []

    def get(self, url: str, headers: dict[str, str]) -> httpx.Response:
        assert headers == {"Authorization": f"Bearer {CANARY}"}
        path = url.removeprefix("https://a.example/v1/organization/")
        self.asked.append(path)
        answer = self.answers.get(path.partition("?")[0], 404)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer) if isinstance(answer, int) else httpx.Response(200, json=answer)

    @property
    def api(self) -> AdminApi:
        return AdminApi("https://a.example/v1", Key(CANARY), self.get)


def _limit(model: str, **more: Any) -> dict[str, Any]:
    return {"id": f"rl-{model}", "model": model, "max_requests_per_1_minute": 500, **more}


def test_limits_of_a_model() -> None:
    """The limits of a project for one model are found on whatever page they are; what is not named is None."""
    first = {"data": [_limit("a")], "has_more": True, "last_id": "rl-a"}
    second = {"data": [_limit("b", max_tokens_per_1_minute=9_000, batch_1_day_max_input_tokens=70)], "has_more": False}
    account = Account(projects__p__rate_limits=[first, second])
    assert account.api.limits("p", "b") == ProjectLimits(500, 9_000, 70)
    assert account.asked == ["projects/p/rate_limits?limit=100", "projects/p/rate_limits?limit=100&after=rl-a"]
    assert Account(projects__p__rate_limits={"data": [_limit("a")]}).api.limits("p", "b") is None


def test_pages_end() -> None:
    """A list whose pages never end is read no further than a fixed number of pages."""
    account = Account(projects__p__rate_limits={"data": [_limit("a")], "has_more": True})
    assert account.api.limits("p", "b") is None
    assert len(account.asked) == MAX_PAGES


@pytest.mark.parametrize(
    ("projects", "only"),
    [
        ([{"id": "p", "status": "active"}], "p"),
        ([{"id": "p"}, {"id": "old", "status": "archived"}], "p"),
        ([{"id": "p"}, {"id": "q"}], None),
        ([], None),
        ([{"id": 5}, "text"], None),
    ],
)
def test_the_only_project(projects: list[Any], only: str | None) -> None:
    """A job that names no project has the organization's only active one."""
    assert Account(projects={"data": projects}).api.only_project() == only


def test_spend_limits() -> None:
    """The hard limits of organization and project are in cents; a limit that is not set is left out."""
    enforcing = {"threshold_amount": 10_000, "interval": "month", "enforcement": {"status": "enforcing"}}
    inactive = {"threshold_amount": 500, "enforcement": {"status": "inactive"}}
    account = Account(spend_limit=enforcing, projects__p__spend_limit=inactive)
    assert account.api.spend_limits("p") == [
        SpendLimit("the organization", 10_000, True),
        SpendLimit("the project", 500, False),
    ]
    assert Account(projects__p__spend_limit=inactive).api.spend_limits("p") == [SpendLimit("the project", 500, False)]
    assert Account(spend_limit={"threshold_amount": 0}).api.spend_limits(None) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (401, "refuses the admin key"),
        (403, "refuses the admin key"),
        (500, "answered HTTP 500"),
        (404, "answered HTTP 404"),
        (httpx.ConnectError(f"no route, Bearer {CANARY}"), "does not answer"),
        (ValueError(CANARY), "does not answer"),
        ([["a list"]], "answered HTTP 200"),
    ],
)
def test_a_failure_tells_no_key(answer: Any, words: str) -> None:
    """S2: A failure is one sentence with the address, without the key."""
    with pytest.raises(ParquillError, match=words) as caught:
        Account(projects=answer).api.only_project()
    assert caught.value.__cause__ is None
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_keys_are_known_by_their_ends() -> None:
    """The keys of one project, or of all, are listed with what the service shows of their values."""
    account = Account(
        projects={"data": [{"id": "p"}, {"id": "q"}], "has_more": False},
        projects__p__api_keys={"data": [{"id": "key_1", "redacted_value": "sk-a...bc"}, {"id": "key_2"}]},
        projects__q__api_keys={"data": [{"id": "key_3", "redacted_value": "sk-d...ef"}]},
    )
    assert account.api.keys("p") == {"key_1": "sk-a...bc"}
    assert account.api.keys(None) == {"key_1": "sk-a...bc", "key_3": "sk-d...ef"}


def _bucket(day: int, **result: Any) -> dict[str, Any]:
    return {"object": "bucket", "start_time": day * 86_400, "results": [result]}


def test_figures_are_read_page_by_page() -> None:
    """Usage and costs of all pages are read, from midnight to midnight in UTC."""
    use = {"model": "m", "num_model_requests": 1, "input_tokens": 2, "output_tokens": 3}
    pages = [
        {"data": [_bucket(20_000, **use)], "has_more": True, "next_page": "a/b"},
        {"data": [_bucket(20_001, **use)], "has_more": False, "next_page": None},
    ]
    cost = {"amount": {"value": 0.5, "currency": "usd"}, "line_item": "m, input"}
    account = Account(usage__completions=pages, costs={"data": [_bucket(20_000, **cost)], "has_more": False})
    found = account.api.figures(date(2024, 10, 4), date(2024, 10, 5))
    assert found.uses is not None
    assert [(each.day, each.completion_tokens) for each in found.uses] == [("2024-10-04", 3), ("2024-10-05", 3)]
    assert found.costs is not None
    assert [(each.model, each.usd) for each in found.costs] == [("m", Decimal("0.5"))]
    span = "start_time=1728000000&end_time=1728172800&bucket_width=1d&limit=31"
    groups = "&group_by=model&group_by=batch&group_by=service_tier&group_by=api_key_id"
    assert account.asked == [
        f"usage/completions?{span}{groups}",
        f"usage/completions?{span}{groups}&page=a%2Fb",
        f"costs?{span}&group_by=line_item&group_by=api_key_id",
    ]


def test_figures_that_do_not_end_or_cannot_be() -> None:
    """Figures that are not complete, or that cannot be read, are an error and never compared."""
    endless = {"data": [], "has_more": True, "next_page": "p"}
    with pytest.raises(ParquillError, match="has more pages than can be read"):
        Account(usage__completions=endless).api.figures(date(2024, 10, 4), date(2024, 10, 5))
    broken = {"data": [], "has_more": True, "next_page": None}
    with pytest.raises(ParquillError, match="has more pages than can be read"):
        Account(usage__completions=broken).api.figures(date(2024, 10, 4), date(2024, 10, 5))
    wrong = {"data": [_bucket(20_000, model="m", input_tokens=-1)], "has_more": False}
    with pytest.raises(ParquillError, match="has figures that cannot be read: '-1' is not a count"):
        Account(usage__completions=wrong, costs={"data": []}).api.figures(date(2024, 10, 4), date(2024, 10, 5))
