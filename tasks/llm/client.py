"""Sends one request and classifies its reply: bounded in time and size, without secrets in errors.

What is the same for all requests of a job is built once. The transport of httpx is driven without httpx's client layer
(0.15-0.19 ms of CPU a request instead of 0.3). Redirects are not followed, cookies are not kept, proxies are not read
from the environment, and compressed replies are not asked for.

`httpx-aiohttp` maps refused and lost connections alike to `ConnectTimeout`, so the cause of an error decides. A
request counts as not sent only if no connection was established (DNS, refused, TLS); any later failure is in doubt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import httpx

from parquill.tasks.job.key import Key
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.connections import MAX_RAW_BYTES, Connections, ReplyTooLarge
from parquill.tasks.llm.outcomes import Retry
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.reply_reader import ERROR_BODY_BYTES, ReplyReader, Result, ended

# A connection that is not established by then is tried again: nothing was sent, so nothing is in doubt.
CONNECT_TIMEOUT_S = 15.0
# After so many requests that were refused under both names of max_output_tokens, the name is not at fault.
MAX_MISSED_NAMES = 5

_log = logging.getLogger("parquill.service")


class Client:
    """Sends requests of one job. Lives on one event loop."""

    def __init__(
        self,
        job: ResolvedJob,
        key: Key | None,
        transport: httpx.AsyncBaseTransport,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.api = APIS[job.endpoint.api](job)
        self._transport = transport
        self._url = httpx.URL(self.api.url)
        self._headers = {"Host": self._url.netloc.decode(), **self.api.headers(key)}
        self._renewed = key if key is not None and key.is_renewed else None
        self._timeout_s = job.retry.timeout_s
        # shorter than the deadline of the call, which does not show whether anything was sent
        self._extensions = {"timeout": {"connect": min(CONNECT_TIMEOUT_S, 0.9 * self._timeout_s)}}
        self._reader = ReplyReader(job, self.api, key, now)
        self._misses = 0

    async def send(self, messages: str, parameters: str | None, refused: Result | None = None) -> Result:
        """Send one request and classify how it ended. Raises nothing but cancellation.

        If the service refuses the name of max_output_tokens, which costs nothing, the result has a `limit_name`. Then
        the caller sends the request again at once, with that result as `refused`. Later requests use the other name
        from the start.
        """
        limit = self.api.limit if refused is None else refused.limit_name or self.api.limit
        result = await self._send(messages, parameters, limit)
        if refused is None:
            # promise: M7 the other name of the output limit is tried a few times only
            return result if self._misses < MAX_MISSED_NAMES else result._replace(limit_name=None)
        if result.limit_name is not None:  # neither name: the first refusal says more
            self._misses += 1
            return refused._replace(limit_name=None)
        if (result.reply is not None or result.rule.retry is Retry.REFUSAL) and self.api.limit != limit:
            self.api.limit = limit
            _log.warning(
                "the service expects max_output_tokens as %s; set endpoint.limit_name to avoid the first refusals",
                limit,
            )
        return result

    async def _send(self, messages: str, parameters: str | None, limit: str) -> Result:
        body = self.api.body(messages, parameters, limit)
        # promise: azure: each request has the token of its moment
        headers = self._headers if self._renewed is None else self._headers | self._renewed.headers()
        request = httpx.Request("POST", self._url, headers=headers, content=body, extensions=self._extensions)
        try:
            # promise: service: one timeout covers the whole request and its reply
            async with asyncio.timeout(self._timeout_s):
                response = await self._transport.handle_async_request(request)
                try:
                    data = await self._read(response, len(body))
                finally:
                    await response.aclose()
                sent = messages + (parameters or "")
                return self._reader.read(response.status_code, response.headers, data, sent, limit, len(body))
        except TimeoutError:
            return ended("timeout")
        except httpx.TransportError as error:
            # promise: S2 a transport error that may hold the key is replaced by an outcome
            return ended("connect_error" if was_not_sent(error) else "connection_lost")
        except ReplyTooLarge:
            return ended("reply_too_large")
        # promise: M5 a request that ends in an unexpected error is in doubt
        except Exception:  # noqa: BLE001 - whatever it is, it may hold headers, and the money is in doubt
            return ended("connection_lost")

    async def _read(self, response: httpx.Response, sent: int) -> bytes | None:
        cap = self._reader.max_bytes + sent if response.is_success else ERROR_BODY_BYTES
        data = bytearray()  # not a list of chunks: a chunk of two bytes would take forty
        async for chunk in response.stream:  # type: ignore[union-attr]
            data += chunk
            # promise: service: the size of a reply body is bounded
            if len(data) > cap:
                return None
        return bytes(data)


def was_not_sent(error: httpx.TransportError) -> bool:
    """Whether a request that failed was certainly not sent."""
    unsent = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    # promise: M5 only a request whose connection was never established counts as not sent
    return isinstance(error, httpx.ConnectError) or isinstance(error.__cause__, unsent)


def aiohttp_transport(max_raw_bytes: int = MAX_RAW_BYTES) -> httpx.AsyncBaseTransport:
    """Return the transport for real work: httpx's interface over aiohttp, which stays fast with 1,000 at once.

    A reply of more than `max_raw_bytes` is broken off.
    """
    from httpx_aiohttp import AiohttpTransport

    # the environment may name certificates to trust, but not a file for the TLS keys of connections
    transport: Any = AiohttpTransport(trust_env=True)
    # promise: S1 the client writes no TLS secrets to a key log file
    transport.ssl_context.keylog_filename = None

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=Connections(max_raw_bytes, ssl=transport.ssl_context),
            # promise: service: the client keeps no cookies
            cookie_jar=aiohttp.DummyCookieJar(),
            # promise: S1 the client uses no proxy or .netrc from the environment
            trust_env=False,
            auto_decompress=False,
            requote_redirect_url=False,
        )

    transport.client = session
    return transport  # type: ignore[no-any-return]
