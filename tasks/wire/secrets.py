"""The key: read by the name of its variable or block, checked before use, never shown."""

from __future__ import annotations

import os
import re

from parquill.tasks.endpoint_settings import Endpoint
from parquill.tasks.errors import BadJob

# What local models are given in the place of a key ("none", "not-needed") may be words of an answer.
SHORTEST_SECRET, SHORTEST_WITHOUT_DIGITS = 12, 20


class Key:
    """A secret that prints itself masked and cannot be pickled."""

    __slots__ = ("_is_secret", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        has_digits = any(letter.isdigit() for letter in value)
        self._is_secret = len(value) >= (SHORTEST_SECRET if has_digits else SHORTEST_WITHOUT_DIGITS)

    def header(self) -> str:
        """The value of the Authorization header."""
        return f"Bearer {self._value}"

    def hide_in(self, text: str | None) -> str | None:
        """Text of a reply without the key, unless the key is none but a word."""
        return text.replace(self._value, "***") if text is not None and self._is_secret else text

    def hide_in_bytes(self, data: bytes) -> bytes:
        """`hide_in` of what is not yet read, so that no cut of it leaves a part of the key."""
        return data.replace(self._value.encode(), b"***") if self._is_secret else data

    def has_part(self, text: str) -> bool:
        """Whether a text is a part of the key, in whatever case."""
        return text.casefold() in self._value.casefold()

    def __repr__(self) -> str:
        return "Key(***)"

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled")


def read_key(endpoint: Endpoint) -> Key | None:
    """Read the key that an endpoint names; None if it names none. Raises BadJob, which names the variable only."""
    if endpoint.api_key_env:
        where = f"the environment variable {endpoint.api_key_env}"
        value = os.environ.get(endpoint.api_key_env)
        if value is None:
            raise BadJob(f"{where} is not set: it must hold the key for {endpoint.base_url}")
    elif endpoint.api_key_block:
        where = f"the Prefect Secret block {endpoint.api_key_block}"
        value = _read_block(endpoint.api_key_block, where)
    else:
        return None
    value = value.strip()
    if not value:
        raise BadJob(f"{where} is blank")
    if value[0] in "\"'" or not re.fullmatch(r"[\x21-\x7e]+", value):
        raise BadJob(f"{where} holds quotes, blanks or characters that no key has; set it anew")
    return Key(value)


def _read_block(name: str, where: str) -> str:
    from prefect.blocks.system import Secret

    try:
        return str(Secret.load(name).get())  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001 - whatever Prefect raises may hold the value
        raise BadJob(f"{where} cannot be read") from None
