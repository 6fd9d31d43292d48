"""`doctor` reports what keeps a job from its first completion; anything less is a warning."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from parquill.flows.cli import doctor_job as doctor
from parquill.flows.cli.checks import Hint, check
from parquill.flows.cli.starter import STARTER, warn_of_starter
from parquill.tasks.errors import ParquillError
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.key import Key
from parquill.tasks.job.load import make_job
from parquill.tasks.llm.address_check import Service
from parquill.tasks.llm.model_list import ModelList, read_model_list
from tests.tools.small_jobs import LEAST

DAY = date(2026, 11, 29)


def _job(model: str, base_url: str = "https://api.openai.com/v1", **changes: Any) -> Any:
    job = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "{{ x }}"}, "model": model}
    return make_job({**job, "max_output_tokens": 50, "endpoint": {"base_url": base_url}, **changes})


def _list(*names: str, base_url: str = "https://api.openai.com/v1", **more: Any) -> ModelList:
    found = read_model_list({"data": [{"id": name, **more} for name in names]}, base_url)
    assert found is not None
    return found


def test_a_listed_model_is_ok() -> None:
    """A model that the service lists, under its name or another spelling, is ok, and the spelling is shown."""
    assert doctor._model(_job("a"), _list("a", "b")) == "a"
    message = doctor._model(_job("gemini-2.5-flash"), _list("models/gemini-2.5-flash"))
    assert message == "gemini-2.5-flash (the service lists it as models/gemini-2.5-flash)"
    assert not isinstance(message, Hint)


def test_a_model_that_is_not_listed() -> None:
    """A model that a complete list lacks is a failure with the nearest names; for a partial list it is a warning."""
    with pytest.raises(ParquillError, match=r"does not list 'gpt-6-lunar'; it lists gpt-6-luna, .*Correct `model`"):
        doctor._model(_job("gpt-6-lunar"), _list("zzz", "gpt-6-luna", "gpt-6.1-sol"))
    azure = "https://shop.openai.azure.com/openai/v1"
    message = doctor._model(_job("my-deployment", azure), _list("gpt-6-luna", base_url=azure))
    assert isinstance(message, Hint)
    assert "only a part" in message


def test_shutdowns() -> None:
    """A future shutdown is a warning and a past one a failure; the service's own date has priority over the table's."""
    assert doctor._shutdown(_job("gpt-6-luna"), None, DAY) == "none is known for gpt-6-luna"
    ahead = doctor._shutdown(_job("gpt-4o-mini"), None, DAY)
    assert isinstance(ahead, Hint)
    assert "2027-01-14, in 46 days" in ahead
    with pytest.raises(ParquillError, match="was shut down on 2026-10-23"):
        doctor._shutdown(_job("gpt-3.5-turbo"), None, DAY)
    later = doctor._shutdown(_job("gpt-4o-mini"), _list("gpt-4o-mini", shutdown_date="2027-03-01"), DAY)
    assert "2027-03-01" in later
    assert "gpt-6-luna" in later  # the table names the successor
    own = "http://127.0.0.1:8000/v1"
    with pytest.raises(ParquillError, match="was shut down on 2026-11-29"):
        doctor._shutdown(_job("m", own), _list("m", base_url=own, shutdown_date="2026-11-29"), DAY)


def test_each_endpoint_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With several endpoints, key, address, model, price and shutdown are checked at each of them."""
    monkeypatch.setenv("FIRST", "sk-first-0000000")
    monkeypatch.delenv("SECOND", raising=False)
    asked: list[str] = []

    def answer(endpoint: Endpoint, _path: str, _key: Key | None) -> Service:
        asked.append(endpoint.base_url)
        return Service(_list("gpt-4o-mini", base_url=endpoint.base_url))

    monkeypatch.setattr(doctor, "ask_for_models", answer)
    endpoints = [
        {"api_key_env": "FIRST"},
        {"base_url": "https://gateway.example/v1", "api_key_env": "SECOND", "model": "gpt-4o"},
    ]
    job = make_job(
        {
            **LEAST,
            "input": str(tmp_path / "none.parquet"),
            "output": str(tmp_path / "out"),
            "endpoints": endpoints,
        }
    )
    checks = {found.name: found for found in doctor.examine_job(job, DAY)}
    assert [name for name, found in checks.items() if not found.ok] == ["input", "key at gateway.example"]
    assert "SECOND is not set" in checks["key at gateway.example"].message
    assert asked == ["https://api.openai.com/v1"]
    assert {"endpoint at api.openai.com", "model at api.openai.com", "shutdown at gateway.example"} <= set(checks)
    assert checks["price at gateway.example"].message != checks["price at api.openai.com"].message


def test_thinking_within_few_tokens() -> None:
    """A thinking model with a small max_output_tokens is a warning."""
    assert isinstance(doctor._output_tokens(_job("gpt-6-luna")), Hint)
    assert doctor._output_tokens(_job("gpt-6-luna", parameters={"reasoning_effort": "none"})) == "50"


def test_a_check_warns() -> None:
    """A check that returns a hint is ok and warns; a check that raises an error is not ok."""

    def fails() -> str:
        raise ParquillError("no")

    assert check("a", lambda: "fine").as_dict() == {"name": "a", "ok": True, "message": "fine", "warns": False}
    assert check("a", lambda: Hint("look")).as_dict() == {
        "name": "a",
        "ok": True,
        "message": "look",
        "warns": True,
    }
    assert check("a", fails).as_dict() == {"name": "a", "ok": False, "message": "no", "warns": False}


def test_the_starter_is_alive() -> None:
    """The job that `init` writes needs no warning. A starter whose model is shut down gets one by the date."""
    assert warn_of_starter(DAY) == []
    old = STARTER.replace("model: gpt-6-luna", "model: gpt-4o-mini")
    assert "shuts down on 2027-01-14" in warn_of_starter(DAY, old)[0]
    assert "was shut down" in warn_of_starter(date(2027, 1, 14), old)[0]
    assert "temperature" not in STARTER


def test_the_samples_are_alive() -> None:
    """No sample job, flow, README or page names a retired model or sends a temperature to a model that refuses it."""
    root = Path(__file__).parents[3]
    pages = [*root.glob("*.md"), *root.glob("data/*.md"), *root.glob("data/jobs/*.yaml"), root / "prefect.yaml"]
    for page in [*pages, *root.glob("flows/*.py")]:
        text = page.read_text(encoding="utf-8")
        if page.name != "CHANGELOG.md":
            assert not any(name in text for name in ("gpt-4o", "gpt-3.5", "gpt-4.1")), page
