"""The key: read by the name of its variable or block, checked before use, never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from parquill.tasks.errors import BadJob
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.settings import Job

AZURE = "Azure's identity service"  # where the token of `auth: azure` comes from, for people
# Shorter values are not masked: placeholders for local models ("none", "not-needed") may be words of an answer.
MIN_SECRET_CHARACTERS, MIN_CHARACTERS_WITHOUT_DIGITS = 12, 20


class Key:
    """The credentials for a service: its key, and the values of the other headers.

    Its repr is masked, and it cannot be pickled.
    """

    __slots__ = ("_headers", "_secrets", "_values")
    is_renewed = False  # whether the headers change during a run

    def __init__(self, value: str | None, auth: str = "bearer", headers: Mapping[str, str] | None = None) -> None:
        """`value` is None if the headers are the only credentials."""
        self._set(value, auth, headers or {})

    def _set(self, value: str | None, auth: str, headers: Mapping[str, str], also: Iterable[str] = ()) -> None:
        """Use a value from now on; the values in `also` are masked too."""
        found = dict(headers)
        if value is not None:
            name, content = ("Authorization", f"Bearer {value}") if auth == "bearer" else ("api-key", value)
            found[name] = content
        # promise: S1 a header value that a reply echoes is masked
        self._values = [each for each in (value, *headers.values(), *also) if each is not None]
        self._secrets = sorted(filter(_is_secret, _with_parts(self._values)), key=len, reverse=True)
        self._headers = found  # last: another thread may read it

    def headers(self) -> dict[str, str]:
        """Return the headers that carry the credentials of a request."""
        return dict(self._headers)

    def hide_in(self, text: str | None) -> str | None:
        """Return the text of a reply with the secrets masked; values that may be plain words are not masked."""
        for secret in self._secrets if text is not None else ():
            text = text.replace(secret, "***") if text is not None else None
        return text

    def hide_in_bytes(self, data: bytes) -> bytes:
        """`hide_in` for bytes that are not yet parsed, so that cutting them cannot leave a part of a secret."""
        for secret in self._secrets:
            data = data.replace(secret.encode(), b"***")
        return data

    def has_part(self, text: str) -> bool:
        """Whether a text is a part of a secret, ignoring case."""
        return any(text.casefold() in value.casefold() for value in self._values)

    def __repr__(self) -> str:
        # promise: S1 the repr of a key never shows its value
        return "Key(***)"

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled")


def _is_secret(value: str) -> bool:
    has_digits = any(letter.isdigit() for letter in value)
    return len(value) >= (MIN_SECRET_CHARACTERS if has_digits else MIN_CHARACTERS_WITHOUT_DIGITS)


def _with_parts(values: Iterable[str]) -> set[str]:
    """The values and their words: a service may repeat `Basic dXNlcjpwYXNz` without its scheme."""
    return {part for value in values for part in (value, *value.split())}


def read_key(endpoint: Endpoint) -> Key | None:
    """Read the key and the headers that an endpoint names; None if it names none.

    Raises BadJob, which names only the variable or block.
    """
    headers = {name: _read_header(name, variable) for name, variable in endpoint.headers_env.items()}
    if endpoint.auth == "azure":
        from parquill.tasks.job.azure_token import read_azure_key

        return read_azure_key(endpoint, headers)
    value = _read_value(endpoint)
    return Key(value, endpoint.auth, headers) if value is not None or headers else None


def read_keys(job: Job) -> list[Key | None]:
    """Read the key of each endpoint of a job, in their order. Raises BadJob as `read_key`."""
    return [read_key(each.endpoint) for each in job.each_endpoint]


def header_names(endpoint: Endpoint) -> dict[str, str]:
    """Map each header with credentials to what holds its value: a variable, a block, or Azure; nothing is read."""
    named = AZURE if endpoint.auth == "azure" else endpoint.api_key_env or endpoint.api_key_block
    own = {"api-key" if endpoint.auth == "api-key" else "Authorization": named} if named else {}
    return {**endpoint.headers_env, **own}


def _read_header(name: str, variable: str) -> str:
    where = f"the environment variable {variable} (of the header {name})"
    value = os.environ.get(variable)
    if value is None:
        raise BadJob(f"{where} is not set")
    value = value.strip()
    if not value:
        raise BadJob(f"{where} is blank")
    # promise: S2 a malformed header value is refused by the name of its variable
    if value[0] in "\"'" or not re.fullmatch(r"[\x20-\x7e]+", value):
        raise BadJob(f"{where} holds quotes, a line break or characters that no header has; set it again")
    return value


def _read_value(endpoint: Endpoint) -> str | None:
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
    # promise: S2 a malformed API key is refused by the name of its variable
    # promise: S2 validation covers the whole API key, not only its beginning
    if value[0] in "\"'" or not re.fullmatch(r"[\x21-\x7e]+", value):
        raise BadJob(f"{where} holds quotes, blanks or characters that no key has; set it again")
    return value


def _read_block(name: str, where: str) -> str:
    from prefect.blocks.system import Secret

    try:
        return str(Secret.load(name).get())  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001 - whatever Prefect raises may hold the value
        # promise: S2 the error for an unreadable credentials block does not chain the original error
        raise BadJob(f"{where} cannot be read") from None
