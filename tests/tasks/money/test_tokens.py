"""Tokens are counted as the service counts them, without a network, and no text stops the count."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.data import FOLDER
from parquill.tasks.errors import BadJob, ParquillError
from parquill.tasks.money import tokens
from parquill.tasks.money.tokens import PIECE_CHARACTERS, TokenCounter

# Figures of the OpenAI cookbook; the file names its source.
PUBLISHED: dict[str, Any] = json.loads(Path(__file__).with_name("chat_token_counts.json").read_text(encoding="utf-8"))
CHAT: list[dict[str, str]] = PUBLISHED["chat"]["messages"]
COUNTS: dict[str, int] = PUBLISHED["chat"]["expected_prompt_tokens"]
ENCODINGS = ("r50k_base", "p50k_base", "cl100k_base", "o200k_base")
STRINGS = [
    (entry["text"], name, len(found))
    for entry in PUBLISHED["strings"]
    for name in ENCODINGS
    if (found := entry.get(name) or (entry.get("tokens") if entry.get("encoding") == name else None))
]


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    """The counter of the cheapest chat model."""
    return TokenCounter("gpt-4o-mini")


@pytest.mark.parametrize(("model", "count"), COUNTS.items())
def test_published_chat_counts(model: str, count: int) -> None:
    """The chat of OpenAI's cookbook has as many prompt tokens as OpenAI's API counted, for every model."""
    counted = TokenCounter(model)
    assert counted.exact
    assert counted.count_chats([CHAT]) == [count]


@pytest.mark.parametrize(("text", "encoding", "count"), STRINGS)
def test_published_string_counts(text: str, encoding: str, count: int) -> None:
    """The cookbook's strings have the published number of tokens in each encoding."""
    assert TokenCounter("any", encoding).count_text(text) == count


def test_every_published_encoding_is_tested() -> None:
    """The figures above cover every published encoding."""
    assert {name for _, name, _ in STRINGS} == set(ENCODINGS)
    assert len(STRINGS) == 13


def test_counting_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vocabularies are read from the package, so counting works with every socket closed."""

    def closed(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "socket", closed)
    monkeypatch.setattr(socket, "getaddrinfo", closed)
    tokens._encoding.cache_clear()
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    assert [TokenCounter("any", name).count_text("2 + 2 = 4") for name in ENCODINGS] == [5, 5, 7, 7]


@pytest.mark.parametrize("before", [None, "elsewhere"])
def test_the_users_cache_is_left_alone(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    """Loading a vocabulary does not change the user's own TIKTOKEN_CACHE_DIR."""
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    if before is not None:
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", before)
    tokens._encoding.cache_clear()
    TokenCounter("gpt-4o-mini")
    assert os.environ.get("TIKTOKEN_CACHE_DIR") == before


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_vocabulary_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    """A vocabulary that is missing or has a flipped bit is refused by its path, is not used and is not deleted."""
    name = tokens._VOCABULARIES["r50k_base"][0]
    path = tmp_path / "encodings" / name
    path.parent.mkdir()
    if damage == "flipped":
        shutil.copy(FOLDER / "encodings" / name, path)
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(bytes(data))
    monkeypatch.setattr(tokens, "FOLDER", tmp_path)
    tokens._encoding.cache_clear()
    with pytest.raises(ParquillError, match="missing or damaged") as caught:
        TokenCounter("any", "r50k_base")
    assert str(path) in str(caught.value)
    assert path.exists() == (damage == "flipped")


def test_a_million_blanks(counter: TokenCounter) -> None:
    """A run of a million blanks, on which tiktoken panics, is counted, and not too low."""
    counted = counter.count_texts([" " * 1_000_000, "\n" * 1_000_000, "a"])
    assert counted[2] == 1
    assert 1_000_000 / 200 < counted[0] < 20_000
    assert counted[1] > 1_000


@pytest.mark.parametrize(
    "text", ["<|endoftext|>", "<|im_start|>system<|im_end|>", "a<|endofprompt|>b", "<|fim_prefix|>"]
)
def test_special_tokens_are_plain_text(counter: TokenCounter, text: str) -> None:
    """A text that spells a special token is counted as text: more than one token, and no error."""
    assert counter.count_text(text) > 1
    assert counter.count_chats([[{"role": "user", "content": text}]]) == [7 + counter.count_text(text)]


@settings(max_examples=100)
@given(st.lists(st.text(), max_size=6))
def test_counts_are_those_of_tiktoken(counter: TokenCounter, texts: list[str]) -> None:
    """Any texts, including lone surrogates, are counted as tiktoken counts each of them alone, in their order."""
    encoding = tiktoken.get_encoding(counter.name)
    assert counter.count_texts(texts) == [len(encoding.encode_ordinary(text)) for text in texts]


def test_long_texts_are_counted_in_pieces(counter: TokenCounter) -> None:
    """A text longer than one piece is counted within one token per piece of its true count."""
    text = "The quick brown fox jumps over the lazy dog. " * 4_000
    true = len(tiktoken.get_encoding(counter.name).encode_ordinary(text))
    assert len(text) > 3 * PIECE_CHARACTERS
    assert true <= counter.count_text(text) <= true + 4


def test_the_chat_formula(counter: TokenCounter) -> None:
    """A message has 3 tokens plus its role and text, and 1 more for a name; the reply has 3."""
    one = counter.count_chats([[{"role": "user", "content": "Hi"}]])[0]
    assert one == 3 + 3 + 1 + 1
    assert counter.count_chats([[{"role": "user", "content": "Hi", "name": "Ann"}]]) == [one + 1 + 1]
    assert counter.count_chats([[]]) == [3]


def test_content_in_parts_counts_its_texts(counter: TokenCounter) -> None:
    """A text in parts has the same count as the text."""
    whole = counter.count_chats([[{"role": "user", "content": "Hello there"}]])
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": " there"}]
    assert counter.count_chats([[{"role": "user", "content": parts}]]) == whole


def test_many_chats_at_once_are_those_of_each(counter: TokenCounter) -> None:
    """Texts that the counter remembers from other chats never change a count, even when it must forget some."""
    chats = [[{"role": "system", "content": "Same"}, {"role": "user", "content": f"row {n}"}] for n in range(5_000)]
    assert counter.count_chats(chats) == [TokenCounter("gpt-4o-mini").count_chats([chat])[0] for chat in chats[:1]] + (
        counter.count_chats(chats[1:])
    )
    assert counter.count_chats(chats[:2]) == counter.count_chats(chats[:2])


def test_a_schema_is_counted_with_each_request(counter: TokenCounter) -> None:
    """A response_format is sent with every request, so its tokens are counted with every request."""
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    with_schema = TokenCounter("gpt-4o-mini", schema=schema)
    chat = [{"role": "user", "content": "Hi"}]
    more = with_schema.count_chats([chat])[0] - counter.count_chats([chat])[0]
    assert more >= counter.count_text(json.dumps(schema, separators=(",", ":")))


def test_plain_prompts_are_their_text(counter: TokenCounter) -> None:
    """A prompt of the legacy API counts as its text alone, without a formula."""
    assert counter.count_prompts(["", "Hi", "Hi there"]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("openai/gpt-4o", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("text-davinci-003", "p50k_base"),
        ("gpt-oss-20b", "o200k_harmony"),
    ],
)
def test_models_have_their_own_encoding(model: str, encoding: str) -> None:
    """A model whose tokenizer is public is counted exactly, with that tokenizer."""
    found = TokenCounter(model)
    assert (found.name, found.exact) == (encoding, True)
    assert found.reserved(1_000) == 1_000


def test_unknown_models_reserve_more() -> None:
    """A model whose tokenizer is not public is counted with another one, and half as much again is reserved."""
    found = TokenCounter("SmolLM2-135M-Instruct")
    assert (found.name, found.exact) == ("o200k_base", False)
    assert found.reserved(1_000) >= 1_500
    assert found.reserved(0) > 0


def test_a_chosen_tokenizer_is_used_and_not_trusted() -> None:
    """`tokenizer` chooses the encoding, but a reservation still allows for the model's own tokenizer."""
    found = TokenCounter("SmolLM2-135M-Instruct", "cl100k_base")
    assert (found.name, found.exact) == ("cl100k_base", False)
    assert found.reserved(1_000) >= 1_500


@pytest.mark.parametrize("name", ["cl100k", "gpt-4", "../o200k_base"])
def test_an_unknown_tokenizer_names_those_there_are(name: str) -> None:
    """A tokenizer that does not exist is refused with the list of known ones."""
    with pytest.raises(BadJob) as caught:
        TokenCounter("gpt-4", name)
    assert all(known in str(caught.value) for known in ("`tokenizer`", *ENCODINGS))


def test_what_is_neither_text_nor_parts_counts_as_its_json(counter: TokenCounter) -> None:
    """Function calls, and content that is not only text, are counted as the JSON that is sent."""
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    as_json = json.dumps(calls, separators=(",", ":"))
    counted = counter.count_chats([[{"role": "assistant", "tool_calls": calls}]])
    assert counted == [3 + 3 + 1 + counter.count_text(as_json)]
    mixed = [{"text": "Hello"}, {"image": "x"}]
    as_json = json.dumps(mixed, separators=(",", ":"))
    assert counter.count_chats([[{"role": "user", "content": mixed}]]) == [3 + 3 + 1 + counter.count_text(as_json)]


def test_memory_does_not_grow_with_the_rows() -> None:
    """The counter remembers a bounded number of texts between batches, however many different ones there are."""
    counted = TokenCounter("gpt-4o-mini")
    for batch in range(12):
        counted.count_chats([[{"role": "user", "content": f"row {batch} {n}"}] for n in range(1_000)])
        assert len(counted._seen) <= 5_100


def test_long_texts_are_not_kept(counter: TokenCounter) -> None:
    """A counter remembers texts that repeat, but at most a few MB of them, and its counts stay the same."""
    texts = [f"{number} " + "word " * 300_000 for number in range(4)]
    chats = [[{"role": "user", "content": text}] for text in texts]
    apart = [counter.count_chats([chat])[0] for chat in chats]
    assert counter.count_chats(chats) == apart
    assert sum(map(len, counter._seen)) <= tokens.MAX_SEEN_CHARACTERS
    assert apart == [counter.count_text(text) + 3 + 3 + 1 for text in texts]


def test_texts_are_counted_in_their_order(counter: TokenCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text has its own count, by whichever thread it is counted."""
    texts = ["word " * number for number in (0, 5, 1, 40, 2, 0, 7)]
    whole = counter.count_texts(texts)
    monkeypatch.setattr(tokens, "MIN_SHARED_TEXTS", 1)
    for threads, tasks in ((1, 1), (1, 3), (2, 4), (8, 4)):
        monkeypatch.setattr(tokens, "_THREADS", threads)
        monkeypatch.setattr(tokens, "TASKS_PER_THREAD", tasks)
        assert counter.count_texts(texts) == whole
    assert counter.count_texts([]) == []
