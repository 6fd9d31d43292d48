"""One class per API: where its requests go, what they hold, and how its replies are read (in `replies`).

Another service is another class with the members of `Api`, and its name in APIS.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from parquill.tasks.job.key import Key
from parquill.tasks.job.lanes import TIERS
from parquill.tasks.job.providers import is_openai
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.job.response_format import ResponseFormat
from parquill.tasks.llm.failures import Failure
from parquill.tasks.llm.limit_name import NAMES
from parquill.tasks.llm.replies import ChatReplies, CompletionsReplies, Reply, ResponsesReplies

# Models that take max_completion_tokens and refuse max_tokens (OpenAI, "Reasoning models"), also fine-tuned and resold.
_REASONING = re.compile(r"(?:^|[/:.])(?:o\d+(?=[-:@]|$)|gpt-[5-9]|codex-)", re.IGNORECASE)


class Api(Protocol):
    """All that the client, `preview` and `doctor` need of an API, for the requests of one job."""

    path: str  # of its requests, after the base_url
    url: str
    limit: str  # the name of max_output_tokens in a request; replaced once a refusal names another
    names: frozenset[str]  # the request's own members, which an error may name

    def headers(self, key: Key | None) -> dict[str, str]:
        """Return the headers of every request except `Host`."""

    def body(self, messages: str, parameters: str | None, limit: str | None = None) -> bytes:
        """Return the request's JSON; `messages` and the row's own `parameters` are already JSON.

        `limit` is the name of max_output_tokens, by default `self.limit`.
        """

    def read(self, data: bytes, *, is_stream: bool = False) -> Reply | Failure | None:
        """Read a 2xx reply: an answer or the failure that it reports; None if it is no reply of this API."""


class ChatApi(ChatReplies):
    """POST /chat/completions."""

    path = "/chat/completions"
    field = "messages"

    def __init__(self, job: ResolvedJob) -> None:
        self.url = job.endpoint.url(self.path)
        self._fixed = {
            "model": job.model,
            **self.format(job.answer_format),
            **self._tier(job),
        }
        self._parameters = {**self._cache_key(job), **job.parameters}
        self._most = job.max_output_tokens
        self.limit = job.endpoint.limit_name or self.limit_name(job.model)
        self._heads = {self.limit: self._open(None, self.limit)}
        self.names = frozenset({self.field, *self._fixed, *self._parameters, *NAMES})

    def headers(self, key: Key | None) -> dict[str, str]:
        """Return the headers of every request except `Host`. Compression is not asked for: replies are small."""
        own = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "parquill",
        }
        return own if key is None else {**own, **key.headers()}

    def limit_name(self, model: str) -> str:
        """Return the name under which this API and model take max_output_tokens."""
        return "max_completion_tokens" if _REASONING.search(model) else "max_tokens"

    def format(self, asked: ResponseFormat | None) -> dict[str, Any]:
        """Return the request's members for a response_format."""
        if asked is None:
            return {}
        if asked.schema is None:
            return {"response_format": {"type": "json_object"}}
        return {"response_format": {"type": "json_schema", "json_schema": asked.members()}}

    def _cache_key(self, job: ResolvedJob) -> dict[str, Any]:
        """Name the cache that the rows of a template share at OpenAI, unless the job's parameters name one.

        OpenAI routes requests by their beginning and this key. Other services may refuse a parameter they do not know.
        """
        if not is_openai(job.endpoint.base_url):
            return {}
        template = job.messages_column if job.prompt is None else job.prompt.model_dump()
        # promise: cache: requests of one template name one cache at OpenAI
        digest = hashlib.sha256(orjson.dumps([job.model, template], option=orjson.OPT_SORT_KEYS)).hexdigest()
        return {"prompt_cache_key": f"parquill-{digest[:24]}"}

    def _tier(self, job: ResolvedJob) -> dict[str, Any]:
        """Name the lane's tier. At OpenAI a project's default may be `priority`, at twice the standard price."""
        if job.lane == "batch":  # a batch has its own price, whatever the project's tier
            return {}
        # promise: M6 requests of the flex lane ask for its tier
        if tier := TIERS.get(job.lane):
            return {"service_tier": tier}
        # promise: M1 requests to OpenAI name the standard service tier
        return {"service_tier": "default"} if is_openai(job.endpoint.base_url) else {}

    def _open(self, parameters: dict[str, Any] | None, limit: str) -> bytes:
        whole = orjson.dumps({**self._parameters, **(parameters or {}), **self._fixed, limit: self._most})
        return whole[:-1] + b',"' + self.field.encode() + b'":'

    def body(self, messages: str, parameters: str | None, limit: str | None = None) -> bytes:
        """Return the request's JSON, with a head that is written once for all rows without own parameters."""
        limit = limit or self.limit
        if parameters is not None:
            head = self._open(orjson.loads(parameters), limit)
        elif (known := self._heads.get(limit)) is not None:
            head = known
        else:
            head = self._heads[limit] = self._open(None, limit)
        return head + messages.encode() + b"}"


class CompletionsApi(CompletionsReplies, ChatApi):
    """POST /completions, the legacy API: one text in, one text out."""

    path = "/completions"
    field = "prompt"

    def _cache_key(self, job: ResolvedJob) -> dict[str, Any]:  # noqa: ARG002 - this API has no such parameter
        return {}

    def _tier(self, job: ResolvedJob) -> dict[str, Any]:  # noqa: ARG002 - this API has no tiers
        return {}

    def limit_name(self, model: str) -> str:  # noqa: ARG002 - one name for all models
        """Always max_tokens."""
        return "max_tokens"


class ResponsesApi(ResponsesReplies, ChatApi):
    """POST /responses."""

    path = "/responses"
    field = "input"

    def limit_name(self, model: str) -> str:  # noqa: ARG002 - one name for all models
        """Always max_output_tokens."""
        return "max_output_tokens"

    def format(self, asked: ResponseFormat | None) -> dict[str, Any]:
        """Return the members: the format under text.format, and `store` off, since answers are kept only here."""
        off: dict[str, Any] = {"store": False}
        if asked is None:
            return off
        if asked.schema is None:
            return {**off, "text": {"format": {"type": "json_object"}}}
        return {**off, "text": {"format": {"type": "json_schema", **asked.members()}}}


APIS: dict[str, Callable[[ResolvedJob], Api]] = {
    "chat": ChatApi,
    "completions": CompletionsApi,
    "responses": ResponsesApi,
}
