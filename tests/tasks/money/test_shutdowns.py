"""A model that is shut down, or will be, is shown with the date, at the address of its own seller."""

from __future__ import annotations

import tomllib
from datetime import date

import pytest

from parquill.data import FOLDER
from parquill.tasks.job.providers import _providers
from parquill.tasks.money.shutdowns import find_shutdown, listed_shutdown

OPENAI = "https://api.openai.com/v1"
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/openai"


@pytest.mark.parametrize(
    ("model", "base_url", "day"),
    [
        ("gpt-4o-mini", OPENAI, "2027-01-14"),
        ("gpt-4o-mini-2024-07-18", OPENAI, "2027-01-14"),  # a dated name has the day of the plain name
        ("gpt-4o-2024-05-13", OPENAI, "2026-10-23"),  # unless it has a day of its own
        ("gpt-4o-2024-08-06", OPENAI, "2027-01-14"),
        ("ft:gpt-4.1-mini-2025-04-14:shop::abc", OPENAI, "2027-01-14"),
        ("gpt-5-nano", "https://eu.api.openai.com/v1", "2026-12-11"),
        ("gpt-3.5-turbo-instruct", OPENAI, "2026-09-28"),
        ("gpt-6-luna", OPENAI, None),
        ("gpt-4o-minute", OPENAI, None),
        ("gpt-4o-mini", "https://shop.openai.azure.com/openai/v1", None),  # Azure has days of its own
        ("gpt-4o-mini", "http://127.0.0.1:8000/v1", None),
        ("gemini-2.5-flash", GOOGLE, "2026-12-01"),
        ("models/gemini-2.5-flash", GOOGLE, "2026-12-01"),
        ("gemini-2.5-flash", OPENAI, None),
    ],
)
def test_the_day_is_that_of_the_seller(model: str, base_url: str, day: str | None) -> None:
    """A model has the day in its seller's table: by its name, its dated name, or the model it was fine-tuned from."""
    found = find_shutdown(model, base_url)
    assert (None if found is None else found.day.isoformat()) == day


@pytest.mark.parametrize(
    ("today", "words", "past"),
    [
        ("2027-01-12", "shuts down on 2027-01-14, in 2 days", False),
        ("2027-01-13", "shuts down on 2027-01-14, in 1 day (", False),
        ("2027-01-14", "was shut down on 2027-01-14", True),
        ("2028-01-14", "was shut down on 2027-01-14", True),
    ],
)
def test_the_clock_decides_the_sentence(today: str, words: str, past: bool) -> None:  # noqa: FBT001
    """Before its day a model will be shut down, from that day on it was; both sentences name the successor."""
    found = find_shutdown("gpt-4o-mini", OPENAI)
    assert found is not None
    sentence = found.sentence(date.fromisoformat(today))
    assert words in sentence
    assert "change `model` to gpt-6-luna" in sentence
    assert found.is_past(date.fromisoformat(today)) is past


@pytest.mark.parametrize(
    ("value", "day"),
    [("2027-01-14", "2027-01-14"), ("2027-01-14T00:00:00Z", "2027-01-14"), (None, None), ("", None), ("soon", None)],
)
def test_a_service_may_give_the_day(value: object, day: str | None) -> None:
    """The `shutdown_date` in a service's list of models is read as a day, or ignored."""
    found = listed_shutdown("m", value)
    assert (None if found is None else found.day.isoformat()) == day


def test_the_table_is_whole() -> None:
    """Every entry has a known seller, a source address and a successor that still runs; no model is listed twice."""
    entries = tomllib.loads((FOLDER / "shutdowns.toml").read_text(encoding="utf-8"))["shutdown"]
    names = [(entry["seller"], name) for entry in entries for name in entry["models"]]
    assert len(set(names)) == len(names)
    for entry in entries:
        assert entry["seller"] in _providers()
        assert entry["source"].startswith("https://")
        assert isinstance(entry["day"], date)
        assert (entry["seller"], entry["instead"].split()[0].rstrip(",")) not in names
