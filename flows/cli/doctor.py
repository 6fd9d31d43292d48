"""`parquill doctor`: check what a job needs before its first completion, and say what to do. Nothing is paid."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import httpx

from parquill.flows.cli.prefect_server import check_home, check_patience, configured_server_url
from parquill.tasks.errors import ParquillError
from parquill.tasks.job.api_key import Key, header_names, read_key
from parquill.tasks.job.reasoning import warn_of_thinking
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.job.settings import Job
from parquill.tasks.limits.rate_ledger import RateLedger, describe
from parquill.tasks.llm.address_check import Service, ask_for_models
from parquill.tasks.llm.model_list import ModelList
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_database import ledger_url
from parquill.tasks.money.prices import find_price, price_of
from parquill.tasks.money.shutdowns import find_shutdown, listed_shutdown
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.prompts.prepare import open_source
from parquill.tasks.prompts.resolve import resolve_job


class Hint(str):
    """The text of a check that warns but does not fail."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. A check that is ok may still warn."""

    name: str
    ok: bool
    message: str
    warns: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def examine(job: Job | None, today: date | None = None) -> list[Check]:
    """Check the installation, and the job if one is given; `today` defaults to the current day (UTC)."""
    installed = {
        "tokenizer files": _vocabularies,
        "prices": _prices,
        "ledger": _ledger,
        "shared limits": _shared_limits,
        "Prefect": _prefect,
    }
    checks = [_check(name, look_at) for name, look_at in installed.items()]
    return [*checks, *_examine_job(job, today or datetime.now(UTC).date())] if job is not None else checks


def _check(name: str, look_at: Callable[[], str]) -> Check:
    try:
        answer = look_at()
        return Check(name, True, str(answer), isinstance(answer, Hint))
    except ParquillError as error:
        return Check(name, False, str(error))


def _vocabularies() -> str:
    names = ("o200k_base", "cl100k_base", "p50k_base", "r50k_base")
    for name in names:
        TokenCounter("-", name)
    return ", ".join(names)


def _prices() -> str:
    price = find_price("gpt-6-luna", None, datetime.now(UTC).date())
    return f"{price.source}, {price.version}"


def _ledger() -> str:
    Ledger().close()
    url = ledger_url()
    return url.database or "" if url.get_backend_name() == "sqlite" else "the database in PARQUILL_LEDGER_URL"


def _shared_limits() -> str:
    with RateLedger() as ledger:
        return "; ".join(describe(ledger.holders())) or "no run under way shares a limit"


def _prefect() -> str:
    version = importlib.metadata.version("prefect")
    if version != "3.9.1":
        raise ParquillError(f"Prefect {version} is installed; run pip install 'prefect==3.9.1'")
    check_patience()
    address = configured_server_url()
    if not address:
        return (
            f"{version}, with its embedded server (PREFECT_API_URL is not set), which keeps its files in {check_home()}"
        )
    from parquill.tasks.orchestration.api_client import http_client, without_password  # Prefect takes 1.3 s to import

    shown = without_password(address)
    try:
        with http_client(address) as client:
            reply = client.get(f"{address.rstrip('/')}/health")
    except (httpx.HTTPError, httpx.InvalidURL):
        raise ParquillError(f"no server answers at PREFECT_API_URL={shown}; start it or unset the variable") from None
    if reply.status_code == 404 and not shown.rstrip("/").endswith("/api"):
        raise ParquillError(f"no API answers at PREFECT_API_URL={shown}; is /api missing at its end?")
    if reply.status_code != 200:
        raise ParquillError(f"the server at PREFECT_API_URL={shown} answers {reply.status_code}")
    return f"{version}, server {shown}"


def _examine_job(job: Job, today: date) -> Iterator[Check]:
    day = datetime.now(job.zone).date()
    resolved, _ = resolve_job(job, day, None, ())
    yield _check("input", lambda: f"{open_source(resolved).rows:,} rows in {resolved.input}")
    yield _check("tokenizer", lambda: _tokenizer(resolved))
    jobs = resolved.each_endpoint
    for each, label in zip(jobs, resolved.labels_of_endpoints, strict=True):
        for check in _examine_endpoint(each, today):
            # promise: doctor: each of several endpoints is checked
            yield check if len(jobs) == 1 else replace(check, name=f"{check.name} at {label}")


def _examine_endpoint(job: ResolvedJob, today: date) -> Iterator[Check]:
    yield _check("price", lambda: _price_source(job))
    yield _check("max_output_tokens", lambda: _output_tokens(job))
    key: list[Key | None] = []
    yield _check("key", lambda: _key(job, key))
    service: list[Service] = []
    if key:
        yield _check("endpoint", lambda: _endpoint(job, key[0], service))
    models = service[0].models if service else None
    if models is not None:
        yield _check("model", lambda: _model(job, models))
    yield _check("shutdown", lambda: _shutdown(job, models, today))


def _price_source(job: Job) -> str:
    price = price_of(job, datetime.now(job.zone).date())
    band = price.asked_bands[0]
    return f"${band.input / 1e9:g} input, ${band.output / 1e9:g} output per million tokens ({price.source})"


def _tokenizer(job: Job) -> str:
    counter = TokenCounter(job.model, job.tokenizer)
    return counter.name + ("" if counter.exact else ", an approximation: the model's own tokenizer is not public")


def _key(job: Job, found: list[Key | None]) -> str:
    found.append(read_key(job.endpoint))
    sources = [f"{name} from {variable}" for name, variable in header_names(job.endpoint).items()]
    return ", ".join(sources) or "none is needed"


def _endpoint(job: ResolvedJob, key: Key | None, found: list[Service]) -> str:
    service = ask_for_models(job.endpoint, APIS[job.endpoint.api](job).path, key)
    found.append(service)
    message = f"{job.endpoint.base_url} answers"
    if service.models is not None:
        return message
    return Hint(
        f"{message}, but gives no list of models ({service.without}), so the name {job.model!r} was not checked"
    )


def _output_tokens(job: Job) -> str:
    warning = warn_of_thinking(job)
    return f"{job.max_output_tokens:,}" if warning is None else Hint(warning)


def _model(job: Job, models: ModelList) -> str:
    name = models.name_of(job.model)
    if name is not None:
        return job.model if name == job.model else f"{job.model} (the service lists it as {name})"
    message = f"the service does not list {job.model!r}; it lists {', '.join(models.nearest(job.model))}"
    if models.why_partial is not None:
        return Hint(f"{message}. It may still serve the model: {models.why_partial}")
    raise ParquillError(f"{message}. Correct `model`")


def _shutdown(job: Job, models: ModelList | None, today: date) -> str:
    name = models.name_of(job.model) if models is not None else None
    listed = listed_shutdown(job.model, models.names[name]) if models is not None and name is not None else None
    known = find_shutdown(job.model, job.endpoint.base_url)
    if listed is not None and known is not None:
        listed = replace(listed, instead=known.instead)
    found = listed or known
    if found is None:
        return f"none is known for {job.model}"
    # promise: doctor: a model that is shut down is a failure
    if found.is_past(today):
        raise ParquillError(found.sentence(today))
    return Hint(found.sentence(today))
