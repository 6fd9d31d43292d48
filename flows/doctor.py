"""`parquill doctor`: what stands between a job and its first completion, and what to do about it. Nothing is paid."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from parquill.flows.engine import named_server
from parquill.tasks.errors import ParquillError
from parquill.tasks.job import Job
from parquill.tasks.money.prices import find_price, price_of
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.place import place
from parquill.tasks.rows.prepare import look
from parquill.tasks.wire.endpoint import parse_json
from parquill.tasks.wire.secrets import Key, read_key

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    told: str

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def examine(job: Job | None) -> list[Check]:
    """Check the installation, and the job if one is given."""
    checks = [_check("tokenizer files", _vocabularies), _check("prices", _prices), _check("Prefect", _prefect)]
    return [*checks, *_examine_job(job)] if job is not None else checks


def _check(name: str, look_at: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look_at())
    except ParquillError as error:
        return Check(name, False, str(error))


def _vocabularies() -> str:
    names = ("o200k_base", "cl100k_base", "p50k_base", "r50k_base")
    for name in names:
        TokenCounter("-", name)
    return ", ".join(names)


def _prices() -> str:
    price = find_price("gpt-4o-mini", None, datetime.now(UTC).date())
    return f"{price.source}, {price.version}"


def _prefect() -> str:
    version = importlib.metadata.version("prefect")
    if version != "3.9.1":
        raise ParquillError(f"Prefect {version} is installed; pip install 'prefect==3.9.1'")
    address = named_server()
    if not address:
        return f"{version}, with its embedded server (PREFECT_API_URL is not set)"
    from parquill.tasks.server.client import reaching, without_password  # Prefect takes 1.3 s to import

    told = without_password(address)
    try:
        with reaching(address) as client:
            reply = client.get(f"{address.rstrip('/')}/health")
    except (httpx.HTTPError, httpx.InvalidURL):
        raise ParquillError(f"no server answers at PREFECT_API_URL={told}; start it or unset the variable") from None
    if reply.status_code != 200:
        raise ParquillError(f"the server at PREFECT_API_URL={told} answers {reply.status_code}")
    return f"{version}, server {told}"


def _examine_job(job: Job) -> Iterator[Check]:
    day = datetime.now(job.zone).date()
    placed, _ = place(job, day, None, ())
    yield _check("input", lambda: f"{look(placed).rows:,} rows in {placed.input}")
    yield _check("price", lambda: _told_price(placed))
    yield _check("tokenizer", lambda: _tokenizer(placed))
    key: list[Key | None] = []
    yield _check("key", lambda: _key(placed, key))
    if key:
        reply: list[httpx.Response] = []
        yield _check("endpoint", lambda: _endpoint(placed, key[0], reply))
        if reply:
            yield _check("model", lambda: _model(placed, reply[0]))


def _told_price(job: Job) -> str:
    price = price_of(job, datetime.now(job.zone).date())
    band = price.bands[0]
    return f"${band.input / 1e9:g} input, ${band.output / 1e9:g} output per million tokens ({price.source})"


def _tokenizer(job: Job) -> str:
    counter = TokenCounter(job.model, job.tokenizer)
    return counter.name + ("" if counter.exact else ", as an approximation: the model's own is not public")


def _key(job: Job, found: list[Key | None]) -> str:
    found.append(read_key(job.endpoint))
    return job.endpoint.api_key_env or job.endpoint.api_key_block or "none is needed"


def _endpoint(job: Job, key: Key | None, found: list[httpx.Response]) -> str:
    url = f"{job.endpoint.base_url}/models"
    headers = {"Authorization": key.header()} if key else {}
    try:
        reply = httpx.get(url, headers=headers, timeout=TIMEOUT_S, trust_env=False, follow_redirects=False)
    except Exception:  # noqa: BLE001 - whatever it is, it may hold the header
        raise ParquillError(
            f"{job.endpoint.base_url} does not answer; is the address right, is the service up?"
        ) from None
    if reply.status_code in {401, 403}:
        raise ParquillError(f"{job.endpoint.base_url} refuses the key (HTTP {reply.status_code})")
    found.append(reply)
    return f"{job.endpoint.base_url} answers"


def _model(job: Job, reply: httpx.Response) -> str:
    document = parse_json(reply.content) if reply.status_code == 200 else None
    models = document.get("data") if isinstance(document, dict) else None
    names = (
        [m["id"] for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)]
        if isinstance(models, list)
        else []
    )
    if names and job.model not in names:
        raise ParquillError(f"the service does not list {job.model!r}; it lists {', '.join(sorted(names)[:10])}")
    return job.model if names else f"{job.model} (the service does not list its models)"
