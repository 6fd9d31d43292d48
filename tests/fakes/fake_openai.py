"""A fake OpenAI-compatible service on a real socket: `python -m tests.fakes.fake_openai --port 0`.

It writes `READY <port>` to stdout and serves 127.0.0.1 until SIGTERM. Answers, token counts, delays and faults are
functions of the request's content and a seed, so two runs agree. A request passes these steps in order: key, body,
limits, faults, bill, answer. It is billed when it is admitted, even if its client does not live to read the answer.

It also has files and batches (batch_options.py says how they run) and the organization's figures (admin_options.py).
The same routes exist below /openai/v1, where Azure has them.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
import sys
import time
import traceback
from hashlib import sha256
from typing import Any

import uvloop

from .accounting import Books
from .answers import Answer, BadRequestError, Call, make_answer, read_call
from .api_faults import ApiFaultBook
from .batch_files import Files
from .batches import Batches
from .calls import Calls
from .clock import ServiceClock
from .control import control
from .draws import latency_s
from .exchange import Reply, Request
from .faults import FaultBook, Rule
from .limits import SlidingWindow, retry_headers
from .misbehavior import reply_to
from .options import Options, from_command_line
from .replies import error, over_limit
from .wire import Connection

_APIS = {
    prefix + path: api
    for prefix in (b"/v1", b"/openai/v1")
    for path, api in ((b"/chat/completions", "chat"), (b"/responses", "responses"), (b"/completions", "completions"))
}
_DEFAULT_MODELS = (
    "gpt-4o-mini",
    "gpt-4o",
    "gpt-4.1-mini",
    "o4-mini",
    "gpt-3.5-turbo",
    "gpt-3.5-turbo-instruct",
)


class Service:
    """All state of one service; connections pass requests to it and get replies."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.connections: set[Connection] = set()
        self.in_flight = 0
        self.window = SlidingWindow()
        self.faults = FaultBook()
        self.clock = ServiceClock(options.clock_start, running=options.clock == "running")
        self._key_ids: dict[bytes, str] = {}
        self._serial = 0
        self._start_books()

    def _start_books(self) -> None:
        self.books = Books(self.options.log)
        self.files = Files(self.options.seed)
        self.batches = Batches(self)
        self.calls = Calls()

    @property
    def models(self) -> tuple[str, ...]:
        """Return the models that there are, or some of them."""
        return self.options.models or _DEFAULT_MODELS

    def reset(self) -> None:
        """Start all accounts again; the options stay, and so does what is under way."""
        self.window.clear()
        self.faults = FaultBook()
        self._key_ids.clear()
        self._start_books()
        self.clock.restart(self.options.clock_start, running=self.options.clock == "running")
        self.books.max_in_flight = self.in_flight
        self.books.max_connections = len(self.connections)

    def configure(self, options: Options) -> None:
        """Use new options from the next request on; new faults count their attempts from 0."""
        if options.faults != self.options.faults:
            counts = self.faults.counts
            self.faults = FaultBook()
            self.faults.counts = counts
        if options.log != self.options.log:
            self.books.log = type(self.books.log)(self.books.log, maxlen=options.log)
        if options.batch.row_faults != self.options.batch.row_faults:
            self.batches.faults = FaultBook()
        if options.batch.api_faults != self.options.batch.api_faults:
            self.calls.faults = ApiFaultBook()
        if options.clock_start != self.options.clock_start:
            self.clock.restart(options.clock_start, running=options.clock == "running")
        elif options.clock != self.options.clock:
            self.clock.run(running=options.clock == "running")
        self.options = options

    def connected(self, connection: Connection) -> None:
        """Count a client that has connected."""
        self.connections.add(connection)
        self.books.connections_opened += 1
        self.books.max_connections = max(self.books.max_connections, len(self.connections))

    def disconnected(self, connection: Connection, *, reset: bool) -> None:
        """Record, for a client that has gone, the answers that it certainly did not read."""
        self.connections.discard(connection)
        if connection.waiting is not None:
            self.in_flight -= 1
            if connection.waiting.digest is not None:
                self.books.cut(connection.waiting.digest, "waiting")
        elif reset and connection.last_digest is not None:
            # The kernel resets a connection that is closed with bytes still unread.
            self.books.cut(connection.last_digest, "unread")

    def started(self) -> None:
        """Count a request that is answered later."""
        self.in_flight += 1
        self.books.max_in_flight = max(self.books.max_in_flight, self.in_flight)

    def finished(self) -> None:
        """Count the end of such a request."""
        self.in_flight -= 1

    def answered(self, reply: Reply) -> None:
        """Log that a reply goes out (or, for a hang, does not)."""
        if reply.entry is not None:
            reply.entry["answered_at"] = time.monotonic()

    def respond(self, request: Request) -> Reply:
        """Return the reply to one request; an error of our own is a 500 with its traceback on stderr."""
        try:
            api = _APIS.get(request.target)
            return self._complete(api, request) if api and request.method == b"POST" else self._other(request)
        except Exception as problem:  # noqa: BLE001 - a test must see our bug, not a lost connection
            traceback.print_exc()
            return error(500, f"The fake service itself failed: {problem!r}", kind="fake_failure")

    def _other(self, request: Request) -> Reply:
        if request.target.startswith(b"/_control/"):
            return control(self, request)
        target = request.target.partition(b"?")[0]
        if target == b"/health":
            return Reply(200, b'{"status":"ok"}')
        if target in _APIS:
            return error(405, "Not allowed to do that here; use POST.")
        reply = self.calls.answer(self, request)
        if reply is not None:
            return self._free(reply, request)
        if not self.key_fits(request):
            return self._free(error(401, code="invalid_api_key"), request)
        return self._free(error(404, "Unknown URL.", code="unknown_url"), request)

    def _complete(self, api: str, request: Request) -> Reply:
        options, books = self.options, self.books
        try:
            if not self.key_fits(request):
                raise BadRequestError("Incorrect API key provided.", code="invalid_api_key", status=401)  # noqa: TRY301
            call = read_call(api, request.body, options)
        except BadRequestError as problem:
            books.arrived(request.at, 0, admitted=False, most=options.arrivals)
            headers = self.window.headers(request.at, options)
            reply = error(problem.status, str(problem), param=problem.param, code=problem.code, headers=headers)
            return self._free(reply, request)
        answer = make_answer(call, options)
        output = answer.usage.completion
        if options.count_output == "reserved" and call.maximum is not None:
            output = call.maximum
        charge = call.prompt_tokens + output
        refusal = self.window.admit(request.at, charge, options)
        books.arrived(request.at, charge, admitted=refusal is None, most=options.arrivals)
        limit_headers = self.window.headers(request.at, options)
        if refusal is not None:
            books.refused[refusal.kind] += 1
            wait = b"" if refusal.wait_s is None else retry_headers(refusal.wait_s)
            return self._free(over_limit(refusal, call.model, wait + limit_headers), request, call)
        rule = self.faults.pick(options.faults, options.seed, call.digest, request.body)
        return self._admitted(call, answer, rule, request, limit_headers)

    def _admitted(self, call: Call, answer: Answer, rule: Rule | None, request: Request, limit_headers: bytes) -> Reply:
        options, books = self.options, self.books
        books.max_in_flight = max(books.max_in_flight, self.in_flight + 1)
        self._serial += 1
        identity = f"{call.digest[:8].hex()}{self._serial:08x}"
        reply = reply_to(call, answer, rule, request, identity, options.model_suffix)
        billed = rule is None or rule.bills
        if billed:
            books.bill(call.digest, answer.usage, remember=options.remember)
            model = call.model + options.model_suffix
            books.bills.add(self.clock.now, model, answer.usage, key_id=self.key_id(request), tier=answer.service_tier)
        books.answered(reply.status)
        reply.digest = call.digest
        reply.delay_s = latency_s(options.seed, call.digest, options.latency_ms, options.latency_sigma)
        reply.headers = b"%bx-request-id: req_%b\r\nopenai-processing-ms: %d\r\n%b" % (
            reply.headers, identity.encode(), reply.delay_s * 1000, limit_headers,
        )  # fmt: skip
        if options.log:
            self._log(request, reply, call, rule, billed=answer if billed else None)
        return reply

    def key_id(self, request: Request) -> str:
        """Return the name under which the bills know the key of a request."""
        key = request.header(b"authorization").removeprefix(b"Bearer ") or request.header(b"api-key")
        known = self._key_ids.get(key)
        if known is None:
            known = self._key_ids[key] = "key_" + sha256(key).hexdigest()[:16]
        return known

    @property
    def keys(self) -> dict[str, bytes]:
        """Return the keys that were used, by the names under which the bills know them."""
        return {identity: key for key, identity in self._key_ids.items()}

    def key_fits(self, request: Request) -> bool:
        """Return whether a request has the key that is required."""
        options = self.options
        if options.require_key is None:
            return True
        if request.header(b"authorization") == options.authorization:
            return True
        return request.header(b"api-key") == options.require_key.encode()

    def _free(self, reply: Reply, request: Request, call: Call | None = None) -> Reply:
        """Count a reply that costs nothing and was not admitted, and return it."""
        self.books.answered(reply.status)
        if self.options.log:
            self._log(request, reply, call, None, billed=None)
        return reply

    def _log(
        self, request: Request, reply: Reply, call: Call | None, rule: Rule | None, *, billed: Answer | None
    ) -> None:
        entry: dict[str, Any] = {
            "at": request.at,
            "answered_at": None,
            "method": request.method.decode("latin-1"),
            "target": request.target.decode("latin-1"),
            "content": call.digest.hex() if call else None,
            "status": reply.status,
            "fault": rule.kind if rule else None,
            "billed": billed is not None,
            "prompt_tokens": billed.usage.prompt if billed else 0,
            "completion_tokens": billed.usage.completion if billed else 0,
        }
        if self.options.log_bodies:
            entry["headers"] = request.headers()
            entry["body"] = request.body.decode("utf-8", "replace")
        reply.entry = entry
        self.books.log.append(entry)


async def _serve(port: int, options: Options) -> None:
    loop = asyncio.get_running_loop()
    service = Service(options)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    server = await loop.create_server(lambda: Connection(service, loop), sock=listener, backlog=4096)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    sys.stdout.write(f"READY {listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await stopped.wait()
    server.close()
    for connection in list(service.connections):
        connection.abort()


def main() -> None:
    """Serve until SIGTERM."""
    port, options = from_command_line(sys.argv[1:])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Long-lived objects here hold no cycles, so frequent collections would only cost time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    uvloop.run(_serve(port, options))


if __name__ == "__main__":
    main()
