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
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
import httpx

from parquill.tasks.job.api_key import Key
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.bodies import is_stream, unwrap
from parquill.tasks.llm.connections import Connections, ReplyTooLarge
from parquill.tasks.llm.failures import Failure, retry_after_of
from parquill.tasks.llm.limit_name import other_limit_name
from parquill.tasks.llm.outcomes import TABLE, Money, Retry, Rule, error_of_body, rule_for_status
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.reasons import reason_of
from parquill.tasks.llm.replies import Reply, clean_label, parse_json
from parquill.tasks.llm.retry import retry_after_s

# A token is at most a few dozen bytes of JSON; a thousand leave room. The request's own length is added, since some
# services repeat the request. Hostile JSON takes up to 25 times its size in memory, one reply at a time.
BYTES_PER_TOKEN = 1_000
MIN_CAP_BYTES = 1 << 20
MAX_CAP_BYTES = 16 << 20
ERROR_BODY_BYTES = 64 << 10
# A connection that is not established by then is tried again: nothing was sent, so nothing is in doubt.
CONNECT_TIMEOUT_S = 15.0
# After so many requests that were refused under both names of max_output_tokens, the name is not at fault.
MAX_MISSED_NAMES = 5

_log = logging.getLogger("parquill.service")


class Result(NamedTuple):
    """How one request ended; `reply` is set only if the service answered 2xx with an answer.

    `signature` is equal for refusals that are alike, also of different rows. `failure` is what a 2xx reply reports.
    """

    rule: Rule
    sentence: str
    reply: Reply | None
    headers: httpx.Headers
    retry_after: float | None
    signature: object = None
    failure: Failure | None = None
    limit_name: str | None = None  # the name of max_output_tokens that a refusal asks for

    @property
    def money(self) -> Money:
        """What the request did to the budget."""
        return self.rule.money if self.failure is None else self.failure.money(self.rule)


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
        self._key = key
        self._timeout_s = job.retry.timeout_s
        # shorter than the deadline of the call, which does not show whether anything was sent
        self._extensions = {"timeout": {"connect": min(CONNECT_TIMEOUT_S, 0.9 * self._timeout_s)}}
        self._cap = max(MIN_CAP_BYTES, min(MAX_CAP_BYTES, job.max_output_tokens * BYTES_PER_TOKEN))
        self._now = now
        self._names = self.api.names
        self._may_rename = job.endpoint.limit_name is None
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
        request = httpx.Request("POST", self._url, headers=self._headers, content=body, extensions=self._extensions)
        try:
            # promise: service: one timeout covers the whole request and its reply
            async with asyncio.timeout(self._timeout_s):
                response = await self._transport.handle_async_request(request)
                try:
                    data = await self._read(response, len(body))
                finally:
                    await response.aclose()
                return self._classify(response, data, len(body), messages + (parameters or ""), limit)
        except TimeoutError:
            return _ended("timeout")
        except httpx.TransportError as error:
            # promise: S2 a transport error that may hold the key is replaced by an outcome
            return _ended("connect_error" if was_not_sent(error) else "connection_lost")
        except ReplyTooLarge:
            return _ended("reply_too_large")
        # promise: M5 a request that ends in an unexpected error is in doubt
        except Exception:  # noqa: BLE001 - whatever it is, it may hold headers, and the money is in doubt
            return _ended("connection_lost")

    async def _read(self, response: httpx.Response, sent: int) -> bytes | None:
        cap = self._cap + sent if response.is_success else ERROR_BODY_BYTES
        data = bytearray()  # not a list of chunks: a chunk of two bytes would take forty
        async for chunk in response.stream:  # type: ignore[union-attr]
            data += chunk
            # promise: service: the size of a reply body is bounded
            if len(data) > cap:
                return None
        return bytes(data)

    def _classify(self, response: httpx.Response, data: bytes | None, sent_bytes: int, sent: str, limit: str) -> Result:
        headers, status = response.headers, response.status_code
        # promise: A5 a reply with any 2xx status is read as an answer
        if response.is_success:
            return self._classify_reply(headers, status, data, self._cap + sent_bytes, sent)
        plain = unwrap(headers, data, ERROR_BODY_BYTES) if data else None
        document = parse_json(plain) if plain else None
        error = error_of_body(document)
        wait = self._wait_s(headers, error)
        found = rule_for_status(status, retry_after=wait is not None, document=document)
        result = self._failed(*found, headers, wait, error, sent)
        if result.rule.retry is Retry.REFUSAL and self._may_rename:
            return result._replace(limit_name=other_limit_name(error, limit))
        return result

    def _wait_s(self, headers: httpx.Headers, error: Mapping[str, Any] | None) -> float | None:
        """Return the seconds that a failure asks to wait, by its headers or else by its body."""
        wait = retry_after_s(headers, self._now())
        return retry_after_of(error) if wait is None else wait

    def _failed(
        self,
        rule: Rule,
        sentence: str,
        headers: httpx.Headers,
        wait: float | None,
        error: Mapping[str, Any] | None,
        sent: str,
        failure: Failure | None = None,
    ) -> Result:
        wait = None if rule.retry in {Retry.NEVER, Retry.REFUSAL} else wait
        reason = reason_of(error, sent, self._names, self._key)
        message = f"{sentence}: {reason}" if reason else sentence
        return Result(rule, message, None, headers, wait, (rule.code, sentence), failure)

    def _classify_reply(
        self, headers: httpx.Headers, status: int, data: bytes | None, max_bytes: int, sent: str
    ) -> Result:
        if data is None:
            return _ended("reply_too_large")
        plain = unwrap(headers, data, max_bytes)
        reply = None if plain is None else self._read_reply(plain, is_stream=is_stream(headers, plain))
        if reply is None:
            rule = TABLE["bad_reply"]
            kind = clean_label(headers.get("content-type", "")) or "no content type"
            return Result(rule, f"{rule.sentence} (HTTP {status}, {kind}, {len(data):,} bytes)", None, headers, None)
        if isinstance(reply, Failure):
            wait = self._wait_s(headers, reply.error)
            return self._failed(
                *reply.rule(retry_after=wait is not None), headers, wait, reply.error, sent, failure=reply
            )
        rule = TABLE[reply.code]
        return Result(rule, reply.sentence(rule), reply, headers, None)

    def _read_reply(self, data: bytes, *, is_stream: bool) -> Reply | Failure | None:
        """Read a reply with the key masked, so that a service that echoes it does not put it into the results."""
        key = self._key
        if key is None:
            return self.api.read(data, is_stream=is_stream)
        # promise: S1 a key that a reply echoes is masked
        reply = self.api.read(key.hide_in_bytes(data), is_stream=is_stream)
        if not isinstance(reply, Reply) or b"\\u00" not in data:
            return reply
        return replace(  # JSON can write any letter as an escape
            reply,
            # promise: S1 a key that a reply echoes in JSON escapes is masked
            text=key.hide_in(reply.text),
            finish_reason=key.hide_in(reply.finish_reason),
            model=key.hide_in(reply.model),
            request_id=key.hide_in(reply.request_id),
            service_tier=key.hide_in(reply.service_tier),
        )


def was_not_sent(error: httpx.TransportError) -> bool:
    """Whether a request that failed was certainly not sent."""
    unsent = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    # promise: M5 only a request whose connection was never established counts as not sent
    return isinstance(error, httpx.ConnectError) or isinstance(error.__cause__, unsent)


_NO_HEADERS = httpx.Headers()


def _ended(code: str) -> Result:
    rule = TABLE[code]
    return Result(rule, rule.sentence, None, _NO_HEADERS, None)


def aiohttp_transport() -> httpx.AsyncBaseTransport:
    """Return the transport for real work: httpx's interface over aiohttp, which stays fast with 1,000 at once."""
    from httpx_aiohttp import AiohttpTransport

    # the environment may name certificates to trust, but not a file for the TLS keys of connections
    transport: Any = AiohttpTransport(trust_env=True)
    # promise: S1 the client writes no TLS secrets to a key log file
    transport.ssl_context.keylog_filename = None

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=Connections(ssl=transport.ssl_context),
            # promise: service: the client keeps no cookies
            cookie_jar=aiohttp.DummyCookieJar(),
            # promise: S1 the client uses no proxy or .netrc from the environment
            trust_env=False,
            auto_decompress=False,
            requote_redirect_url=False,
        )

    transport.client = session
    return transport  # type: ignore[no-any-return]
