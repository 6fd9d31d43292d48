"""The number of requests at once is capped by the connections that a process may have."""

from __future__ import annotations

import resource

import pytest

from parquill.tasks.limits import open_files
from parquill.tasks.limits.open_files import HEADROOM, cap_by_open_files

NONE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "most", "raised_to"),
    [
        (1024, 4096, 64, 64, None),  # enough as it is
        (1024, 4096, 1024, 1024, 1024 + 20 + HEADROOM),  # raised as far as needed
        (256, NONE, 4096, 4096, 4096 + 20 + HEADROOM),
        (256, 1024, 1024, 1024 - 20 - HEADROOM, 1024),  # as far as the hard limit lets it
        (128, 128, 1024, 128 - 20 - HEADROOM, 128),
        (64, 64, 64, 1, 64),  # slow, but not stuck
        (NONE, NONE, 4096, 4096, None),
    ],
)
def test_requests_at_once_leave_room(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: int, most: int, raised_to: int | None
) -> None:
    """The soft limit is raised as far as needed and allowed, and requests use what is left after the headroom."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(open_files, "_open_now", lambda: 20)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert cap_by_open_files(wanted) == most
    assert asked == ([] if raised_to is None else [(raised_to, hard)])


def test_a_limit_that_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system refuses a higher limit, the current limit is used."""

    def refuse(*_: object) -> None:
        raise ValueError("not permitted")

    monkeypatch.setattr(open_files, "_open_now", lambda: 20)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, NONE))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert cap_by_open_files(1024) == 256 - 20 - HEADROOM
