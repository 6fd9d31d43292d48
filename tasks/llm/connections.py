"""Reuses connections only while they can be trusted, and bounds replies before they are read.

HTTP/1.1 replies have no id: the next bytes on a connection count as the reply to the last request. If a service, or a
proxy in front of it, sends two replies to one request, every later answer shifts by one row. So a connection on which
anything came unasked is closed and never used again, and after an unasked reply no connection of this service is used
twice. A late reply, which comes when the next request is already on its way, looks like an answer to that request. So a
connection rests for REST_INTERVAL_S before it is used again.

The raw bytes of a reply are counted from the first one, so endless heads, chunk extensions, blank lines and interim
replies cost little time and no memory. aiohttp has no public hook for either, so its version is bounded in pyproject.
"""

from __future__ import annotations

import asyncio
import functools
import select
from time import monotonic
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection

# Shorter than the 5 s after which common servers drop an idle connection: a request sent on a dropped one is in doubt.
KEEPALIVE_TIMEOUT_S = 4.0
REST_INTERVAL_S = 0.005
# More than the largest reply of a model that is read, its head and chunk overhead included.
MAX_RAW_BYTES = 32 << 20
# 100 Continue, 102 Processing, 103 Early Hints: a handful is usual, and each costs as much to parse as a reply.
MAX_INTERIM_REPLIES = 50


class ReplyTooLarge(Exception):
    """A reply exceeded its bound before it was read."""


class _Handler(ResponseHandler):
    """One connection, which counts what comes in reply to one request."""

    max_raw_bytes = MAX_RAW_BYTES
    _raw = 0
    _interim = 0
    _answered = False
    was_answered_unasked = False  # a reply came after the one that was asked for

    def set_response_params(self, **params: Any) -> None:
        """A new request begins here."""
        self._raw = self._interim = 0
        self._answered = False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Count, and give up beyond the bound."""
        self._raw += len(data)
        # promise: service: the raw bytes of a reply are bounded
        if self._raw > self.max_raw_bytes:
            self._give_up()
            return
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take one parsed head, interim or final; anything after the final one is an unasked reply."""
        # promise: C9 nothing received after the final reply is taken as an answer
        if self._answered:
            self.was_answered_unasked = True
            self.force_close()
            return
        self._answered = data[0].code >= 200
        self._interim += not self._answered
        # promise: service: the number of interim replies is bounded
        if self._interim > MAX_INTERIM_REPLIES:
            self._give_up()
            return
        super().feed_data(data, size)

    def _give_up(self) -> None:
        error = ReplyTooLarge()
        payload = self._payload
        self._buffer.clear()
        self.set_exception(error)
        if payload is not None and not payload.is_eof():
            payload.set_exception(error)
        if self.transport is not None:
            self.transport.abort()

    @property
    def is_idle_clean(self) -> bool:
        """Whether nothing came since the last reply: no further reply or part of one, and no end of the connection."""
        if self.should_close or self.transport is None:
            return False
        return not _is_readable(self.transport.get_extra_info("socket"))


def _make_handler(loop: asyncio.AbstractEventLoop, max_raw_bytes: int) -> ResponseHandler:
    made = _Handler(loop=loop)
    made.max_raw_bytes = max_raw_bytes
    return made


def _is_readable(socket: Any) -> bool:
    """Whether bytes, or the end, have arrived that the event loop has not handed over yet."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([socket], [], [], 0)[0])
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


class Connections(aiohttp.TCPConnector):
    """The connections of one client."""

    def __init__(self, max_raw_bytes: int = MAX_RAW_BYTES, **settings: Any) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEPALIVE_TIMEOUT_S, **settings)
        self._factory = functools.partial(_make_handler, self._loop, max_raw_bytes)

    async def _get(self, key: ConnectionKey, traces: list[Any]) -> Connection | None:
        idle = self._conns.get(key)
        if idle and (rest := idle[0][1] + REST_INTERVAL_S - monotonic()) > 0:
            # promise: C9 a connection stays idle for a short time before it is reused
            await asyncio.sleep(rest)
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            assert isinstance(protocol, _Handler)  # noqa: S101 - the factory above makes no other
            # promise: C9 a connection that received an unrequested reply is not reused
            if protocol.is_idle_clean and not self._force_close:
                return connection
            connection.close()  # this calls _release
        return None

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        if isinstance(protocol, _Handler) and protocol.was_answered_unasked:
            # promise: C9 after one unrequested reply, no connection of the client is reused
            self._force_close = True
        super()._release(key, protocol, should_close=should_close)
