"""The key of an endpoint: what it adds to the headers of a request, and what is masked in replies; never shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
