"""The disk calls that Parquill's guarantees depend on, behind one object, so that a test can make each of them fail.

Every file that must survive a crash is written through it: plans, shards, journals, results, manifest, summary,
history. The index of answers is not: SQLite writes it, and it can be rebuilt from the journals.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import orjson

from parquill.tasks.errors import DiskFailed

TEMPORARY = ".tmp"
CHECKSUM = "crc32"


class Disk:
    """The real disk. Methods raise OSError as the system does, unless they say that they raise DiskFailed."""

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut a file to `size` bytes."""
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Make what was written survive a power cut."""
        os.fsync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Replace `new` with `old` in one atomic step."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Remove a file if it exists."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Make new, renamed and removed names in a folder survive a power cut."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        """Create a folder and its parents so that they survive a power cut; an existing folder keeps its mode.

        Raises DiskFailed.
        """
        try:
            missing = [parent for parent in path.parents if not parent.exists()]
            for parent in reversed(missing):
                parent.mkdir(exist_ok=True)
                self.sync_folder(parent.parent)
            path.mkdir(mode=mode, exist_ok=True)
            # promise: C1 a new folder is synced in its parent folder
            # also of an existing folder: the process that made it may have been killed before this line
            self.sync_folder(path.parent)
        except OSError as error:
            raise DiskFailed(f"cannot create the folder {path}: {error.strerror}") from None

    def write_whole(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """Write a file atomically: every reader sees the old file, the new file, or none, never a part.

        Raises DiskFailed, after the temporary file is removed.
        """
        # promise: C3 a file is written under a temporary name before it replaces the old one
        temporary = path.with_name(f".{path.name}{TEMPORARY}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            try:
                # promise: C3 a file is synced before it is renamed into place
                self.write(descriptor, data)
                self.sync(descriptor)
            finally:
                os.close(descriptor)
            # promise: C3 a rename is synced in its folder
            self.rename(temporary, path)
            self.sync_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise DiskFailed(f"cannot write {path}: {error.strerror}") from None

    def write_json(self, path: Path, value: Any, mode: int = 0o644) -> None:
        """`write_whole` of indented JSON."""
        data = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        self.write_whole(path, data, mode)

    def write_own(self, path: Path, value: dict[str, Any]) -> None:
        """`write_json` of a file that only Parquill reads (0600), with a checksum that `read_json` compares."""
        self.write_json(path, {**value, CHECKSUM: _checksum(value)}, 0o600)


def _checksum(value: dict[str, Any]) -> int:
    return zlib.crc32(orjson.dumps(value))  # a value that is read and dumped again has the same bytes


DISK = Disk()


def read_json(path: Path) -> Any:
    """Read a JSON file that Parquill wrote; None if there is none. Raises DiskFailed if it is damaged or unreadable."""
    try:
        found = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise DiskFailed(f"{path} belongs to another user, and only that user may read it ({error.strerror})") from None
    except (OSError, orjson.JSONDecodeError):
        raise damaged(path) from None
    if not isinstance(found, dict):
        raise damaged(path)
    checksum = found.pop(CHECKSUM, None)  # files of earlier versions, and files that users read, have none
    # promise: input: a state file is read only if its checksum matches
    if checksum is not None and checksum != _checksum(found):
        raise damaged(path)
    return found


def damaged(path: Path) -> DiskFailed:
    """The error for one of Parquill's own files that differs from what Parquill wrote."""
    return DiskFailed(f"{path} cannot be read; it was written by Parquill and is damaged")


def private_folder(path: Path, disk: Disk = DISK) -> Path:
    """Create a folder that only its owner can enter (0700): it holds prompts and answers. Raises DiskFailed."""
    # promise: S3 only the owner can enter a state folder
    disk.make_folder(path, 0o700)
    return path


def remove_folder(path: Path) -> None:
    """Remove one of Parquill's own folders if it exists; errors are ignored."""
    shutil.rmtree(path, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder."""
    for path in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            path.unlink()
