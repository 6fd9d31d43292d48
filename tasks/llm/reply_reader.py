"""Reads how a request ended: an answer, a failure that a 2xx reply reports, or another HTTP status.

The same reading serves single requests and the lines of a batch's result files. A key that the service repeats is
masked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx

from parquill.tasks.job.key import Key
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.bodies import is_stream, unwrap
from parquill.tasks.llm.failures import Failure, retry_after_of
from parquill.tasks.llm.limit_name import other_limit_name
from parquill.tasks.llm.outcomes import TABLE, Money, Retry, Rule, error_of_body, rule_for_status
from parquill.tasks.llm.protocol import Api
from parquill.tasks.llm.reasons import reason_of
from parquill.tasks.llm.replies import Reply, clean_label, parse_json
from parquill.tasks.llm.retry import retry_after_s
from parquill.tasks.records import Usage

# A token is at most a few dozen bytes of JSON; a thousand leave room. The request's own length is added, since some
# services repeat the request. Hostile JSON takes up to 25 times its size in memory, one reply at a time.
BYTES_PER_TOKEN = 1_000
MIN_CAP_BYTES = 1 << 20
MAX_CAP_BYTES = 16 << 20
ERROR_BODY_BYTES = 64 << 10
NO_HEADERS = httpx.Headers()


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

    @property
    def usage(self) -> Usage:
        """The usage that the reply reports; zero if it reports none, or none that is usable."""
        answer = self.reply or self.failure
        return (answer.usage if answer is not None else None) or Usage()


class ReplyReader:
    """Reads the replies to the requests of one job."""

    def __init__(
        self, job: ResolvedJob, api: Api, key: Key | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._api, self._key, self._now = api, key, now
        self._names = api.names
        self._may_rename = job.endpoint.limit_name is None
        # of a reply, besides what it repeats of its request
        self.max_bytes = max(MIN_CAP_BYTES, min(MAX_CAP_BYTES, job.max_output_tokens * BYTES_PER_TOKEN))

    def read(
        self, status: int, headers: httpx.Headers, data: bytes | None, sent: str, limit: str, sent_bytes: int = 0
    ) -> Result:
        """Read a reply of any status; `data` is its body, None if it is larger than it may be.

        Args:
            status: The HTTP status.
            headers: The reply's headers.
            data: The reply's body.
            sent: The request's prompt and own parameters, of which nothing is repeated.
            limit: The name under which the request had max_output_tokens.
            sent_bytes: The size of the request, which a service may repeat.
        """
        # promise: A5 a reply with any 2xx status is read as an answer
        if 200 <= status < 300:
            return self._read_answer(headers, status, data, self.max_bytes + sent_bytes, sent)
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

    def _read_answer(
        self, headers: httpx.Headers, status: int, data: bytes | None, max_bytes: int, sent: str
    ) -> Result:
        if data is None:
            return ended("reply_too_large")
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
            return self._api.read(data, is_stream=is_stream)
        # promise: S1 a key that a reply echoes is masked
        reply = self._api.read(key.hide_in_bytes(data), is_stream=is_stream)
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


def ended(code: str) -> Result:
    """Return the result of a request that got no reply."""
    rule = TABLE[code]
    return Result(rule, rule.sentence, None, NO_HEADERS, None)
