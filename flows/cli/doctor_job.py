"""The part of `parquill doctor` that is about a job: its input, and key, address, model and price of each endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime

from parquill.flows.cli.checks import Check, Hint, check
from parquill.flows.cli.doctor_account import examine_account
from parquill.tasks.errors import ParquillError
from parquill.tasks.job.api_key import header_names, read_key
from parquill.tasks.job.key import Key
from parquill.tasks.job.lanes import LANES_OF_API, TIERS
from parquill.tasks.job.reasoning import warn_of_thinking
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.job.settings import Job
from parquill.tasks.llm.address_check import Service, ask_for_models, get
from parquill.tasks.llm.model_list import ModelList
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.money.model_price import PriceBand
from parquill.tasks.money.prices import price_of
from parquill.tasks.money.shutdowns import find_shutdown, listed_shutdown
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.prompts.prepare import open_source
from parquill.tasks.prompts.resolve import resolve_job


def examine_job(job: Job, today: date) -> Iterator[Check]:
    """Check what a job needs, at each of its endpoints."""
    day = datetime.now(job.zone).date()
    resolved, _ = resolve_job(job, day, None, ())
    yield check("input", lambda: f"{open_source(resolved).rows:,} rows in {resolved.input}")
    jobs = resolved.each_endpoint
    for each, label in zip(jobs, resolved.labels_of_endpoints, strict=True):
        for found in _examine_endpoint(each, today):
            # promise: doctor: each of several endpoints is checked
            yield found if len(jobs) == 1 else replace(found, name=f"{found.name} at {label}")


def _examine_endpoint(job: ResolvedJob, today: date) -> Iterator[Check]:
    yield check("price", lambda: _price_source(job))
    yield check("tokenizer", lambda: _tokenizer(job))
    yield check("max_output_tokens", lambda: _output_tokens(job))
    key: list[Key | None] = []
    yield check("key", lambda: _key(job, key))
    service: list[Service] = []
    if key:
        yield check("endpoint", lambda: _endpoint(job, key[0], service))
    models = service[0].models if service else None
    if models is not None:
        yield check("model", lambda: _model(job, models))
    yield check("shutdown", lambda: _shutdown(job, models, today))
    if service and job.lane in {"batch", "auto"}:
        yield check("batches", lambda: _batches(job, key[0]))
    yield from examine_account(job)


def _price_source(job: Job) -> str:
    price = price_of(job, datetime.now(job.zone).date())
    asked = price.asked_bands[0]
    lanes = [
        f"{lane} {_usd(tier.bands[0])}"
        for lane in LANES_OF_API[job.endpoint.api]
        for tier in price.tiers
        if tier.name == TIERS[lane] != price.asked
    ]
    if price.asked and price.tiers:
        lanes.insert(0, f"live {_usd(price.bands[0])}")
    others = f"; {'; '.join(lanes)}" if lanes else ""
    return f"{_usd(asked)} per million tokens ({price.source}){others}"


def _usd(band: PriceBand) -> str:
    return f"${band.input / 1e9:g} input, ${band.output / 1e9:g} output"


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


def _batches(job: ResolvedJob, key: Key | None) -> str:
    """Look at the list of batches, which costs nothing: the key may read it, and the service has it."""
    url = job.endpoint.url("/batches")
    try:
        reply = get(url, key.headers() if key is not None else {})
    except Exception:  # noqa: BLE001 - whatever it is, it may hold the header
        raise ParquillError(f"{url} does not answer") from None
    if reply.status_code != 200:
        raise ParquillError(
            f"{url} answers HTTP {reply.status_code}: the key may not use batches there; use `lane: live`"
        )
    if job.limits.batch_tokens is not None:
        return f"the Batch API answers; limits.batch_tokens = {job.limits.batch_tokens:,}"
    return "the Batch API answers; limits.batch_tokens is not set, so the limit is learned when the service refuses one"


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
