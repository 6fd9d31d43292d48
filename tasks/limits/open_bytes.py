"""How much text of rows may be open at once: begun, and without an outcome yet."""

from __future__ import annotations

import asyncio
from collections import deque

# Each open row holds its messages, and while it is sent they are held two or three times more.
MAX_OPEN_BYTES = 64 << 20


class OpenBytes:
    """A bound over the bytes of open rows. A row larger than all of it is open alone."""

    def __init__(self, most: int = MAX_OPEN_BYTES) -> None:
        self._most = most
        self._open = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, size: int) -> None:
        """Wait until `size` bytes more may be open; those that came first go first."""
        if not self._waiting and self._fits(size):
            self._open += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was let in, and leaves at once
                self._open -= size
            self._wake()
            raise

    def release(self, size: int) -> None:
        """A row of `size` bytes has its outcome."""
        self._open -= size
        self._wake()

    def _fits(self, size: int) -> bool:
        return self._open == 0 or self._open + size <= self._most

    def _wake(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._fits(self._waiting[0][0])):
            size, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._open += size
                turn.set_result(None)
