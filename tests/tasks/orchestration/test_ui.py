"""Showing a run in Prefect costs no row and delays no stop."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from parquill.tasks.errors import DiskFailed
from parquill.tasks.orchestration import ui


@pytest.mark.parametrize(("error", "cancels"), [(KeyboardInterrupt(), True), (DiskFailed("full"), False)])
def test_a_server_that_does_not_answer_holds_up_no_stop(
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    cancels: bool,  # noqa: FBT001 - parametrized
) -> None:
    """When a run is cut off, its sender is asked to stop at once, before the last progress is shown.
    Batches are cancelled only by a stop, and not by a failure.
    """
    stopped, has_waited, asked = threading.Event(), [], []

    def stop(**options: bool) -> None:
        asked.append(options)
        stopped.set()

    def show(*_: Any) -> None:
        has_waited.append(stopped.wait(60))  # a server that answers only after the stop

    monkeypatch.setattr(ui, "create_progress_artifact", lambda **_: None)
    monkeypatch.setattr(ui, "progress_line", lambda *_: "")
    monkeypatch.setattr(ui, "_show_progress", show)
    run_sender: Any = SimpleNamespace(
        request_stop=stop,
        soft_limits=SimpleNamespace(messages=[]),
        lane=SimpleNamespace(warnings=[]),
        budget=SimpleNamespace(settled=0, in_doubt=0),
    )
    run: Any = SimpleNamespace(job=SimpleNamespace(name="shown"))
    with pytest.raises(type(error)), ui.show_progress(run, run_sender):
        raise error
    assert has_waited == [True]
    assert asked == [{"cancels": cancels}]


def test_every_job_has_its_own_artifacts() -> None:
    """Jobs whose names no key can hold get different keys; a plain name is the key, since people look for it."""
    names = ["shop-texts", "Shop texts", "shop texts", "翻訳", "要約", "job", "-", "shop--texts"]
    keys = [ui._key("summary", SimpleNamespace(name=name)) for name in names]  # type: ignore[arg-type]
    assert keys[0] == "parquill-summary-shop-texts"
    assert keys[5] == "parquill-summary-job"
    assert len(set(keys)) == len(names)
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for key in keys)


def test_progress_is_shown_when_the_server_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the server was away when sending began, it gets the artifact when it is back, and that one is updated."""
    made: list[float] = []

    def create(*, progress: float, **_: Any) -> str:
        made.append(progress)
        if len(made) < 3:
            raise ConnectionError
        return "the-id"

    monkeypatch.setattr(ui, "create_progress_artifact", create)
    monkeypatch.setattr(ui, "progress_line", lambda *_: "")
    run: Any = SimpleNamespace(job=SimpleNamespace(name="shown"))
    run_sender: Any = SimpleNamespace(progress=SimpleNamespace(done=1, total=4))
    found = None
    for _ in range(3):
        assert found is None
        found = ui._show_progress(run, run_sender, found)
    assert (found, made) == ("the-id", [25.0] * 3)


def test_a_run_is_named_on_one_line() -> None:
    """Line ends, tabs and invisible characters of a job's name do not get into the name of its run."""
    job: Any = SimpleNamespace(name="two\nlines\tand\u202e more", model="gpt-4o-mini")
    assert ui.run_name(job, 3) == "two lines\ufffdand\ufffd more · 3 rows · gpt-4o-mini"
