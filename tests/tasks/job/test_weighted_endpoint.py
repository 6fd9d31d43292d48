"""Several endpoints of one job: what each has of its own, and what is the job's."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.limit_settings import LimitSettings, total_of
from parquill.tasks.job.load import make_job
from parquill.tasks.job.settings import Job
from tests.tools.small_jobs import LEAST

FIRST = {"base_url": "http://localhost:1/v1"}
SECOND = {"base_url": "http://localhost:2/v1"}
PRICE = {"usd_per_mtok_input": 1, "usd_per_mtok_output": 2}
OTHER_PRICE = {"usd_per_mtok_input": 3, "usd_per_mtok_output": 4}


def _job(*endpoints: dict[str, Any], **changes: Any) -> Job:
    return make_job({**LEAST, "endpoints": list(endpoints), **changes})


def test_the_first_endpoint_stands_for_all() -> None:
    """A job with several endpoints has the first one as `endpoint`, also after it was stored and read again."""
    job = _job(FIRST, SECOND)
    assert job.endpoint.base_url == FIRST["base_url"]
    assert make_job(job.model_dump(mode="json")) == job


def test_what_an_endpoint_does_not_set_is_the_jobs() -> None:
    """Model, price and each limit of an endpoint are the job's, unless the endpoint has its own."""
    limits = {"max_at_once": 8, "requests_per_minute": 60, "tokens_per_minute": 5_000}
    own = {"requests_per_minute": 30, "max_at_once": 100, "count_output": "actual"}
    first, second = _job(
        FIRST, {**SECOND, "model": "m2", "price": OTHER_PRICE, "limits": own}, limits=limits, price=PRICE
    ).each_endpoint
    assert (first.model, first.price and first.price.usd_per_mtok_input) == (LEAST["model"], Decimal(1))
    assert first.limits == LimitSettings.model_validate(limits)
    assert (second.model, second.price and second.price.usd_per_mtok_input) == ("m2", Decimal(3))
    # all endpoints together keep the most at once of the job
    assert second.limits == LimitSettings.model_validate({**limits, **own, "max_at_once": 8})
    assert {each.endpoints for each in (first, second)} == {None}


def test_the_jobs_price_is_not_that_of_another_model() -> None:
    """An endpoint with a model of its own does not take the price that the job gives for its own model."""
    _, second = _job(FIRST, {**SECOND, "model": "gpt-6-luna"}, price=PRICE).each_endpoint
    assert second.price is None


@pytest.mark.parametrize(
    ("endpoints", "labels"),
    [
        ([FIRST, SECOND], ["localhost:1", "localhost:2"]),
        ([{**FIRST, "name": "here"}, {**SECOND, "name": "there"}], ["here", "there"]),
        ([{**FIRST, "name": "pool"}, {**SECOND, "name": "pool"}], ["localhost:1", "localhost:2"]),
        ([{**FIRST, "api_key_env": "A"}, {**FIRST, "api_key_env": "B"}], ["localhost:1 (A)", "localhost:1 (B)"]),
        ([FIRST, {**FIRST, "api_key_block": "b"}], ["localhost:1 (no key)", "localhost:1 (b)"]),
        ([{**FIRST, "model": "m"}, {**FIRST, "model": "n"}], ["localhost:1 (m)", "localhost:1 (n)"]),
        (
            [{**FIRST, "query": {"v": "1"}}, {**FIRST, "query": {"v": "2"}}],
            ["localhost:1 #1", "localhost:1 #2"],
        ),
    ],
)
def test_labels_differ(endpoints: list[dict[str, Any]], labels: list[str]) -> None:
    """Endpoints are called by what tells them apart: name, host, key, model or number."""
    assert _job(*endpoints).labels_of_endpoints == labels


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpoints": []}, "`endpoints`: list should have at least 1 item"),
        ({"endpoints": FIRST}, "`endpoints` is a list; write for example `endpoints: [{"),
        ({"endpoints": ["http://localhost:1/v1"]}, "`endpoints.0` is a group of settings"),
        ({"endpoints": [{**FIRST, "weigth": 2}]}, "did you mean `endpoints.0.weight`?"),
        ({"endpoints": [{"limits": {"rpm": 2, "request_per_minute": 1}}]}, "`endpoints.0.limits.requests_per_minute`?"),
        ({"weight": 2}, "did you mean `endpoints.weight`?"),
        ({"endpoints": [{**FIRST, "weight": 0}]}, "`endpoints.0.weight`: input should be greater than 0"),
        ({"endpoints": [FIRST, FIRST]}, "`endpoints.0` and `endpoints.1` have the same address, key and model"),
        ({"endpoints": [FIRST, {**SECOND, "api": "responses"}]}, "must have one `api`, not chat and responses"),
        ({"endpoints": [FIRST], "endpoint": SECOND}, "set either `endpoint` or `endpoints`"),
        ({"endpoints": [FIRST], "lane": "batch"}, "`lane: batch` takes one `endpoint`"),
        ({"endpoints": [FIRST], "lane": "auto"}, "`lane: auto` takes one `endpoint`"),
        ({"endpoints": [{**FIRST, "limits": {"shared": "a"}}]}, "`endpoints.0.limits`: `shared` needs a"),
        ({"endpoints": [{**FIRST, "api": "completions"}], "prompt": {"system": "a", "user": "b"}}, "takes one text"),
        ({"endpoints": [{"base_url": "http://example.com/v1"}]}, "`endpoints.0`: base_url is plain http"),
    ],
)
def test_refusals(changes: dict[str, Any], words: str) -> None:
    """Endpoints that cannot share the rows of a job are refused, with the place of the fault."""
    with pytest.raises(BadJob) as caught:
        make_job({**LEAST, **changes})
    assert words in str(caught.value)


def test_limits_together() -> None:
    """Limits add up, one without a limit has none together with others, and a shared one counts once."""
    a, b = ({"requests_per_minute": 60, "tokens_per_minute": 500}, {"requests_per_minute": 30})
    first, second = (LimitSettings.model_validate(each) for each in (a, b))
    total = total_of([first, second])
    assert (total.requests_per_minute, total.tokens_per_minute) == (90, None)
    shared = LimitSettings.model_validate({**a, "shared": "account"})
    total = total_of([shared, shared, first])
    assert (total.requests_per_minute, total.tokens_per_minute) == (120, 1_000)
    actual = LimitSettings.model_validate({**a, "count_output": "actual"})
    assert total_of([actual, first]).count_output == "reserved"
    assert total_of([actual, actual]).count_output == "actual"
