"""One fake service for all tests of this folder, reset before each test."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from .admin_options import AdminOptions
from .batch_options import BatchOptions
from .running import FakeService, fake_openai

if TYPE_CHECKING:
    from collections.abc import Iterator


# fmt: off
DEFAULTS: dict[str, Any] = {
    "seed": 0, "latency_ms": 0, "latency_sigma": 0, "rpm": None, "tpm": None, "window_s": 60,
    "count_output": "reserved", "prompt_tokens": "estimate", "output_tokens": "fixed:16",
    "reasoning_tokens": 0, "cached_ratio": 0, "cache_write_ratio": 0, "service_tier": "default", "pad_answers": False, "model_suffix": "", "models": None,
    "require_key": None, "faults": [], "remember": True, "log": 0, "log_bodies": False,
    "clock": "still", "clock_start": None, "batch": asdict(BatchOptions()), "admin": asdict(AdminOptions()),
}
# fmt: on


@pytest.fixture(scope="package")
def shared() -> Iterator[FakeService]:
    with fake_openai() as running:
        yield running


@pytest.fixture
def service(shared: FakeService) -> FakeService:
    shared.configure(**DEFAULTS)
    shared.reset()
    return shared


@pytest.fixture(scope="package")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=60) as made:
        yield made
