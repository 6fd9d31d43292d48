"""`parquill doctor`: check what a job needs before its first completion, and say what to do. Nothing is paid."""

from __future__ import annotations

import importlib.metadata
from datetime import UTC, date, datetime

import httpx

from parquill.flows.cli.checks import Check, check
from parquill.flows.cli.doctor_job import examine_job
from parquill.flows.cli.prefect_server import check_home, check_patience, configured_server_url
from parquill.tasks.errors import ParquillError
from parquill.tasks.job.settings import Job
from parquill.tasks.limits.rate_ledger import RateLedger, describe
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_database import ledger_url
from parquill.tasks.money.prices import find_price
from parquill.tasks.money.tokens import TokenCounter


def examine(job: Job | None, today: date | None = None) -> list[Check]:
    """Check the installation, and the job if one is given; `today` defaults to the current day (UTC)."""
    installed = {
        "tokenizer files": _vocabularies,
        "prices": _prices,
        "ledger": _ledger,
        "shared limits": _shared_limits,
        "Prefect": _prefect,
    }
    checks = [check(name, look_at) for name, look_at in installed.items()]
    return [*checks, *examine_job(job, today or datetime.now(UTC).date())] if job is not None else checks


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
