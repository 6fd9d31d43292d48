"""The part of `parquill doctor` that needs an admin key: the account's rate limits and its hard spend limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal

from parquill.flows.cli.checks import Check, Hint, check
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.admin_api import AdminApi, project_of
from parquill.tasks.money.amounts import format_usd, usd_to_nano

NO_PROJECT = "to see the limits of the job's project, name it: `headers_env: {OpenAI-Project: VARIABLE}`"


def examine_account(job: ResolvedJob) -> Iterator[Check]:
    """Check the limits of the account of an endpoint, if the job names an admin key for it and the key is set."""
    named = job.endpoint.admin_key_env
    # the default of OpenAI's address is a variable that most people do not have
    if named is None or (named == "OPENAI_ADMIN_KEY" and named not in os.environ):
        return
    projects: list[str | None] = []

    def admin() -> AdminApi:
        api = AdminApi.of(job.endpoint)
        if not projects:
            projects.append(project_of(job.endpoint) or api.only_project())
        return api

    yield check("rate limits", lambda: _rate_limits(job, admin(), projects[0]))
    yield check("spend limit", lambda: _spend_limit(job, admin(), projects[0]))


def _rate_limits(job: ResolvedJob, api: AdminApi, project: str | None) -> str:
    if project is None:
        return Hint(NO_PROJECT)
    found = api.limits(project, job.model)
    if found is None:
        return Hint(f"the project lists no limits for {job.model!r}")
    known = {
        "requests a minute": (found.requests_per_minute, job.limits.requests_per_minute, "requests_per_minute"),
        "tokens a minute": (found.tokens_per_minute, job.limits.tokens_per_minute, "tokens_per_minute"),
        "tokens waiting in batches": (found.batch_tokens, job.limits.batch_tokens, "batch_tokens"),
    }
    shown = ", ".join(f"{limit:,} {what}" for what, (limit, _, _) in known.items() if limit is not None)
    above = [
        f"limits.{name} = {own:,} is more than the project has"
        for limit, own, name in known.values()
        if limit is not None and own is not None and own > limit
    ]
    message = f"the project has {shown} for {job.model}"
    return Hint(f"{message}; {'; '.join(above)}") if above else message


def _spend_limit(job: ResolvedJob, api: AdminApi, project: str | None) -> str:
    limits = api.spend_limits(project)
    if not limits:
        return "the account has no hard spend limit of its own"
    shown, warnings = [], []
    for limit in limits:
        usd = Decimal(limit.cents) / 100
        amount = format_usd(usd_to_nano(usd))
        shown.append(f"{limit.of} may spend {amount} a month")
        if limit.is_enforcing:
            warnings.append(f"{limit.of} has reached its limit: the service refuses requests until the month ends")
        for name in ("run_usd", "monthly_usd"):
            own = getattr(job.budget, name)
            if own is not None and own > usd:
                warnings.append(f"budget.{name} = {format_usd(usd_to_nano(own))} is more than that")
    message = "; ".join([*shown, *warnings])
    return Hint(message) if warnings else message
