"""A bound for the text of open rows: those that have begun and have no outcome yet."""

from __future__ import annotations

import asyncio
from collections import deque

# Each open row holds its messages in memory, two or three times more while it is sent.
MAX_OPEN_BYTES = 64 << 20


class OpenBytes:
    """Bounds the bytes of open rows. A row larger than the bound is open alone."""

    def __init__(self, most: int = MAX_OPEN_BYTES) -> None:
        self._most = most
        self._open = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, size: int) -> None:
        """Wait until `size` more bytes may be open; in the order of the calls."""
        if not self._waiting and self._fits(size):
            self._open += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # its bytes were counted already
                self._open -= size
            self._wake()
            raise

    def release(self, size: int) -> None:
        """A row of `size` bytes has its outcome."""
        self._open -= size
        self._wake()

    def _fits(self, size: int) -> bool:
        # promise: input: the bytes of open rows stay within their limit
        return self._open == 0 or self._open + size <= self._most

    def _wake(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._fits(self._waiting[0][0])):
            size, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._open += size
                turn.set_result(None)
