"""Strict rate limits: no window of `window_s` seconds admits more than the limit."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .options import Options


class Refusal(NamedTuple):
    """Why a request was not admitted; `wait_s` is None if waiting cannot help."""

    kind: str
    limit: int
    used: int
    requested: int
    wait_s: float | None


class SlidingWindow:
    """The admissions of the last window, each with its exact time: no bucket, so no burst of twice the limit."""

    def __init__(self) -> None:
        self._admitted: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def clear(self) -> None:
        """Forget all admissions."""
        self._admitted.clear()
        self._tokens = 0

    def admit(self, now: float, charge: int, options: Options) -> Refusal | None:
        """Admit one request and its tokens, or return how long until they fit; a refusal uses up nothing."""
        rpm, tpm = options.rpm, options.tpm
        if rpm is None and tpm is None:
            return None
        self._forget(now - options.window_s)
        used = len(self._admitted)
        refusals = []
        if rpm is not None and used >= rpm:
            wait = self._admitted[used - rpm][0] + options.window_s - now if rpm else None
            refusals.append(Refusal("requests", rpm, used, 1, wait))
        if tpm is not None and self._tokens + charge > tpm:
            wait = self._wait_for_tokens(self._tokens + charge - tpm, now, options) if charge <= tpm else None
            refusals.append(Refusal("tokens", tpm, self._tokens, charge, wait))
        if refusals:
            return max(refusals, key=lambda refusal: math.inf if refusal.wait_s is None else refusal.wait_s)
        self._admitted.append((now, charge))
        self._tokens += charge
        return None

    def _forget(self, before: float) -> None:
        admitted = self._admitted
        while admitted and admitted[0][0] <= before:
            self._tokens -= admitted.popleft()[1]

    def _wait_for_tokens(self, excess: int, now: float, options: Options) -> float:
        for at, tokens in self._admitted:
            excess -= tokens
            if excess <= 0:
                return at + options.window_s - now
        return options.window_s

    def headers(self, now: float, options: Options) -> bytes:
        """Return the x-ratelimit headers; reset is the time until the window is empty again."""
        rpm, tpm = options.rpm, options.tpm
        if rpm is None and tpm is None:
            return b""
        reset = duration(self._admitted[-1][0] + options.window_s - now) if self._admitted else "0s"
        text = ""
        if rpm is not None:
            text += _three("requests", rpm, rpm - len(self._admitted), reset)
        if tpm is not None:
            text += _three("tokens", tpm, tpm - self._tokens, reset)
        return text.encode()


def _three(kind: str, limit: int, left: int, reset: str) -> str:
    return (
        f"x-ratelimit-limit-{kind}: {limit}\r\nx-ratelimit-remaining-{kind}: {max(0, left)}\r\n"
        f"x-ratelimit-reset-{kind}: {reset}\r\n"
    )


def duration(seconds: float) -> str:
    """Format a duration as OpenAI does: `12ms`, `8.64s`, `6m0s`."""
    milliseconds = max(0, math.ceil(round(seconds * 1000, 6)))  # a difference of clock readings has a rounding error
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"


def retry_headers(wait_s: float) -> bytes:
    """Return `retry-after` in whole seconds and `retry-after-ms`, rounded up, so that a client that obeys waits long
    enough.
    """
    wait = max(0.0, wait_s)
    return b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (math.ceil(wait), math.ceil(wait * 1000))
