"""What a test asks of a fake service and tells it, wherever the service runs."""

from __future__ import annotations

from typing import Any, Protocol

import orjson


class _Asks(Protocol):
    def _ask(self, method: str, path: str, content: bytes | None = None) -> Any: ...


class Controls:
    """The control routes as methods."""

    def stats(self: _Asks, *, full: bool = False) -> dict[str, Any]:
        """Return all counters; `full` adds `billed_map` and `in_flight_contents`."""
        figures: dict[str, Any] = self._ask("GET", "/_control/stats?full=1" if full else "/_control/stats")
        return figures

    def arrivals(self: _Asks) -> dict[str, list[Any]]:
        """Return `at` (time.monotonic), `tokens` (as the limits charge them) and `admitted`, one entry per request."""
        figures: dict[str, list[Any]] = self._ask("GET", "/_control/arrivals")
        return figures

    def log(self: _Asks) -> list[dict[str, Any]]:
        """Return the latest requests, oldest first; empty unless the option `log` is set."""
        entries: list[dict[str, Any]] = self._ask("GET", "/_control/log")
        return entries

    def calls(self: _Asks, *names: str) -> list[dict[str, Any]]:
        """Return all calls for files, batches and figures, oldest first, or those with these names (see api_faults.py).

        Each has `call`, `method`, `path`, `at` (the service's time), `real_at` (time.monotonic), `status`, `fault` and
        `sent_bytes`. The status is 0 if the connection was closed without one byte.
        """
        entries: list[dict[str, Any]] = self._ask("GET", "/_control/calls")
        return [each for each in entries if not names or each["call"] in names]

    def bills(self: _Asks) -> dict[str, Any]:
        """Return `lanes` (sums of each lane) and `rows` (each billed row of a batch); `usd` is exact, as text."""
        figures: dict[str, Any] = self._ask("GET", "/_control/bills")
        return figures

    def advance(self: _Asks, seconds: float) -> float:
        """Move the service's time forward, let happen what is due, and return the time."""
        now: float = self._ask("POST", "/_control/clock", orjson.dumps({"advance_s": seconds}))["now"]
        return now

    def reset(self: _Asks) -> None:
        """Start all accounts, limits and fault counts again; files and batches are gone. The options stay."""
        self._ask("POST", "/_control/reset")

    def configure(self: _Asks, **options: Any) -> dict[str, Any]:
        """Change options of the running service; return all options. `batch` and `admin` keep what is not given."""
        now: dict[str, Any] = self._ask("POST", "/_control/configure", orjson.dumps(options))
        return now
