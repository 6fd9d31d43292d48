"""The table of outcomes is closed and consistent, and every line of it can happen."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from typing import Any, get_args

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.job.key import Key
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.job.settings import Status
from parquill.tasks.llm.client import Client
from parquill.tasks.llm.outcomes import NOT_SENT_CODES, ROW_CODES, TABLE, Money, Retry, rule_for_status
from parquill.tasks.llm.reply_reader import Result
from parquill.tasks.records import REUSABLE, STATUSES
from tests.tasks.llm.simulated import simulate
from tests.tools.small_jobs import resolved_job

CANARY = "sk-canary-4711"
MESSAGES = '[{"role":"user","content":"PROMPT"}]'
Handler = Any  # a function of the request, or a coroutine function


def _job(**changes: Any) -> ResolvedJob:
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini"}
    return resolved_job(
        {**least, "max_output_tokens": 10, "endpoint": {"base_url": "http://localhost:1/v1"}, **changes}
    )


def _client(handler: Handler, **changes: Any) -> Client:
    return Client(_job(**changes), Key(CANARY), httpx.MockTransport(handler))


def _send(handler: Handler, **changes: Any) -> Result:
    return asyncio.run(_client(handler, **changes).send(MESSAGES, None))


def _answer(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Result:
    async def handler(_: httpx.Request) -> httpx.Response:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return httpx.Response(status, content=content, headers=headers or {})

    return _send(handler)


def _fail(error: BaseException) -> Result:
    async def handler(_: httpx.Request) -> httpx.Response:
        raise error

    return _send(handler)


def _too_late() -> Result:
    async def handler(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(120)  # finite, so that the test also ends without a deadline
        raise AssertionError

    return simulate(_client(handler, retry={"timeout_s": 60}).send(MESSAGES, None))


def _chat(message: dict[str, Any], reason: str | None = "stop") -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": reason}]}


def _error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "type": "invalid_request_error", "message": f"{CANARY} is not PROMPT"}}


WAYS: dict[str, Callable[[], Result]] = {
    "ok": lambda: _answer(200, _chat({"content": "Hi"})),
    "max_output_tokens": lambda: _answer(200, _chat({"content": "H"}, "length")),
    "content_filter": lambda: _answer(200, _chat({"content": None}, "content_filter")),
    "refusal": lambda: _answer(200, _chat({"content": None, "refusal": "I cannot"})),
    "no_answer": lambda: _answer(200, {"choices": []}),
    "empty": lambda: _answer(200, _chat({"content": " \n"})),
    "context_window": lambda: _answer(200, _chat({"content": "H"}, "model_length")),
    "cut_off": lambda: _answer(200, _chat({"content": "H"}, "time_limit")),
    "unusable_answer": lambda: _answer(200, _chat({"content": "H"}, "MALFORMED_FUNCTION_CALL")),
    "broken_answer": lambda: _answer(200, _chat({"content": "H"}, "abort")),
    "failed_reply": lambda: _answer(200, {"error": {"message": f"{CANARY}, PROMPT"}}),
    "not_ready": lambda: _send(
        lambda _: httpx.Response(200, content=b'{"status": "queued"}'),
        endpoint={"base_url": "http://localhost:1/v1", "api": "responses"},
    ),
    "bad_reply": lambda: _answer(200, b"<html>"),
    "reply_too_large": lambda: _answer(200, b" " * (5 << 20)),
    "redirect": lambda: _answer(307, b"", {"location": "http://elsewhere.example/"}),
    "request_timeout": lambda: _answer(408, b""),
    "bad_gateway": lambda: _answer(502, b"<html>502 Bad Gateway</html>"),
    "server_error": lambda: _answer(500, _error("server_error")),
    "conflict": lambda: _answer(409, b""),
    "timeout": _too_late,
    "connection_lost": lambda: _fail(httpx.ReadError("lost")),
    "connect_error": lambda: _fail(httpx.ConnectError("refused")),
    "unavailable": lambda: _answer(503, b"", {"retry-after": "3"}),
    "bad_request": lambda: _answer(400, _error("invalid_value")),
    "too_long": lambda: _answer(400, _error("context_length_exceeded")),
    "prompt_filtered": lambda: _answer(400, _error("content_filter")),
    "rate_limited": lambda: _answer(429, _error("rate_limit_exceeded")),
    "quota_exhausted": lambda: _answer(429, _error("insufficient_quota")),
    "not_authorized": lambda: _answer(401, _error("invalid_api_key")),
    "forbidden": lambda: _answer(403, _error("region_not_supported")),
    "not_found": lambda: _answer(404, _error("model_not_found")),
}


@pytest.mark.parametrize("code", WAYS)
def test_every_line_can_happen(code: str) -> None:
    """Each line of the table is the outcome of a real request."""
    assert WAYS[code]().rule is TABLE[code]


def test_no_line_is_left_out() -> None:
    """A reply can reach every line of the table but two, and those of batches.

    The two depend on the answer that is booked (see tests/end_to_end/test_answers.py and test_prompt_cuts.py). The
    lines of batches come from result files (tests/promises/test_batches.py).
    """
    batches = {code for code in TABLE if code.startswith("batch_")}
    assert TABLE.keys() - WAYS.keys() == {"schema_mismatch", "prompt_cut"} | batches


@pytest.mark.parametrize("code", WAYS)
def test_what_happened_is_told_without_key_or_prompt(code: str) -> None:
    """The row's message repeats neither the key nor the prompt, even if an error body echoes them."""
    found = WAYS[code]()
    assert found.sentence.startswith(found.rule.sentence)
    assert CANARY not in repr(found)
    assert "PROMPT" not in repr(found)


@pytest.mark.parametrize("code", TABLE)
def test_money_and_retry_agree(code: str) -> None:
    """A billed answer is never requested again, and only a surely unpaid request is throttled or stops the run."""
    rule = TABLE[code]
    if rule.money is Money.BILLED:
        assert rule.retry is Retry.NEVER
    if rule.retry in {Retry.THROTTLE, Retry.STOP}:
        assert rule.money is Money.UNPAID
    assert (rule.code or "ok") == code


@pytest.mark.parametrize("code", TABLE)
def test_status_and_money_agree(code: str) -> None:
    """Only a good answer is ok, and an answer that is kept was billed."""
    rule = TABLE[code]
    assert rule.status in STATUSES
    assert rule.status not in {"rejected", "not_sent"}
    assert (rule.status == "ok") == (code == "ok")
    if rule.money is not Money.BILLED:
        assert rule.status in {"failed", "refused"}
    if rule.status in {"ok", "truncated", "invalid"}:
        assert rule.money is Money.BILLED
        assert rule.status in REUSABLE


def test_what_is_surely_unpaid_is_a_closed_list() -> None:
    """Only the outcomes that the contract names free their reservation."""
    assert {code for code, rule in TABLE.items() if rule.money is Money.UNPAID} == {
        "connect_error",
        "unavailable",
        "server_error",
        "conflict",
        "bad_request",
        "forbidden",
        "too_long",
        "prompt_filtered",
        "rate_limited",
        "quota_exhausted",
        "not_authorized",
        "not_found",
        "batch_cancelled",
        "batch_expired",
        "batch_refused",
        "batch_skipped",
    }


def test_codes_are_one_closed_set() -> None:
    """Each code has one meaning: the codes of rows, stops and requests differ, except one that has the same meaning."""
    assert ROW_CODES.keys() & TABLE.keys() == {"too_long"}
    assert not NOT_SENT_CODES.keys() & (TABLE.keys() | ROW_CODES.keys())
    codes = TABLE.keys() | ROW_CODES.keys() | NOT_SENT_CODES.keys()
    assert all(re.fullmatch("[a-z]+(_[a-z0-9]+)*", code) for code in codes)
    assert set(get_args(Status)) == set(STATUSES)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (300, "redirect"),
        (301, "redirect"),
        (399, "redirect"),
        (302, "redirect"),
        (308, "redirect"),
        (400, "bad_request"),
        (401, "not_authorized"),
        (402, "quota_exhausted"),
        (403, "forbidden"),
        (404, "not_found"),
        (405, "bad_request"),
        (408, "request_timeout"),
        (409, "conflict"),
        (410, "not_found"),
        (413, "too_long"),
        (414, "too_long"),
        (415, "bad_request"),
        (418, "bad_request"),
        (422, "bad_request"),
        (424, "bad_request"),
        (425, "conflict"),
        (429, "rate_limited"),
        (431, "too_long"),
        (451, "bad_request"),
        (499, "request_timeout"),
        (500, "bad_gateway"),
        (501, "bad_request"),
        (502, "bad_gateway"),
        (503, "bad_gateway"),
        (504, "bad_gateway"),
        (524, "bad_gateway"),
        (529, "bad_gateway"),
        (599, "bad_gateway"),
        (100, "bad_reply"),
        (999, "bad_reply"),
    ],
)
def test_each_http_status_has_its_line(status: int, code: str) -> None:
    """Each status without a body has a fixed outcome, and the row's message shows the status."""
    rule, sentence = rule_for_status(status, retry_after=False, document=None)
    assert rule is TABLE[code]
    assert sentence == f"{rule.sentence} (HTTP {status})"


@settings(max_examples=300)
@given(st.integers(100, 999), st.booleans())
def test_no_outcome_says_that_the_connection_was_lost_when_a_status_came(status: int, retry_after: bool) -> None:  # noqa: FBT001
    """For any status, the row's message names the status."""
    rule, sentence = rule_for_status(status, retry_after=retry_after, document=None)
    assert rule.code not in {"connection_lost", "timeout", "connect_error"}
    assert f"HTTP {status}" in sentence


@pytest.mark.parametrize(
    "status", [400, 402, 403, 404, 405, 406, 409, 410, 411, 413, 415, 418, 422, 424, 425, 429, 451]
)
def test_a_refusal_is_unpaid(status: int) -> None:
    """Every 4xx frees its reservation, unless its status says nothing about the answer."""
    assert rule_for_status(status, retry_after=False, document=None)[0].money is Money.UNPAID


def test_503_is_unpaid_only_with_retry_after() -> None:
    """A 503 with Retry-After is unpaid, because the service did no work. Without it, the money is in doubt."""
    assert rule_for_status(503, retry_after=True, document=None)[0] is TABLE["unavailable"]
    assert rule_for_status(503, retry_after=False, document=None)[0].money is Money.IN_DOUBT
    assert rule_for_status(500, retry_after=True, document=None)[0].money is Money.IN_DOUBT


OWN_BODIES = {
    "openai": {"error": {"message": "The server had an error", "type": "server_error", "param": None, "code": None}},
    "azure": {"error": {"code": "InternalServerError", "message": "Backend returned unexpected response."}},
    "anthropic": {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    "gemini": [{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}],
    "ollama": {"error": "llama runner process has terminated"},
    "vllm": {"object": "error", "message": "EngineCore died", "type": "InternalServerError", "code": 500},
    "fastapi": {"detail": "Internal error"},
}
GATEWAY_BODIES: dict[str, Any] = {
    "empty": None,
    "aws": {"message": "Endpoint request timed out"},
    "cloudflare": {"title": "Error 524: A timeout occurred", "status": 524, "detail": "x", "cloudflare_error": True},
    "problem": {"type": "about:blank", "title": "Bad Gateway", "status": 502, "detail": "upstream"},
    "list": [],
    "text": "Internal Server Error",
    "null": {"error": None},
}


@pytest.mark.parametrize("service", OWN_BODIES)
def test_a_failure_with_the_services_own_error_body_is_unpaid(service: str) -> None:
    """A 5xx with the service's own error body was not billed, so its reservation is freed."""
    for status in (500, 502, 503, 504, 529):
        assert _answer(status, OWN_BODIES[service]).rule is TABLE["server_error"]


@pytest.mark.parametrize("gateway", GATEWAY_BODIES)
def test_a_failure_that_only_a_gateway_tells_of_is_in_doubt(gateway: str) -> None:
    """A 5xx with a gateway's body does not show whether an answer was made, so the money stays booked."""
    for status in (500, 502, 504, 524):
        assert _answer(status, GATEWAY_BODIES[gateway]).rule is TABLE["bad_gateway"]


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (429, {"code": "insufficient_quota"}, "quota_exhausted"),
        (429, {"type": "insufficient_quota"}, "quota_exhausted"),
        (429, {"code": "billing_hard_limit_reached"}, "quota_exhausted"),
        (429, {"type": "exceeded_current_quota_error"}, "quota_exhausted"),
        (429, {"code": "credit_balance_exhausted"}, "quota_exhausted"),
        (429, {"code": "organization_usage_limit_exceeded"}, "quota_exhausted"),
        (429, {"code": "organization_spend_limit_exceeded", "type": "insufficient_quota"}, "quota_exhausted"),
        (429, {"code": "project_spend_limit_exceeded", "type": "rate_limit_error"}, "quota_exhausted"),
        (429, {"code": "enforced_spend_limit_reached", "type": "rate_limit_error"}, "quota_exhausted"),
        (402, {"message": "Insufficient Balance", "code": "invalid_request_error"}, "quota_exhausted"),
        (403, {"code": "invalid_api_key"}, "not_authorized"),
        (403, {"message": "flagged", "code": 403, "metadata": {"reasons": ["violence"]}}, "prompt_filtered"),
        (403, {"message": "flagged", "metadata": {"flagged_input": "x"}}, "prompt_filtered"),
        (403, {"message": "no", "metadata": {"provider_name": "x"}}, "forbidden"),
        (403, {"code": "insufficient_quota"}, "quota_exhausted"),
        (400, {"code": "context_length_exceeded"}, "too_long"),
        (400, {"type": "exceed_context_size_error"}, "too_long"),
        (400, {"code": "content_policy_violation"}, "prompt_filtered"),
        (500, {"code": "context_length_exceeded"}, "server_error"),
        (429, {"code": "context_length_exceeded"}, "rate_limited"),
        (400, {"code": "insufficient_quota "}, "bad_request"),
        (400, {"code": 5, "type": ["content_filter"]}, "bad_request"),
        (400, "content_filter", "bad_request"),
        (400, ["content_filter"], "bad_request"),
    ],
)
def test_known_codes_of_an_error_body_count(status: int, error: object, code: str) -> None:
    """A known code in an error body counts if it comes with the right status."""
    assert rule_for_status(status, retry_after=False, document={"error": error})[0] is TABLE[code]


def test_only_known_codes_are_repeated() -> None:
    """The message shows only known codes of an error body. Anything else in it may be the prompt or the key."""
    assert rule_for_status(400, retry_after=False, document={"error": {"code": "invalid_value"}})[1].endswith(
        "(HTTP 400, invalid_value)"
    )
    sentence = rule_for_status(
        400,
        retry_after=False,
        document={"error": {"code": CANARY, "type": CANARY, "message": CANARY, "param": CANARY}},
    )[1]
    assert sentence.endswith("(HTTP 400)")


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["content_filter", "insufficient_quota"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["code", "type", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.integers(100, 999), st.booleans(), ANY)
def test_any_answer_has_a_line(status: int, retry_after: bool, error: object) -> None:  # noqa: FBT001
    """Any reply has a line of the table, and only a listed status or code frees money."""
    rule, _ = rule_for_status(status, retry_after=retry_after, document={"error": error})
    assert rule in TABLE.values()
    assert rule.money is not Money.BILLED
    if not 400 <= status < 600 or status in {408, 499}:
        assert rule.money is Money.IN_DOUBT or rule.code in {"quota_exhausted", "not_authorized"}


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadTimeout(CANARY),
        httpx.ConnectTimeout(CANARY),
        httpx.RemoteProtocolError(CANARY),
        httpx.LocalProtocolError(CANARY),
        httpx.WriteError(CANARY),
        ValueError(CANARY),
        RuntimeError(CANARY),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_breaks_after_the_call_began_is_in_doubt(error: Exception) -> None:
    """An error keeps its money booked unless it surely came before sending.

    Its text may hold a key and is not shown.
    """
    found = _fail(error)
    assert found.rule.money is Money.IN_DOUBT
    assert CANARY not in repr(found)


@pytest.mark.parametrize("header", ["-5", "nan", "Wed, 21 Oct 2015 07:28:00 GMT", "1e999", "9999999"])
def test_a_wait_that_a_service_asks_for_is_bounded(header: str) -> None:
    """For any Retry-After, the wait is between 0 s and a minute."""
    found = _answer(429, b"", {"retry-after": header})
    assert found.rule is TABLE["rate_limited"]
    assert found.retry_after is None or (math.isfinite(found.retry_after) and 0 <= found.retry_after <= 60)


def test_an_endless_error_body_is_not_read() -> None:
    """The client leaves an error body beyond its limit unread, and the status still counts."""
    assert _answer(500, b"[" * (1 << 20)).rule is TABLE["bad_gateway"]
    assert _answer(400, b"{" * (1 << 20)).rule is TABLE["bad_request"]


@pytest.mark.parametrize("status", [200, 201, 202, 203, 207, 226])
def test_any_2xx_is_read(status: int) -> None:
    """If a gateway answers a POST with a 2xx other than 200, the client reads the paid answer."""
    found = _answer(status, _chat({"content": "Guten Tag"}))
    assert found.reply is not None
    assert found.reply.text == "Guten Tag"


@pytest.mark.parametrize("status", [200, 204, 205])
def test_a_reply_that_cannot_be_read_says_what_came(status: int) -> None:
    """The row's message shows the status, the content type and the size of an unreadable reply."""
    found = _answer(status, b"<html>", {"content-type": "text/html; charset=utf-8"})
    assert found.rule is TABLE["bad_reply"]
    assert found.sentence.endswith(f"(HTTP {status}, text/html; charset=utf-8, 6 bytes)")
