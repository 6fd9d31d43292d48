"""Count the tokens of a request by the model's own encoding, without any network access.

The vocabularies are in `data/encodings/` under the names that tiktoken gives them. They are checked by hash before
tiktoken reads them, since it deletes a file that it finds damaged.

The chat formula (OpenAI cookbook, "How to count tokens with tiktoken"): each message costs 3 tokens and the tokens of
all its values, a name costs 1 more, and 3 prime the reply. gpt-3.5-turbo-0301 counts 4 per message and -1 per name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain
from typing import Any

import orjson
import tiktoken
from tiktoken.model import encoding_name_for_model

from parquill.data import FOLDER
from parquill.tasks.errors import BadJob, ParquillError
from parquill.tasks.money.calibration import Calibration, allowance
from parquill.tasks.money.tool_tokens import count_tools

# tiktoken panics on about a million blanks in a row and is slow on long runs of them: longer texts are counted in
# pieces, which can only raise the count (by at most a token or so per piece).
PIECE_CHARACTERS = 50_000
# Counts of texts that repeat (roles, a constant system prompt) are cached, up to these limits.
MAX_SEEN_TEXTS, MAX_SEEN_CHARACTERS = 4_096, 4 << 20

_VOCABULARIES = {  # encoding -> (file, sha256), both as tiktoken's openai_public.py has them
    "o200k_base": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
    "p50k_base": (
        "ec7223a39ce59f226a68acc30dc1af2788490e15",
        "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    ),
    "r50k_base": (
        "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4",
        "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    ),
}
_SHARES = {"o200k_harmony": "o200k_base", "p50k_edit": "p50k_base"}


@cache
def _encoding(name: str) -> tiktoken.Encoding:
    vocabulary = _SHARES.get(name, name)
    if vocabulary not in _VOCABULARIES:
        known = ", ".join(_VOCABULARIES)
        raise BadJob(f"`tokenizer`: {name!r} is not one of {known}")
    file, digest = _VOCABULARIES[vocabulary]
    path = FOLDER / "encodings" / file
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        found = ""
    if found != digest:
        raise ParquillError(f"the vocabulary {path} is missing or damaged; install Parquill again")
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(path.parent)
    try:
        return tiktoken.get_encoding(name)
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


def _base(model: str) -> str:
    return model.removeprefix("openai/")


def encoding_of(model: str, tokenizer: str | None) -> tuple[str, bool]:
    """Return the encoding with which a model's tokens are counted, and whether it is the model's own."""
    if tokenizer is not None:
        return tokenizer, False
    try:
        return encoding_name_for_model(_base(model)), True
    except KeyError:
        return "o200k_base", False


class TokenCounter:
    """Counts the tokens of requests for one model.

    `exact` is False if the model's own tokenizer is not public. Then o200k_base (or the job's `tokenizer`) stands in,
    earlier answers correct the expectation, and a reservation includes an allowance.
    """

    def __init__(
        self,
        model: str,
        tokenizer: str | None = None,
        *,
        schema: Any = None,
        tools: Sequence[Any] = (),
        correction: Calibration | None = None,
    ) -> None:
        """`schema` and `tools` are what each request carries in addition to its messages. Raises BadJob.

        `correction` is what was learned from earlier answers; an exact count ignores it.
        """
        self.name, self.exact = encoding_of(model, tokenizer)
        self._encoding = _encoding(self.name)
        self._correction = None if self.exact else correction
        self._message, self._named = (4, -1) if _base(model) == "gpt-3.5-turbo-0301" else (3, 1)
        self._extra = count_tools(tools, self.name, self.count_text)
        if schema is not None:  # no formula is published: count its JSON, and a margin for what wraps it
            self._extra += self.count_text(orjson.dumps(schema).decode()) + 10
        self._seen: dict[str, int] = {}
        self._seen_characters = 0

    def count_text(self, text: str) -> int:
        """Count the tokens of a text; special tokens in it count as plain text."""
        return self.count_texts([text])[0]

    def count_texts(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, on several cores (tiktoken releases the GIL)."""
        short = [text if len(text) <= PIECE_CHARACTERS else "" for text in texts]
        counts = self._count_batch(short)
        for index, text in enumerate(texts):
            if len(text) > PIECE_CHARACTERS:
                pieces = [text[i : i + PIECE_CHARACTERS] for i in range(0, len(text), PIECE_CHARACTERS)]
                counts[index] = sum(self._count_batch(pieces))
        return counts

    def _count_batch(self, texts: Sequence[str]) -> list[int]:
        if len(texts) < MIN_SHARED_TEXTS:
            return self._count_each(texts)
        # tiktoken's own batches make a task of each text, which takes longer than to count it
        size = -(-len(texts) // (_THREADS * TASKS_PER_THREAD))
        with ThreadPoolExecutor(_THREADS) as threads:
            found = threads.map(self._count_each, [texts[at : at + size] for at in range(0, len(texts), size)])
            return list(chain.from_iterable(found))

    def _count_each(self, texts: Sequence[str]) -> list[int]:
        count = self._encoding.encode_ordinary
        return [len(count(text)) for text in texts]

    def count_chats(self, chats: Sequence[list[dict[str, Any]]]) -> list[int]:
        """Count the prompt tokens of each list of chat messages, `response_format` and tools included."""
        texts = {text for messages in chats for message in messages for text in _values(message)}
        new = [text for text in texts if text not in self._seen]
        self._seen.update(zip(new, self.count_texts(new), strict=True))
        self._seen_characters += sum(map(len, new))
        totals = []
        for messages in chats:
            total = 3 + self._extra
            for message in messages:
                total += self._message + sum(self._seen[text] for text in _values(message))
                if "name" in message:
                    total += self._named
            totals.append(total)
        # clear the cache: texts that do not repeat must not pile up
        # promise: input: the cache of the token counter is bounded by its characters
        if len(self._seen) > MAX_SEEN_TEXTS or self._seen_characters > MAX_SEEN_CHARACTERS:
            self._seen.clear()
            self._seen_characters = 0
        return totals

    def count_prompts(self, prompts: Sequence[str]) -> list[int]:
        """Count the prompt tokens of each plain prompt (legacy completions: only the text, no formula)."""
        return self.count_texts(prompts)

    def reserved(self, prompt_tokens: int) -> int:
        """Tokens to reserve for a counted prompt: more if the count may be too low."""
        if self.exact:
            return prompt_tokens
        return allowance(prompt_tokens) if self._correction is None else self._correction.reserved(prompt_tokens)

    def expected(self, prompt_tokens: int) -> float:
        """Tokens that the service is expected to report for a counted prompt."""
        if self._correction is None or not self._correction.is_fitted:
            return float(prompt_tokens)
        return self._correction.expected(prompt_tokens)

    @property
    def is_corrected(self) -> bool:
        """Whether earlier answers correct the expected counts."""
        return self._correction is not None and self._correction.is_fitted

    def note(self, counted: int, expected: float) -> str:
        """The note to show next to a sum of prompt tokens; empty if the count is exact."""
        if self.exact:
            return ""
        if self._correction is None or not self._correction.is_fitted:
            return "approximate: the model's own tokenizer is not public"
        factor = expected / counted if counted else self._correction.ratio
        return f"approximate, corrected by {factor:.2f} from {self._correction.answers:,} answers"


MIN_SHARED_TEXTS = 64  # fewer are counted before a thread has started
TASKS_PER_THREAD = 4  # so that a thread with long texts does not keep the others waiting
_THREADS = max(1, min(8, os.cpu_count() or 1))


def _values(message: dict[str, Any]) -> list[str]:
    if len(message) == 2 and type(message.get("content")) is str:
        return [message["role"], message["content"]]
    values = []
    for value in message.values():
        if isinstance(value, str):
            values.append(value)
        elif isinstance(value, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
            values.extend(part["text"] for part in value)
        else:
            values.append(orjson.dumps(value).decode())
    return values
