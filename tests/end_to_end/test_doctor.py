"""`parquill doctor` against a service: what it finds out without paying, with an admin key, and by sending a row."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from tests.fakes.running import FakeService, fake_openai
from tests.tools.expected import billed_usd
from tests.tools.jobs import Jobs

LIMITS = {"requests_per_minute": 1_000, "tokens_per_minute": 500_000}


def _doctor(jobs: Jobs, settings: dict[str, Any], *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = jobs.run(settings, "--json", *arguments, command="doctor")
    return done.exit_code, {check["name"]: check for check in orjson.loads(done.stdout)["checks"]}


@pytest.fixture
def service(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    monkeypatch.setenv("ADMIN", "sk-admin-fake")
    return service


def test_the_account_of_a_job(jobs: Jobs) -> None:
    """With an admin key, `doctor` compares the job's limits and budget with those of the project; nothing is paid."""
    admin = {"spend_limit_cents": 100_000, "project_spend_limit_cents": 500}
    jobs.service.configure(rpm=600, tpm=400_000, batch={"enqueued_tokens": {"gpt-4o-mini": 900_000}}, admin=admin)
    settings = jobs.job(["one"], endpoint={"admin_key_env": "ADMIN"}, limits=LIMITS, budget={"run_usd": 9})
    code, checks = _doctor(jobs, settings)
    assert code == 0, checks
    limits = "600 requests a minute, 400,000 tokens a minute, 900,000 tokens waiting in batches for gpt-4o-mini"
    assert checks["rate limits"]["message"] == (
        f"the project has {limits}; limits.requests_per_minute = 1,000 is more than the project has; "
        "limits.tokens_per_minute = 500,000 is more than the project has"
    )
    assert checks["spend limit"]["message"] == (
        "the organization may spend $1,000.00 a month; the project may spend $5.00 a month; "
        "budget.run_usd = $9.00 is more than that"
    )
    assert checks["rate limits"]["warns"]
    assert checks["spend limit"]["warns"]
    assert jobs.service.stats()["requests"] == 0


def test_an_admin_key_that_is_refused(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key without the rights of an admin is a failure; without an admin key these checks are left out."""
    monkeypatch.setenv("ADMIN", "sk-of-a-user-00")
    code, checks = _doctor(jobs, jobs.job(["one"], endpoint={"admin_key_env": "ADMIN"}))
    assert code == 1
    assert checks["rate limits"]["message"].endswith("/organization refuses the admin key (HTTP 403)")
    code, checks = _doctor(jobs, jobs.job(["one"]))
    assert code == 0
    assert not {"rate limits", "spend limit"} & set(checks)


def test_prices_and_batches(jobs: Jobs) -> None:
    """The price check has every lane that is sold; a job with batches needs a service that has them."""
    jobs.service.configure(models=["gpt-6-luna"])
    settings = jobs.job(["one"], model="gpt-6-luna", parameters={"reasoning_effort": "none"}, lane="batch")
    code, checks = _doctor(jobs, settings)
    assert code == 0, [check for check in checks.values() if not check["ok"]]
    assert checks["price"]["message"].startswith("$0.05 input, $0.25 output per million tokens (")
    assert checks["price"]["message"].endswith("; live $0.1 input, $0.5 output; flex $0.05 input, $0.25 output")
    assert checks["batches"]["message"].startswith("the Batch API answers; limits.batch_tokens is not set")
    jobs.service.configure(batch={"api_faults": [{"on": "batches", "kind": "status:404"}]})
    code, checks = _doctor(jobs, settings)
    assert code == 1
    assert "/batches answers HTTP 404" in checks["batches"]["message"]


def test_send_completes_a_row_at_each_endpoint(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--send` pays for one row at each endpoint and shows the limits that each announces; `run` reuses the rows."""
    monkeypatch.setenv("FIRST", "first-key-00000")
    with fake_openai(rpm=90) as second:
        jobs.service.configure(require_key="first-key-00000", rpm=600, tpm=400_000)
        endpoints = [
            {"base_url": jobs.service.url, "api_key_env": "FIRST", "weight": 9, "limits": {"requests_per_minute": 700}},
            {"base_url": second.url},
        ]
        settings = jobs.job([f"text {n}" for n in range(6)], endpoints=endpoints)
        code, checks = _doctor(jobs, settings, "--send")
        assert code == 0, checks
        assert checks["send"]["message"].startswith("ok in ")
        first_label, second_label = (f"127.0.0.1:{each.port}" for each in (jobs.service, second))
        assert checks[f"limits at {first_label}"]["message"] == (
            "the service announces 600 requests and 400,000 tokens a minute, less than "
            "limits.requests_per_minute = 700; to use them fully from the start, set `limits: {tokens_per_minute: 400000}`"
        )
        assert "announces 90 requests a minute" in checks[f"limits at {second_label}"]["message"]
        assert (jobs.service.stats()["billed"], second.stats()["billed"]) == (1, 1)
        paid = billed_usd(jobs.service) + billed_usd(second)
        done = jobs.run(settings)
        assert (done.exit_code, done.column("status")) == (0, ["ok"] * 6)
        assert jobs.service.stats()["billed"] + second.stats()["billed"] == 6
        assert Decimal(done.summary["paid_usd"]) == billed_usd(jobs.service) + billed_usd(second) > paid
        code, checks = _doctor(jobs, settings, "--send")
        assert code == 0
        assert checks["send"]["message"].startswith("nothing was sent: every row already has its answer")


def test_a_row_that_fails(jobs: Jobs) -> None:
    """If the row gets no answer, `doctor --send` fails and says why; it sends nothing if another check has failed."""
    jobs.service.configure(faults=[{"kind": "status:404"}])
    code, checks = _doctor(jobs, jobs.job(["one"], retry={"attempts": 1}), "--send")
    assert code == 1
    assert not checks["send"]["ok"]
    assert "does not know the address or the model" in checks["send"]["message"]
    sent = jobs.service.stats()["requests"]
    code, checks = _doctor(
        jobs,
        jobs.job(["one"], model="not-a-model", price={"usd_per_mtok_input": 1, "usd_per_mtok_output": 1}),
        "--send",
    )
    assert (code, "send" in checks) == (1, False)
    assert jobs.service.stats()["requests"] == sent
