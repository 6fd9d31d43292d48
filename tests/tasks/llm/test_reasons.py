"""Parquill shows the reason of a refusal without any word of the prompt or of the key."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parquill.tasks.job.key import Key
from parquill.tasks.llm.outcomes import error_of_body
from parquill.tasks.llm.reasons import MAX_CHARACTERS, reason_of

SENT = '[{"role":"user","content":"Translate: patient Ana Weber, id 4711-XY, takes 0.7 mg of Xarelto; a prompt."}]'
NAMES = frozenset({"model", "max_tokens", "messages", "temperature", "seed"})
KEY = Key("sk-proj-abcdefgh12345wXYZ")


def _reason(document: Any) -> str | None:
    return reason_of(error_of_body(document), SENT, NAMES, KEY)


SHOWN = {
    "openai": (
        {
            "error": {
                "message": "Unsupported value: 'temperature' does not support 0 with this model.",
                "param": "temperature",
                "code": "unsupported_value",
            }
        },
        "parameter 'temperature': Unsupported value: 'temperature' does not support … with this model.",
    ),
    "vllm": ({"object": "error", "message": "System role not supported", "code": 400}, "System role not supported"),
    "gemini": (
        [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.', "status": "INVALID_ARGUMENT"}}],
        'Unknown name "seed": Cannot find field.',
    ),
    "fastapi": (
        {"detail": [{"loc": ["body", "temperature"], "msg": "ensure this value is less than 2"}]},
        "parameter 'temperature': ensure this value is less than 2",
    ),
    "fastapi text": ({"detail": "Model is overloaded"}, "Model is overloaded"),
    "ollama": (
        {"error": "model 'llama9' not found, try pulling it first"},
        "model 'llama9' not found, try pulling it first",
    ),
    "anthropic": (
        {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low."}},
        "Your credit balance is too low.",
    ),
    "a nested parameter": ({"error": {"param": "messages[0].content", "message": ""}}, "parameter 'messages'"),
}


@pytest.mark.parametrize("service", SHOWN)
def test_a_services_reason_is_shown(service: str) -> None:
    """Parquill shows the parameter and the message of each service's error body in one line."""
    document, shown = SHOWN[service]
    assert _reason(document) == shown


@pytest.mark.parametrize(
    "message",
    [
        "Ana Weber, id 4711-XY",
        "your text 'patient Ana Weber, id 4711-XY, takes 0.7 mg of Xarelto' was flagged",
        "unknown drug XARELTO in the request",
        "unknown drug Xarel",
        "invalid value: ana, weber, patient",
        "Incorrect API key provided: sk-proj-abcdefgh12345wXYZ. See https://x.example/?q=Ana",
        "Incorrect API key provided: sk-pr********************wXYZ",
        "the request had ABCDEFGH12345 in it and mail to ana@weber.example",
    ],
)
def test_an_echo_is_masked(message: str) -> None:
    """The reason has no words of the prompt, whole or cut and in any case, and no part of the key."""
    shown = (_reason({"error": {"message": message}}) or "").casefold()
    for word in ("ana", "weber", "4711", "xarel", "patient", "abcdefgh", "12345", "wxyz", "@", "://"):
        assert word not in shown


def test_a_parameter_is_named_only_if_the_request_has_it() -> None:
    """A name that is not in the request may be an echo and is not shown."""
    assert _reason({"error": {"param": "Xarelto", "message": ""}}) is None
    assert _reason({"error": {"param": ["temperature"]}}) is None


@pytest.mark.parametrize(
    "document", [None, {}, [], "text", {"error": None}, {"error": {"message": 5}}, {"error": []}, [[]]]
)
def test_a_body_that_says_nothing_has_no_reason(document: Any) -> None:
    """A document that is not an error body gives no reason."""
    assert _reason(document) is None


def test_a_reason_is_one_short_line() -> None:
    """A reason is one short line without escape characters."""
    shown = _reason({"error": {"message": "bad\x1b[2J\n" + "value " * 500}})
    assert shown is not None
    assert len(shown) <= MAX_CHARACTERS
    assert shown.isprintable()


WORDS = st.text(st.characters(categories=["L", "N"]), min_size=2, max_size=12)


@settings(max_examples=300)
@example(["0\u00bc"], [], random.Random(1))  # a word that NFKC splits
@given(st.lists(WORDS, min_size=1, max_size=6), st.lists(WORDS, max_size=6), st.randoms())
def test_no_word_of_a_cell_is_ever_shown(cells: list[str], others: list[str], rng: Any) -> None:
    """However a service mixes a prompt's words, the reason has only ordinary words of error messages."""
    cells = [f"q{word}" for word in cells]  # the "q" makes each word an unusual one
    sent = orjson.dumps([{"role": "user", "content": " ".join(cells)}]).decode()
    words = [*cells, *others, "is", "not", "supported", "value", "model"]
    rng.shuffle(words)
    shown = reason_of({"message": " ".join(words)}, sent, NAMES, None) or ""
    assert not set(cells) & set(shown.split())
