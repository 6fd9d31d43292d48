"""The organization's figures of the fake service are sums of its bills."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import httpx
import pytest

from .asking import chat
from .batching import START, Batching

DAY_S = 86_400
ADMIN = {"Authorization": "Bearer sk-admin-fake"}
MIDNIGHT = START - START % DAY_S


def pages(batching: Batching, path: str, **query: Any) -> list[dict[str, Any]]:
    """Return the buckets of all pages."""
    buckets: list[dict[str, Any]] = []
    page: dict[str, Any] = {"has_more": True}
    asked = {"start_time": int(MIDNIGHT), **query}
    while page["has_more"]:
        reply = batching.client.get(f"/organization/{path}", params=asked, headers=ADMIN)
        assert reply.status_code == 200, reply.text
        page = reply.json()
        buckets += page["data"]
        asked["page"] = page["next_page"]
    assert page["next_page"] is None
    return buckets


def results(buckets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for bucket in buckets for each in bucket["results"]]


@pytest.fixture
def used() -> Batching:
    """A service with two live requests of two keys, and a batch of four rows."""
    batching = Batching(prompt_tokens="fixed:1000", cached_ratio=0.5, output_tokens="fixed:100")
    for key in ("a", "b"):
        asked = chat("x") | {"model": "gpt-6-luna"}
        batching.client.post("/chat/completions", json=asked, headers={"Authorization": f"Bearer sk-{key}"})
    batching.ended(batching.rows(4))
    return batching


def test_usage_is_grouped_and_paged(used: Batching) -> None:
    """Usage has a bucket for each width of time, also empty ones, and results for each group; both match the bills."""
    (bucket, _) = pages(used, "usage/completions")
    (total,) = bucket["results"]
    assert (total["input_tokens"], total["input_cached_tokens"], total["input_uncached_tokens"]) == (6000, 3000, 3000)
    assert (total["output_tokens"], total["num_model_requests"]) == (
        280,
        6,
    )  # 2 answers of 100 and 4 rows of 20, their maximum
    assert total["model"] is total["batch"] is None
    grouped = pages(used, "usage/completions", **{"group_by[]": ["model", "batch", "service_tier"]})
    assert [(each["model"], each["batch"], each["num_model_requests"]) for each in results(grouped)] == [
        ("gpt-4o-mini", True, 4), ("gpt-6-luna", False, 2),
    ]  # fmt: skip
    used.service.configure(admin={"page_buckets": 5})
    hours = pages(used, "usage/completions", bucket_width="1h", group_by="api_key_id", batch="false")
    assert len(hours) == 24 + (START - MIDNIGHT) // 3600 + 1
    assert len(results(hours)) == 2
    assert len(used.service.calls("usage")) == 2 + -(-len(hours) // 5)
    only = pages(used, "usage/completions", models=["gpt-6-luna"], end_time=int(MIDNIGHT + DAY_S))
    assert [each["num_model_requests"] for each in results(only)] == [2]


def test_costs_are_those_of_the_bills(used: Batching) -> None:
    """Costs by line item have tokens and money, and their sum is that of the bills; batch rows cost half."""
    costs = results(pages(used, "costs", group_by="line_item"))
    assert {each["line_item"]: (each["amount"]["value"], each["quantity"]) for each in costs} == {
        "gpt-6-luna, input_tokens": (0.0001, 1000),
        "gpt-6-luna, cached_input_tokens": (0.00001, 1000),
        "gpt-6-luna, output_tokens": (0.0001, 200),
        "gpt-4o-mini batch, input_tokens": (0.00015, 2000),
        "gpt-4o-mini batch, cached_input_tokens": (0.00015, 2000),
        "gpt-4o-mini batch, output_tokens": (0.000024, 80),
    }
    lanes = used.service.bills()["lanes"].values()
    billed = sum(Decimal(each["usd"]) for each in lanes)
    (total,) = results(pages(used, "costs"))
    assert Decimal(str(total["amount"]["value"])) == billed == Decimal("0.000534")
    assert total["amount"]["currency"] == "usd"
    used.service.configure(admin={"cost_decimals": 4})
    assert results(pages(used, "costs"))[0]["amount"]["value"] == 0.0005


def test_figures_can_be_late_and_hold_the_usage_of_others(used: Batching) -> None:
    """With a delay, only older usage is shown; usage of others is added under its own names."""
    used.service.configure(admin={"late_s": DAY_S})
    assert sum(each["num_model_requests"] for each in results(pages(used, "usage/completions"))) == 2
    used.service.advance(DAY_S)
    assert sum(each["num_model_requests"] for each in results(pages(used, "usage/completions"))) == 6
    foreign = {"at": START, "model": "gpt-4o", "input_tokens": 10, "output_tokens": 1, "api_key_id": "key_them"}
    used.service.configure(admin={"foreign": [foreign]})
    found = results(pages(used, "usage/completions", group_by=["api_key_id", "model"]))
    (theirs,) = [each for each in found if each["api_key_id"] == "key_them"]
    assert (theirs["model"], theirs["input_tokens"]) == ("gpt-4o", 10)
    assert used.service.bills()["lanes"]["live"]["requests"] == 2


def test_rate_limits_name_the_batch_limit() -> None:
    """The limits of a project are those that the service applies, the limit of enqueued tokens among them."""
    batching = Batching(models=["gpt-6-luna", "other"], rpm=50, batch={"enqueued_tokens": {"gpt-6-luna": 900}})
    reply = batching.client.get("/organization/projects/proj_fake/rate_limits", headers=ADMIN).json()
    first, second = reply["data"]
    assert (first["max_requests_per_1_minute"], first["batch_1_day_max_input_tokens"]) == (50, 900)
    assert "batch_1_day_max_input_tokens" not in second
    assert reply["has_more"] is False
    other = batching.client.get("/organization/projects/proj_other/rate_limits", headers=ADMIN)
    assert other.status_code == 404
    assert [each["id"] for each in batching.client.get("/models").json()["data"]] == ["gpt-6-luna", "other"]


def test_spend_limits_enforce() -> None:
    """A hard limit says whether it is reached; one that is not set is not found."""
    batching = Batching(admin={"spend_limit_cents": 1_000_000, "project_spend_limit_cents": 1})
    whole = batching.client.get("/organization/spend_limit", headers=ADMIN).json()
    assert (whole["threshold_amount"], whole["enforcement"]) == (1_000_000, {"status": "inactive"})
    of_project = "/organization/projects/proj_fake/spend_limit"
    assert batching.client.get(of_project, headers=ADMIN).json()["enforcement"] == {"status": "inactive"}
    batching.service.configure(prompt_tokens="fixed:1000000")
    batching.client.post("/chat/completions", json=chat("x") | {"model": "gpt-4o"})
    assert batching.client.get(of_project, headers=ADMIN).json()["enforcement"] == {"status": "enforcing"}
    batching.service.configure(admin={"project_spend_limit_cents": None})
    assert batching.client.get(of_project, headers=ADMIN).status_code == 404
    (project,) = batching.client.get("/organization/projects", headers=ADMIN).json()["data"]
    assert (project["id"], project["status"]) == ("proj_fake", "active")


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({}, {"start_time": 1}, 401),
        ({"Authorization": "Bearer sk-user"}, {"start_time": 1}, 403),
        (ADMIN, {}, 400),
        (ADMIN, {"start_time": 1, "group_by": "color"}, 400),
        (ADMIN, {"start_time": 1, "bucket_width": "1w"}, 400),
        (ADMIN, {"start_time": 1, "limit": 32}, 400),
        (ADMIN, {"start_time": 1, "until": 5}, 400),
    ],
)
def test_figures_need_an_admin_key_and_good_queries(
    headers: dict[str, str], query: dict[str, Any], status: int
) -> None:
    """Without the admin key there are no figures; a query that the API does not have is refused."""
    batching = Batching(require_key="sk-user")
    reply: httpx.Response = batching.client.get("/organization/usage/completions", params=query, headers=headers)
    assert reply.status_code == status
    assert batching.client.get("/models", headers=ADMIN).status_code == 401
