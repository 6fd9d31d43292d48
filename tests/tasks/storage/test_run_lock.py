"""A process that joined a run knows whether it is still led, and the next leader waits for those that joined."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from parquill.tasks.errors import FolderInUse, Interrupted
from parquill.tasks.storage.folders import Folders, RunFolder, lock_folders
from parquill.tasks.storage.run_lock import WORKERS_TIMEOUT_S, RunLock, RunMember
from tests.tools.clock import Clock


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "20261129-120000-abcdef")
    made.create()
    return made


@contextmanager
def _leader(folder: RunFolder) -> Iterator[None]:
    """Hold the locks as a leader does; at the end only close the descriptor, as the kernel does at a kill."""
    folder.workers_lock.touch()
    descriptor = os.open(folder.leader_lock, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.pwrite(descriptor, secrets.token_hex(16).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def test_a_process_that_joined_is_led_until_the_leader_ends(folder: RunFolder) -> None:
    """While a leader sends, other processes can join it.

    When it has ended, none of them is led, none can join, and no file is left.
    """
    leader = RunLock(folder)
    first, second = RunMember(folder), RunMember(folder)
    assert first.is_led()
    assert second.is_led()
    first.close()
    assert not first.is_led()
    leader.close()
    assert not second.is_led()
    second.close()
    with pytest.raises(Interrupted, match="no process leads run 20261129-120000-abcdef"):
        RunMember(folder)
    RunLock(folder).close()
    assert not folder.leader_lock.exists()
    assert not folder.workers_lock.exists()


def test_a_killed_leader_leads_nobody(folder: RunFolder) -> None:
    """A killed leader releases its lock: no process is led or can join, although its files are still there."""
    with _leader(folder):
        member = RunMember(folder)
        assert member.is_led()
    assert folder.leader_lock.exists()
    assert not member.is_led()
    member.close()
    with pytest.raises(Interrupted):
        RunMember(folder)


def test_another_leader_is_not_ones_own(folder: RunFolder) -> None:
    """A process that joined one leader is not led by the next one, which may have another plan."""
    with _leader(folder):
        member = RunMember(folder)
    with _leader(folder):
        assert not member.is_led()
        member.close()
        assert RunMember(folder).is_led()


def test_a_run_that_was_removed_leads_nobody(folder: RunFolder) -> None:
    """A process that joined a run is not led after the run was given up and its folder removed."""
    with _leader(folder):
        member = RunMember(folder)
        folder.leader_lock.unlink()
    assert not member.is_led()
    member.close()


def _sleep(clock: Clock, then: Callable[[], None], at_s: float) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now >= at_s:
            then()

    return sleep


def test_a_next_leader_waits_for_those_that_joined_the_last(folder: RunFolder) -> None:
    """A leader begins when the workers of a killed one have closed their journals.

    It refuses the run if they never do.
    """
    with _leader(folder):
        member = RunMember(folder)
    clock = Clock()
    with pytest.raises(FolderInUse, match="worker processes of an earlier start"):
        RunLock(folder, clock=clock, sleep=clock.sleep)
    assert WORKERS_TIMEOUT_S <= clock.now < WORKERS_TIMEOUT_S + 1
    clock = Clock()
    leader = RunLock(folder, clock=clock, sleep=_sleep(clock, member.close, 5.0))
    assert 5.0 <= clock.now < 6.0
    assert RunMember(folder).is_led()
    leader.close()


@pytest.mark.integration
def test_a_forked_child_holds_no_lock_for_its_parent(folder: RunFolder) -> None:
    """A child that was forked, as by a process pool, keeps neither its parent's run nor its parent's folders locked."""
    folders = Folders(folder.path / "state", folder.path / "out", "out")
    folders.create()
    with _leader(folder):
        member = RunMember(folder)
    with lock_folders(folders, "a test"):
        from_child, to_parent = os.pipe()
        from_parent, to_child = os.pipe()
        child = os.fork()
        if not child:
            os.close(to_child)
            os.write(to_parent, b"x")  # the child runs, with the descriptors of its parent
            os.read(from_parent, 1)  # wait until the parent has checked its locks
            os._exit(0)
        os.read(from_child, 1)
    try:
        member.close()
        clock = Clock()
        with lock_folders(folders, "another"):  # while the child is alive
            RunLock(folder, clock=clock, sleep=clock.sleep).close()
    finally:
        for descriptor in (to_child, to_parent, from_child, from_parent):
            os.close(descriptor)
        os.waitpid(child, 0)
