"""A whole run over two services, one of which fails after a kill."""

from __future__ import annotations

from decimal import Decimal

from tests.deployed.live_stack import LiveStack
from tests.fakes.running import fake_openai
from tests.tools.expected import billed_usd, check_books, total
from tests.tools.jobs import Jobs

ROWS, AT_ONCE = 400, 8


def test_two_services_a_kill_and_an_outage(jobs: Jobs) -> None:
    """C1, M4, M5: After `kill -9`, another start completes the rows at the service that is left.

    Nothing that was answered is paid for again, and what the summary has for each endpoint is what the service billed,
    up to the requests that were under way at the kill.
    """
    with fake_openai(latency_ms=40, require_key="second-key-000000") as second:
        first = jobs.service
        first.configure(latency_ms=40, require_key="first-key-0000000")
        endpoints = [
            {"base_url": service.url, "api_key_env": name, "limits": {"requests_per_minute": 100_000}}
            for service, name in ((first, "FIRST_KEY"), (second, "SECOND_KEY"))
        ]
        settings = jobs.job([f"text {n}" for n in range(ROWS)], endpoints=endpoints, limits={"max_at_once": AT_ONCE})
        keys = {"FIRST_KEY": "first-key-0000000", "SECOND_KEY": "second-key-000000"}
        killed = jobs.spawn(settings, environment=keys)
        LiveStack.wait("answers", lambda: first.stats()["billed"] + second.stats()["billed"] >= ROWS // 4, 120)
        killed.process.kill()
        killed.wait()
        second.configure(faults=[{"kind": "status:500"}], require_key="second-key-000000")
        before = second.stats()["billed"]
        done = jobs.spawn(settings, environment=keys).wait()
        assert done.exit_code == 0, done.stderr
        assert done.column("status") == ["ok"] * ROWS
        assert second.stats()["billed"] == before
        billed = {service: service.stats()["billed"] for service in (first, second)}
        assert min(billed.values()) >= ROWS // 4 // 4
        assert ROWS <= sum(billed.values()) <= ROWS + AT_ONCE  # at most those under way at the kill twice
        paid = Decimal(done.summary["paid_usd"])
        assert paid == total(done.column("cost_usd"))
        used = done.summary["endpoints"]
        for service in (first, second):
            use, usd = used[f"127.0.0.1:{service.port}"], billed_usd(service)
            assert Decimal(use["cost_usd"]) <= usd <= Decimal(use["cost_usd"]) + Decimal(use["in_doubt_usd"])
            assert use["requests"] >= use["rows"] > 0
        in_doubt = total(Decimal(use["in_doubt_usd"]) for use in used.values())
        assert in_doubt == Decimal(done.summary["in_doubt_usd"])
        check_books(done)
