"""Calls for files, batches and figures: which call it is, whose key it has, which fault hits it, and a log of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import admin_api, batch_api
from .answers import BadRequestError
from .api_faults import ApiFaultBook, ApiRule
from .exchange import Manner, Reply, Request
from .replies import error, model_list

if TYPE_CHECKING:
    from collections.abc import Callable

    from .fake_openai import Service

    Handler = Callable[[Service, Request, str, bytes], Reply]

_PREFIXES = ("/v1/", "/openai/v1/")  # OpenAI's and Azure's


def _models(service: Service, _request: Request, _identity: str, _query: bytes) -> Reply:
    return model_list(service.models)


# `*` stands for an id.
_ROUTES: dict[str, tuple[str, Handler]] = {
    "GET models": ("models", _models),
    "POST files": ("upload", batch_api.upload),
    "GET files": ("files", batch_api.list_files),
    "GET files/*": ("file", batch_api.get_file),
    "DELETE files/*": ("delete", batch_api.delete_file),
    "GET files/*/content": ("content", batch_api.get_content),
    "POST batches": ("create", batch_api.create_batch),
    "GET batches": ("batches", batch_api.list_batches),
    "GET batches/*": ("batch", batch_api.get_batch),
    "POST batches/*/cancel": ("cancel", batch_api.cancel_batch),
    "GET organization/usage/completions": ("usage", admin_api.usage),
    "GET organization/costs": ("costs", admin_api.cost_page),
    "GET organization/projects": ("projects", admin_api.projects),
    "GET organization/projects/*/rate_limits": ("rate_limits", admin_api.rate_limits),
    "GET organization/projects/*/api_keys": ("api_keys", admin_api.api_keys),
    "GET organization/projects/*/spend_limit": ("spend_limit", admin_api.spend_limit),
    "GET organization/spend_limit": ("spend_limit", admin_api.spend_limit),
}
_ADMIN = {"usage", "costs", "rate_limits", "projects", "api_keys", "spend_limit"}


class Calls:
    """Answers all calls but those for completions, and remembers them."""

    def __init__(self) -> None:
        self.faults = ApiFaultBook()
        self.log: list[dict[str, Any]] = []

    def answer(self, service: Service, request: Request) -> Reply | None:
        """Return the reply to a call; None if it is none of these."""
        path, _, query = request.target.decode("latin-1").partition("?")
        found = _route(request.method.decode("latin-1"), path)
        if found is None:
            return None
        operation, handler, identity = found
        if operation == "batch":
            service.clock.advance(service.options.batch.poll_advance_s)
        service.batches.run()
        rule = self.faults.pick(service.options.batch.api_faults, operation, path)
        reply = self._refusal(service, request, operation)
        if reply is None and (rule is None or rule.carried_out):
            try:
                reply = handler(service, request, identity, query.encode("latin-1"))
            except BadRequestError as problem:
                reply = error(problem.status, str(problem), param=problem.param, code=problem.code)
        if rule is not None:
            reply = _spoiled(rule, reply)
        assert reply is not None
        self.log.append(
            {
                "at": service.clock.now,
                "real_at": request.at,
                "method": request.method.decode("latin-1"),
                "path": request.target.decode("latin-1"),
                "call": operation,
                "status": reply.status,
                "fault": None if rule is None else rule.kind,
                "sent_bytes": len(request.body),
            }
        )
        return reply

    @staticmethod
    def _refusal(service: Service, request: Request, operation: str) -> Reply | None:
        is_admin = request.header(b"authorization") == b"Bearer " + service.options.admin.key.encode()
        if operation not in _ADMIN:
            return None if service.key_fits(request) else error(401, code="invalid_api_key")
        if is_admin:
            return None
        if request.header(b"authorization"):
            return error(403, "You have insufficient permissions for this operation. An admin key is needed.")
        return error(401, code="invalid_api_key")


def _route(method: str, path: str) -> tuple[str, Handler, str] | None:
    """Return the name of a call, what answers it, and the id in its path."""
    prefix = next((each for each in _PREFIXES if path.startswith(each)), None)
    if prefix is None:
        return None
    parts = path.removeprefix(prefix).split("/")
    places = [place for place in (1, 2) if place < len(parts)]
    for place in (None, *places):
        pattern = "/".join("*" if index == place else part for index, part in enumerate(parts))
        found = _ROUTES.get(f"{method} {pattern}")
        if found is not None:
            return (*found, "" if place is None else parts[place])
    return None


def _spoiled(rule: ApiRule, reply: Reply | None) -> Reply:
    """Return what the client gets of a call that a rule hits."""
    delay_s = rule.delay_ms / 1000
    retry = b"" if rule.retry_after is None else b"retry-after: %b\r\n" % rule.retry_after.encode("latin-1")
    if rule.status is not None:
        code = "rate_limit_exceeded" if rule.status == 429 else None
        spoiled = error(rule.status, code=code, headers=retry)
    elif rule.kind in {"lost", "cut"} or reply is None:
        spoiled = Reply(0, b"", manner=Manner.NOTHING)
    elif rule.kind == "garbage":
        spoiled = Reply(200, b"<!doctype html><html><h1>Welcome to the gateway</h1></html>", content_type=b"text/html")
    elif rule.kind == "half":
        spoiled = Reply(reply.status, reply.body, content_type=reply.content_type, manner=Manner.BROKEN)
    else:
        spoiled = reply
    spoiled.delay_s = delay_s
    return spoiled
