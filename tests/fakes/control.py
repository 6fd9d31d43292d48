"""The routes under /_control: figures out, options in. They are not counted and not limited."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson

from .exchange import Reply, Request
from .option_kinds import BadOptionError, number
from .replies import error

if TYPE_CHECKING:
    from collections.abc import Callable

    from .fake_openai import Service


def control(service: Service, request: Request) -> Reply:
    """Answer one control request."""
    target, _, query = request.target.partition(b"?")
    name = (request.method + b" " + target.removeprefix(b"/_control/")).decode("latin-1")
    route = _ROUTES.get(name)
    if route is None:
        return error(404, f"No control route {name!r}; there are {sorted(_ROUTES)}.")
    try:
        return Reply(200, orjson.dumps(route(service, query, request.body)))
    except (orjson.JSONDecodeError, BadOptionError) as problem:
        return error(400, str(problem))


def _reset(service: Service) -> dict[str, Any]:
    service.reset()
    return {"reset": True}


def _configure(service: Service, body: bytes) -> dict[str, Any]:
    values = orjson.loads(body or b"{}")
    if not isinstance(values, dict):
        raise BadOptionError("an object of options is wanted")
    service.configure(service.options.changed(values))
    return asdict(service.options)


def _move_clock(service: Service, body: bytes) -> dict[str, float]:
    """Move the time by `advance_s`, and let happen what is due; the answer is the time."""
    values = orjson.loads(body or b"{}")
    if not isinstance(values, dict) or set(values) - {"advance_s"}:
        raise BadOptionError("an object with advance_s is wanted")
    service.clock.advance(number(values.get("advance_s", 0)))
    service.batches.run()
    return {"now": service.clock.now}


def _bills(service: Service) -> dict[str, Any]:
    service.batches.run()
    return service.books.bills.figures(service.options.admin)


def _stats(service: Service, *, full: bool) -> dict[str, Any]:
    figures = service.books.stats(full=full)
    figures["faults"] = service.faults.counts
    figures["in_flight"] = service.in_flight
    figures["connections_open"] = len(service.connections)
    figures["now"] = time.monotonic()
    figures["cpu_s"] = time.process_time()
    figures["pid"] = os.getpid()
    if full:
        waiting = [each.waiting.digest for each in service.connections if each.waiting is not None]
        figures["in_flight_contents"] = sorted(digest.hex() for digest in waiting if digest is not None)
    return figures


_ROUTES: dict[str, Callable[[Service, bytes, bytes], Any]] = {
    "GET stats": lambda service, query, _: _stats(service, full=b"full=1" in query),
    "GET arrivals": lambda service, *_: service.books.arrivals(),
    "GET log": lambda service, *_: list(service.books.log),
    "GET options": lambda service, *_: asdict(service.options),
    "GET calls": lambda service, *_: service.calls.log,
    "GET bills": lambda service, *_: _bills(service),
    "POST clock": lambda service, _, body: _move_clock(service, body),
    "POST reset": lambda service, *_: _reset(service),
    "POST configure": lambda service, _, body: _configure(service, body),
}
