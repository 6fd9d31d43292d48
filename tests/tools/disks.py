"""Disks that fail, and a disk that remembers what a power cut would leave of it."""

from __future__ import annotations

import errno
import os
import random
import re
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from parquill.tasks.storage.disk import Disk

_RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z0-9]+")
Image = dict[str, bytes | None]  # path below the root -> content of a file, None for a folder


class CountingDisk(Disk):
    """Calls `before` for each call, with its kind and first argument. `calls` lists all calls so far with their
    targets.

    A call has the same name in every run of a job (the id of the run is left out), such as the third sync of a journal.
    Only the number of groups in a journal depends on chance.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.lock = threading.RLock()
        self._times: Counter[str] = Counter()

    def before(self, name: str, target: Any) -> None:
        """Run with the lock held, before a call; the call raises what this raises."""

    def after(self, name: str, target: Any) -> None:
        """Run with the lock held, after a call that did not fail."""

    def _one(self, name: str, call: Callable[..., None], *arguments: Any) -> None:
        with self.lock:
            self._record(name, arguments[0])
            self.before(name, arguments[0])
            call(*arguments)
            self.after(name, arguments[0])

    def _record(self, name: str, target: Any) -> None:
        path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else target
        what = _RUN_ID.sub("RUN", f"{name} {path.parent.name}/{path.name}")
        self._times[what] += 1
        self.calls.append(f"{what} {self._times[what]}")

    def write(self, descriptor: int, data: bytes) -> None:
        self._one("write", super().write, descriptor, data)

    def truncate(self, descriptor: int, size: int) -> None:
        self._one("truncate", super().truncate, descriptor, size)

    def sync(self, descriptor: int) -> None:
        self._one("sync", super().sync, descriptor)

    def rename(self, old: Path, new: Path) -> None:
        self._one("rename", super().rename, old, new)

    def remove(self, path: Path) -> None:
        self._one("remove", super().remove, path)


class FailingDisk(CountingDisk):
    """Fails the call of this name; with `for_good` every later call too. A write that fails leaves half of its data.

    `look` is called at the failure; its result is kept as `seen`.
    """

    def __init__(self, fail_at: str, number: int, *, for_good: bool, look: Callable[[], int]) -> None:
        super().__init__()
        self.fail_at, self.number, self.for_good, self._look = fail_at, number, for_good, look
        self.seen = 0
        self.failed_name: str | None = None
        self.synced_again = 0  # files whose sync failed and was tried again
        self._unsynced: set[int] = set()

    def before(self, name: str, target: Any) -> None:
        inode = os.fstat(target).st_ino if name == "sync" and not _is_folder(target) else None
        if inode in self._unsynced:
            self.synced_again += 1
        if self.calls[-1] == self.fail_at or (self.for_good and self.failed_name is not None):
            if self.failed_name is None:
                self.failed_name = name
                self.seen = self._look()
            if inode is not None:
                self._unsynced.add(inode)
            raise OSError(self.number, os.strerror(self.number))

    def write(self, descriptor: int, data: bytes) -> None:
        try:
            super().write(descriptor, data)
        except OSError:
            if self.failed_name == "write" and len(data) > 1:
                os.write(descriptor, memoryview(data)[: len(data) // 2])
            raise


class BrokenDisk(CountingDisk):
    """Fails at the first call for which `breaks` is true, and with `for_good` at every later call too."""

    def __init__(self, breaks: Callable[[str, Any], bool], *, for_good: bool = False) -> None:
        super().__init__()
        self._breaks, self._for_good = breaks, for_good
        self.broken = False

    def before(self, name: str, target: Any) -> None:
        if self.broken and not self._for_good:
            return
        if self.broken or self._breaks(name, target):
            self.broken = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))


class FullDisk(CountingDisk):
    """Is full from the first write for which `fills` is true; later writes fail unless removed files have made room."""

    def __init__(self, fills: Callable[[str], bool]) -> None:
        super().__init__()
        self._fills = fills
        self.room: int | None = None

    def before(self, name: str, target: Any) -> None:
        if name == "remove" and self.room is not None and target.exists():
            self.room += target.stat().st_size

    def write(self, descriptor: int, data: bytes) -> None:
        with self.lock:
            if self.room is None and self._fills(str(Path(f"/proc/self/fd/{descriptor}").readlink())):
                self.room = 0
            if self.room is not None:
                if len(data) > self.room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.room -= len(data)
        super().write(descriptor, data)


class ForgetfulDisk(CountingDisk):
    """Remembers, for everything below `root`, what a power cut would leave: contents and names as of their last sync.

    Names are those of each folder at its last sync, contents those of each file. Every file that ever lasted is kept
    open, so that no inode number comes twice.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        self._kept: dict[int, int] = {}  # inode -> descriptor
        self.on_call: Callable[[], None] = lambda: None
        for folder, _, files in os.walk(root):
            self._remember(folder)
            for name in files:
                self._remember(os.path.join(folder, name))  # noqa: PTH118 - os.walk gives text

    def close(self) -> None:
        """Close the files."""
        while self._kept:
            os.close(self._kept.popitem()[1])

    def _remember(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self._lasts(descriptor)
        finally:
            os.close(descriptor)

    def _lasts(self, descriptor: int) -> None:
        inode = self._keep(os.dup(descriptor))
        if _is_folder(descriptor):
            self._names[inode] = found = _list(descriptor)
            for name in found:
                self._keep(os.open(f"/proc/self/fd/{descriptor}/{name}", os.O_PATH))
        else:
            self._contents[inode] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def _keep(self, descriptor: int) -> int:
        inode = os.fstat(descriptor).st_ino
        if self._kept.setdefault(inode, descriptor) != descriptor:
            os.close(descriptor)
        return inode

    def before(self, _name: str, _target: Any) -> None:
        self.on_call()

    def after(self, name: str, target: Any) -> None:
        if name == "sync":
            self._lasts(target)
        self.on_call()

    def image(self, how: str, throw: int = 0) -> Image:
        """Return what is there after the power is cut now.

        `forgotten`: nothing that was not synced. `mixed`: no unsynced content, and unsynced names in random folders
        only. `names`: no unsynced content, but every name. `torn`: every name, and the first half of what was written
        since the sync. `zeros`: every name and length, but what was not synced reads as zeros.
        """
        dice = random.Random(f"{len(self.calls)} {throw}")
        return dict(self._walk(self.root.stat().st_ino, self.root, "", how, dice))

    def _walk(
        self, inode: int, path: Path, below: str, how: str, dice: random.Random
    ) -> Iterator[tuple[str, bytes | None]]:
        if how == "forgotten" or (how == "mixed" and dice.random() < 0.5):
            entries = self._names.get(inode, {})
        else:
            entries = _list(self._kept.get(inode, path))
        for name, (number, is_folder) in sorted(entries.items()):
            at = f"{below}{name}"
            if is_folder:
                yield at, None
                yield from self._walk(number, path / name, f"{at}/", how, dice)
            elif not name.startswith("answers.sqlite"):
                yield at, self._left(number, path / name, how)
            elif how in {
                "torn",
                "zeros",
            }:  # SQLite syncs by itself: its files are gone, or unchanged and so ahead of the rest
                yield at, (path / name).read_bytes()

    def _left(self, number: int, path: Path, how: str) -> bytes:
        lasting = self._contents.get(number, b"")
        if how in {"torn", "zeros"} and path.is_file():
            now = path.read_bytes()
            same = next((index for index, (a, b) in enumerate(zip(lasting, now, strict=False)) if a != b), None)
            kept = min(len(lasting), len(now)) if same is None else same
            return now[: (kept + len(now)) // 2] if how == "torn" else now[:kept] + bytes(len(now) - kept)
        return lasting


def _list(folder: int | Path) -> dict[str, tuple[int, bool]]:
    """Return name -> (inode, whether it is a folder); nothing for a folder that is gone."""
    path = f"/proc/self/fd/{folder}" if isinstance(folder, int) else folder  # scandir of a descriptor would close it
    try:
        with os.scandir(path) as found:
            return {entry.name: (entry.inode(), entry.is_dir()) for entry in found}
    except FileNotFoundError:
        return {}


def _is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def to_folder(image: Image, root: Path) -> None:
    """Make the files and folders of an image, and no others, below `root`."""
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, content in image.items():
        path = root / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def photograph(root: Path) -> Image:
    """Return everything below `root`."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }
