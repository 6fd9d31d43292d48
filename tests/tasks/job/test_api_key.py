"""A key is checked before use, is named by its variable in a refusal, and is never shown."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import traceback
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.api_key import read_key
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.key import Key
from parquill.tasks.llm.client import Client
from tests.tools.small_jobs import resolved_job

CANARY = "sk-canary-4711"
VARIABLE = "PARQUILL_TEST_KEY"
ENDPOINT = Endpoint.model_validate({"base_url": "https://api.example/v1", "api_key_env": VARIABLE})


def _read(monkeypatch: pytest.MonkeyPatch, value: str) -> Key:
    monkeypatch.setenv(VARIABLE, value)
    key = read_key(ENDPOINT)
    assert key is not None
    return key


def _refusal(monkeypatch: pytest.MonkeyPatch, value: str) -> str:
    with pytest.raises(BadJob) as caught:
        _read(monkeypatch, value)
    assert caught.value.__cause__ is None
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_a_key_is_sent_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good key goes into the Authorization header unchanged, whatever printable ASCII it holds."""
    assert _read(monkeypatch, CANARY).headers() == {"Authorization": f"Bearer {CANARY}"}
    printable = "".join(map(chr, range(0x23, 0x7F)))
    assert _read(monkeypatch, printable).headers() == {"Authorization": f"Bearer {printable}"}


@pytest.mark.parametrize("escaped", [False, True])
def test_a_service_that_echoes_the_key_does_not_get_it_into_the_results(
    monkeypatch: pytest.MonkeyPatch, *, escaped: bool
) -> None:
    """A key in a reply is masked, also in JSON escapes and where a label is cut; the rest of the reply is kept."""
    sent = "".join(f"\\u{ord(letter):04x}" for letter in CANARY) if escaped else CANARY
    label = f"{'m' * 190}{sent}"
    body = (
        f'{{"id":"{sent}","model":"{sent if escaped else label}","choices":[{{"finish_reason":"{sent}",'
        f'"message":{{"content":"It is {sent}, caf\\u00e9"}}}}]}}'
    ).encode()
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini"}
    job = resolved_job({**least, "max_output_tokens": 10, "endpoint": ENDPOINT.model_dump()})
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    reply = asyncio.run(Client(job, _read(monkeypatch, CANARY), transport).send("[]", None)).reply
    assert reply is not None
    assert reply.text == "It is ***, caf\u00e9"
    assert (reply.request_id, reply.finish_reason) == ("***", "***")
    assert CANARY[:8] not in repr(reply)


@pytest.mark.parametrize("word", ["EMPTY", "sk-no-key-required"])
def test_a_key_that_is_a_word_is_left_in_answers(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """A placeholder that local models get in place of a key is not masked in answers."""
    key = _read(monkeypatch, word)
    assert (key.hide_in(word), key.hide_in_bytes(word.encode())) == (word, word.encode())


@pytest.mark.parametrize("white", ["\n", "\r\n", " ", "\t", " \n "])
def test_white_space_around_a_key_is_stripped(monkeypatch: pytest.MonkeyPatch, white: str) -> None:
    """White space around a key, such as the line end of `cat key.txt`, is stripped."""
    assert _read(monkeypatch, f"{white}{CANARY}{white}").headers()["Authorization"] == f"Bearer {CANARY}"


@pytest.mark.parametrize(
    "value",
    [
        f'"{CANARY}"',
        f"'{CANARY}'",
        f'"{CANARY}',
        f"{CANARY} two",
        f"{CANARY}\nX-Evil: 1",
        f"{CANARY}\r\nX-Evil: 1",
        f"{CANARY}\t2",
        f"{CANARY}\x7f",
        f"{CANARY}\x1b[31m",
        f"{CANARY}\u00e9",
        f"\ufeff{CANARY}",
        f"{CANARY}\u200b",
        f"Bearer {CANARY}",
    ],
)
def test_what_no_key_has_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A key with quotes, blanks, line ends or invisible characters is refused by its variable, without its value."""
    assert _refusal(monkeypatch, value) == (
        f"the environment variable {VARIABLE} holds quotes, blanks or characters that no key has; set it again"
    )


@pytest.mark.parametrize("value", ["", " ", "\n\t "])
def test_a_blank_key_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A variable that is set but blank is refused as blank, not as missing."""
    assert _refusal(monkeypatch, value) == f"the environment variable {VARIABLE} is blank"


def test_a_missing_key_is_told_with_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal names the variable that is not set and the address that its key is for."""
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(BadJob, match=f"{VARIABLE} is not set: it must hold the key for https://api.example/v1"):
        read_key(ENDPOINT)


def test_no_name_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that names no key gets none, even when OPENAI_API_KEY is set."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert read_key(Endpoint.model_validate({"base_url": "http://localhost:1/v1"})) is None


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{!r:>40}".format,
        "%s".__mod__,
        ascii,
        lambda key: repr([key]),
        lambda key: repr({1: key}),
    ],
)
def test_a_key_prints_itself_masked(show: Any) -> None:
    """However a key is turned into text, the text does not contain its value."""
    text = show(Key(CANARY))
    assert "Key(***)" in text
    assert CANARY not in text


def test_a_key_in_a_log_or_traceback_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    """A key that is logged, or that is part of an error, is masked."""
    key = Key(CANARY)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").debug("sent with %s and %r", key, {"key": key})
    with pytest.raises(ValueError, match="bad") as caught:
        raise ValueError("bad", key)
    assert CANARY not in caplog.text
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_is_not_pickled(protocol: int) -> None:
    """A key cannot be sent to another process or saved in Prefect's storage."""
    with pytest.raises(TypeError, match="a key is not pickled"):
        pickle.dumps({"deep": [Key(CANARY)]}, protocol)


def test_a_key_is_not_copied_or_written_as_json() -> None:
    """A key cannot be copied or written as JSON, and has no attributes to read."""
    key = Key(CANARY)
    for way in (copy.copy, copy.deepcopy, orjson.dumps, vars):
        with pytest.raises(TypeError) as caught:
            way(key)
        assert CANARY not in str(caught.value)


def _block(monkeypatch: pytest.MonkeyPatch, load: Any) -> Key | None:
    """Read a key from a Prefect block; only the call to Prefect's server is replaced."""
    from prefect.blocks.system import Secret

    monkeypatch.setattr(Secret, "load", load)
    return read_key(Endpoint.model_validate({"base_url": "https://api.example/v1", "api_key_block": "my-key"}))


def test_a_key_from_a_prefect_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of a Secret block is a key like any other: named in a refusal, stripped and checked."""
    key = _block(monkeypatch, lambda name: SimpleNamespace(get=lambda: f"{CANARY}-{name}\n"))
    assert key is not None
    assert key.headers()["Authorization"] == f"Bearer {CANARY}-my-key"
    with pytest.raises(BadJob, match="the Prefect Secret block my-key holds quotes") as caught:
        _block(monkeypatch, lambda _: SimpleNamespace(get=lambda: f"{CANARY} two"))
    assert CANARY not in str(caught.value)


def test_a_block_that_cannot_be_read_is_named_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal gives only the name of a block that cannot be read, since Prefect's message may hold the value."""

    def load(_: str) -> None:
        raise ValueError(f"cannot parse {CANARY}")

    with pytest.raises(BadJob, match=r"^the Prefect Secret block my-key cannot be read$") as caught:
        _block(monkeypatch, load)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
