"""Parquill reads each service's finish reasons where that service puts them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquill.tasks.llm.failures import Failure
from parquill.tasks.llm.finish_reasons import ENDINGS, ending_of, unknown_name
from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.replies import Reply
from parquill.tasks.results.reply_warnings import reply_sentences
from parquill.tasks.results.totals import LISTED, ResultTotals
from tests.tools.small_jobs import resolved_job

CUT, WINDOW, FILTER, BROKEN = "max_output_tokens", "context_window", "content_filter", "broken_answer"
TEXT = "Guten Tag"

# Test id -> each finish reason that the service documents, with its line in the table of outcomes.
ENDINGS_OF: dict[str, dict[Any, str]] = {
    "openai": {"stop": "ok", "length": CUT, "content_filter": FILTER, "tool_calls": "ok", "function_call": "ok"},
    "azure": {"stop": "ok", "length": CUT, "content_filter": FILTER, "content_filtered": FILTER, "tool_calls": "ok"},
    "openrouter": {"stop": "ok", "length": CUT, "content_filter": FILTER, "tool_calls": "ok", "error": BROKEN},
    "gemini": {
        "STOP": "ok",
        "MAX_TOKENS": CUT,
        "SAFETY": FILTER,
        "RECITATION": FILTER,
        "LANGUAGE": FILTER,
        "BLOCKLIST": FILTER,
        "PROHIBITED_CONTENT": FILTER,
        "SPII": FILTER,
        "IMAGE_SAFETY": FILTER,
        "MODEL_ARMOR": FILTER,
        "OTHER": "cut_off",
        "MALFORMED_FUNCTION_CALL": "unusable_answer",
        "UNEXPECTED_TOOL_CALL": "unusable_answer",
        "TOO_MANY_TOOL_CALLS": "unusable_answer",
        "MISSING_THOUGHT_SIGNATURE": "unusable_answer",
        "MALFORMED_RESPONSE": "unusable_answer",
        "FINISH_REASON_UNSPECIFIED": "ok",
        "FinishReason.SAFETY": FILTER,
        "content_filter: SAFETY": FILTER,
        "function_call_filter: MALFORMED_FUNCTION_CALL": "unusable_answer",
    },
    "anthropic": {
        "end_turn": "ok",
        "stop_sequence": "ok",
        "tool_use": "ok",
        "max_tokens": CUT,
        "model_context_window_exceeded": WINDOW,
        "refusal": "refusal",
        "pause_turn": "cut_off",
    },
    "bedrock": {"end_turn": "ok", "guardrail_intervened": FILTER, "content_filtered": FILTER, "max_tokens": CUT},
    "mistral": {"stop": "ok", "length": CUT, "model_length": WINDOW, "error": BROKEN, "tool_calls": "ok"},
    "deepseek": {"stop": "ok", "length": CUT, "content_filter": FILTER, "insufficient_system_resource": BROKEN},
    "zhipu": {
        "stop": "ok",
        "length": CUT,
        "sensitive": FILTER,
        "network_error": BROKEN,
        "model_context_window_exceeded": WINDOW,
    },
    "cohere": {
        "COMPLETE": "ok",
        "STOP_SEQUENCE": "ok",
        "TOOL_CALL": "ok",
        "MAX_TOKENS": CUT,
        "ERROR": BROKEN,
        "ERROR_TOXIC": FILTER,
        "ERROR_LIMIT": WINDOW,
        "USER_CANCEL": BROKEN,
        "TIMEOUT": "cut_off",
    },
    "vllm": {
        "stop": "ok",
        "length": CUT,
        "abort": BROKEN,
        "error": BROKEN,
        "tool_calls": "ok",
        "repetition": "cut_off",
    },
    "sglang": {"stop": "ok", "length": CUT, "abort": BROKEN, "stop_token": "ok"},
    "ollama": {"stop": "ok", "length": CUT, "load": BROKEN, "unload": BROKEN},
    "llamacpp": {"stop": "ok", "length": CUT, "limit": CUT, "eos": "ok", "tool_calls": "ok"},
    "tgi": {"eos_token": "ok", "stop_sequence": "ok", "length": CUT},
    "lmstudio": {
        "stop": "ok",
        "eosFound": "ok",
        "stopStringFound": "ok",
        "toolCalls": "ok",
        "maxPredictedTokensReached": CUT,
        "contextLengthReached": WINDOW,
        "userStopped": BROKEN,
        "modelUnloaded": BROKEN,
        "failed": BROKEN,
    },
    "xai": {
        "stop": "ok",
        "end_turn": "ok",
        "length": CUT,
        "REASON_STOP": "ok",
        "REASON_MAX_LEN": CUT,
        "REASON_MAX_CONTEXT": WINDOW,
        "REASON_TOOL_CALLS": "ok",
        "REASON_TIME_LIMIT": "cut_off",
    },
    "moonshot": {"stop": "ok", "length": CUT, "content_filter": FILTER, "tool_calls": "ok"},
    "groq": {"stop": "ok", "length": CUT, "tool_calls": "ok", "function_call": "ok"},
    "together": {"eos": "ok", "stop": "ok", "length": CUT, "tool_calls": "ok", "function_call": "ok"},
    "alibaba": {"stop": "ok", "length": CUT, "tool_calls": "ok", "null": "ok"},
    "litellm": {"stop": "ok", "length": CUT, "content_filter": FILTER, "tool_calls": "ok", "function_call": "ok"},
    "watsonx": {"eos_token": "ok", "max_tokens": CUT, "token_limit": CUT, "time_limit": "cut_off", "cancelled": BROKEN},
    "hunyuan": {"stop": "ok", "sensitive": FILTER, "tool_calls": "ok"},
    "baidu": {"normal": "ok", "stop": "ok", "length": CUT, "content_filter": FILTER},
    "missing": {None: "ok", "": "ok", "none": "ok"},
}


def _read(reply: dict[str, Any], api: str = "chat") -> Reply | Failure:
    job = resolved_job({
        "name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "m", "max_output_tokens": 9,
        "endpoint": {"base_url": "http://localhost:1/v1", "api": api},
    })  # fmt: skip
    found = APIS[api](job).read(json.dumps(reply).encode())
    assert found is not None
    return found


def _spellings(name: str | None) -> set[str | None]:
    return {name} if name is None else {name, name.lower(), name.upper(), name.replace("_", "-")}


@pytest.mark.parametrize("service", ENDINGS_OF)
def test_the_finish_reasons_of_a_service(service: str) -> None:
    """Each documented reason decides the status in every spelling, and a cut or filtered answer keeps its text."""
    for name, code in ENDINGS_OF[service].items():
        for reason in _spellings(name):
            replies: dict[str, Any] = {
                "chat": {"choices": [{"message": {"content": TEXT}, "finish_reason": reason}]},
                "completions": {"choices": [{"text": TEXT, "finish_reason": reason}]},
            }
            for api, reply in replies.items():
                found = _read(reply, api)
                assert found.code == code, reason
                if isinstance(found, Reply):
                    assert (found.text, found.finish_reason) == (TEXT, reason or None)
                    assert unknown_name(found.finish_reason) is None
                else:
                    assert found.has_text


@pytest.mark.parametrize(
    ("reason", "native", "code"),
    [
        ("stop", "SAFETY", FILTER),
        ("stop", "MAX_TOKENS", CUT),
        ("stop", "network_error", BROKEN),
        ("stop", "insufficient_system_resource", BROKEN),
        ("length", "max_output_tokens", CUT),
        ("tool_calls", "tool_use", "ok"),
        ("stop", "a_new_word", "ok"),
        (None, "refusal", "refusal"),
        (None, "end_turn", "ok"),
        ("content_filter", "stop", FILTER),
        ("error", "stop", BROKEN),
    ],
)
def test_the_models_own_reason_beside_a_routers(reason: str | None, native: str, code: str) -> None:
    """OpenRouter also gives the model's own reason: if one of the two is bad, it counts."""
    choice = {"message": {"content": TEXT}, "finish_reason": reason, "native_finish_reason": native}
    assert _read({"choices": [choice]}).code == code


def test_only_the_closed_list_is_not_named() -> None:
    """An answer with an unknown reason stays ok. A warning counts the reasons by name and says what to do."""
    sums = ResultTotals()
    for reason, rows in (("stop", 5), ("brand_new", 2), ("other words", 1), (None, 3)):
        assert _read({"choices": [{"message": {"content": TEXT}, "finish_reason": reason}]}).code == "ok"
        for number in range(rows):
            line = {"status": "ok", "run_id": "r", "reused": True, "finish_reason": reason, "number": number}
            sums.add(line, (), (), "another")
    assert sums.unknown_finish_reasons == {"brand_new": 2, "other words": 1}
    (sentence,) = reply_sentences({"unknown_finish_reasons": sums.unknown_finish_reasons})
    assert sentence.startswith("warning: 3 answers ended with a finish reason that Parquill does not know")
    assert "'brand_new' (2)" in sentence
    assert reply_sentences({"errors": {}, "unknown_finish_reasons": {}}) == []


def test_what_is_no_name_is_not_repeated() -> None:
    """A finish reason may hold anything, even the prompt: Parquill shows only what looks like a name, up to a limit."""
    for odd in ("Bitte übersetzen Sie: der Vertrag", "\x1b[2J", "x" * 60, "a b c d e"):
        assert unknown_name(odd) == "a text that is not a name"
    sums = ResultTotals()
    for number in range(3 * LISTED):
        line = {"status": "ok", "run_id": "r", "reused": True, "finish_reason": f"reason_{number}"}
        sums.add(line, (), (), "another")
    assert len(sums.unknown_finish_reasons) == LISTED + 1
    assert sum(sums.unknown_finish_reasons.values()) == 3 * LISTED


def test_every_ending_is_a_line_of_the_table() -> None:
    """Each known reason leads to a line of the table, and every ending but `not_ready` is tested here."""
    assert set(ENDINGS.values()) <= TABLE.keys()
    tested = {code for names in ENDINGS_OF.values() for code in names.values()}
    assert set(ENDINGS.values()) - tested == {"not_ready"}  # see test_failures.py


@given(st.text() | st.integers() | st.none() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
def test_any_reason_has_an_ending(reason: Any) -> None:
    """`ending_of` accepts any value as a reason and never raises."""
    assert ending_of(reason, reason) in {*TABLE, None}


@pytest.mark.parametrize(
    ("status", "details", "code"),
    [
        ("completed", None, "ok"),
        (None, None, "ok"),
        ("incomplete", {"reason": "max_output_tokens"}, CUT),
        ("incomplete", {"reason": "max_tokens"}, CUT),
        ("incomplete", {"reason": "content_filter"}, FILTER),
        ("incomplete", {"reason": "a_new_word"}, "cut_off"),
        ("incomplete", {"reason": None}, "cut_off"),
        ("incomplete", None, "cut_off"),
        ("failed", None, BROKEN),
        ("cancelled", None, BROKEN),
        ("in_progress", None, "not_ready"),
        ("queued", None, "not_ready"),
    ],
)
def test_the_status_of_a_responses_reply(status: str | None, details: Any, code: str) -> None:
    """Only a completed reply is an answer. Any other is cut, broken or not ready, whatever text it already has."""
    output = [{"type": "message", "content": [{"type": "output_text", "text": TEXT}]}]
    reply = {"status": status, "incomplete_details": details, "output": output}
    found = _read(reply, "responses")
    assert found.code == code
    assert isinstance(found, Failure) is (code in {BROKEN, "not_ready"})
    if isinstance(found, Failure):
        assert _read({"status": status}, "responses").code == code
