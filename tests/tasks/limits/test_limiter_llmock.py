"""Limits hold against llmock, which refills its buckets as OpenAI does and counts tokens its own way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.running import llmock_service
from tests.tools.direct import job_of, run_steps


@pytest.mark.integration
@pytest.mark.nightly
def test_no_429_and_the_limit_is_used(tmp_path: Path) -> None:
    """At a service's limits no request gets a 429 after the first second, and at least 90 % of the limit is used."""
    hold_limits(tmp_path, None, 120_000, 15)


def hold_limits(tmp_path: Path, rpm: int | None, tpm: int, seconds: int) -> None:
    rows = (rpm or tpm // 66) * seconds // 60
    texts = [f"{row}: tell me about the number {row} in a few words, please" for row in range(rows)]
    limits = {"max_at_once": 64, "requests_per_minute": rpm, "tokens_per_minute": tpm}
    with llmock_service(rpm=rpm, tpm=tpm, latency_ms=50) as service:
        done = run_steps(job_of(tmp_path, texts, service.url, limits=limits))
        times = sorted(entry["started_at"] for entry in service.requests())
        throttled = service.throttled()
    assert done is not None
    run, sums = done
    assert sums.rows["ok"] == rows
    assert [time for time in throttled if time > times[0] + 1.0] == []
    took = times[-1] - times[0]
    tokens = run.estimate.prompt_tokens + rows * 50
    shares = [tokens / (tpm * took / 60), rows / ((rpm or 1e9) * took / 60)]
    # a short run shows the first burst and the pace; a test in simulated time checks that no minute exceeds the limit
    assert 0.90 <= max(shares) <= 1.15
