"""What came and what was billed, and to whom: tests compare the product's own figures with these."""

from __future__ import annotations

from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

from .bills import Bills

if TYPE_CHECKING:
    from .answers import Usage

# Bills by content are packed into one integer (how often | prompt tokens | completion tokens), because a
# million small tuples would make the fake service the largest process of a memory test.
_ONCE = 1 << 96
_PROMPT = 1 << 48
_MASK = _PROMPT - 1


class Books:
    """All counters. `/_control/reset` starts them again; what is in flight or connected stays."""

    def __init__(self, log_size: int) -> None:
        self.requests = 0
        self.statuses: dict[str, int] = {}
        self.refused = {"requests": 0, "tokens": 0}
        self.billed_requests = 0
        self.billed_tokens = {"prompt": 0, "cached": 0, "cache_write": 0, "completion": 0, "reasoning": 0}
        self.max_in_flight = 0
        self.max_connections = 0
        self.connections_opened = 0
        self.log: deque[dict[str, Any]] = deque(maxlen=log_size)
        self.bills = Bills()
        self._bills: dict[bytes, int] = {}
        self._twice: set[bytes] = set()
        self._cut: dict[bytes, str] = {}
        self._at = array("d")
        self._charges = array("q")
        self._admitted = array("b")

    def arrived(self, at: float, charge: int, *, admitted: bool, most: int) -> None:
        """Record one arrival, with the tokens that the limits count for it."""
        self.requests += 1
        if len(self._at) < most:
            self._at.append(at)
            self._charges.append(charge)
            self._admitted.append(admitted)

    def bill(self, digest: bytes, usage: Usage, *, remember: bool) -> None:
        """Charge for one answer."""
        self.billed_requests += 1
        tokens = self.billed_tokens
        tokens["prompt"] += usage.prompt
        tokens["cached"] += usage.cached
        tokens["cache_write"] += usage.cache_write
        tokens["completion"] += usage.completion
        tokens["reasoning"] += usage.reasoning
        if remember:
            before = self._bills.get(digest, 0)
            self._bills[digest] = before + _ONCE + usage.prompt * _PROMPT + usage.completion
            if before:
                self._twice.add(digest)

    def answered(self, status: int) -> None:
        """Count a status when it is decided; 0 is a connection that was closed or left hanging."""
        name = str(status) if status else "none"
        self.statuses[name] = self.statuses.get(name, 0) + 1

    def cut(self, digest: bytes, how: str) -> None:
        """Record a client that went away with an answer open: still `waiting` for it, or with bytes `unread`."""
        self._cut[digest] = how

    def stats(self, *, full: bool) -> dict[str, Any]:
        """Return all figures as JSON."""
        figures: dict[str, Any] = {
            "requests": self.requests,
            "statuses": self.statuses,
            "refused": self.refused,
            "billed": len(self._bills),
            "billed_requests": self.billed_requests,
            "billed_tokens": self.billed_tokens,
            "billed_twice": sorted(digest.hex() for digest in self._twice),
            "cut_by_client": {digest.hex(): how for digest, how in self._cut.items()},
            "max_in_flight": self.max_in_flight,
            "connections_opened": self.connections_opened,
            "max_connections": self.max_connections,
            "first_arrival": self._at[0] if self._at else None,
            "last_arrival": self._at[-1] if self._at else None,
        }
        if full:
            figures["billed_map"] = {
                digest.hex(): [bill >> 96, bill >> 48 & _MASK, bill & _MASK] for digest, bill in self._bills.items()
            }
        return figures

    def arrivals(self) -> dict[str, Any]:
        """Return when each request came (time.monotonic), its tokens by the limits, and whether they admitted it."""
        return {
            "at": self._at.tolist(),
            "tokens": self._charges.tolist(),
            "admitted": [bool(flag) for flag in self._admitted],
            "complete": len(self._at) == self.requests,
        }
