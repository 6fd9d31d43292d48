"""What the processes that joined a run have done so far, for the process that leads it and shows how far it is.

Each process keeps one small file in RUN/members and writes it again every second. It holds what this process alone has
done since it joined. The file stays when the process ends; the leader of the next start removes it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from parquill.tasks.errors import DiskFailed
from parquill.tasks.storage.disk import TEMPORARY, private_folder
from parquill.tasks.storage.folders import RunFolder


@dataclass(frozen=True, slots=True)
class MemberFigures:
    """Rows and money of one process since it joined, or of several; money in nano-dollars.

    `done_before` are rows of `done` that an earlier start had completed. `warnings` are sentences about the service.
    """

    done: int = 0
    not_ok: int = 0
    done_before: int = 0
    settled_nano: int = 0
    in_doubt_nano: int = 0
    warnings: tuple[str, ...] = ()

    def __add__(self, other: MemberFigures) -> MemberFigures:
        """Add the figures of another process; each warning is kept once."""
        sums = {
            each.name: getattr(self, each.name) + getattr(other, each.name)
            for each in fields(self)
            if each.name != "warnings"
        }
        return MemberFigures(**sums, warnings=tuple(dict.fromkeys(self.warnings + other.warnings)))


class MemberFile:
    """The file of one process that joined a run. A disk that fails costs only what is shown."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = _folder(folder) / f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._written: MemberFigures | None = None

    def write(self, figures: MemberFigures) -> None:
        """Write the figures, unless they are the same as before."""
        if figures == self._written:
            return
        self._written = figures
        # not synced: the figures are shown while the run is under way, and nothing is decided by them
        with contextlib.suppress(OSError, DiskFailed):
            private_folder(self._path.parent)
            draft = self._path.with_suffix(TEMPORARY)
            draft.write_bytes(orjson.dumps(asdict(figures)))
            draft.replace(self._path)


def read_members(folder: RunFolder) -> MemberFigures:
    """Return the sums of all processes that joined the run since its leader began."""
    found = MemberFigures()
    with contextlib.suppress(OSError):
        for path in sorted(_folder(folder).glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                found += _read(path)
    return found


def forget_members(folder: RunFolder) -> None:
    """Remove the files of an earlier start's processes."""
    shutil.rmtree(_folder(folder), ignore_errors=True)


def _read(path: Path) -> MemberFigures:
    document: dict[str, Any] = orjson.loads(path.read_bytes())
    return MemberFigures(**{**document, "warnings": tuple(document["warnings"])})


def _folder(folder: RunFolder) -> Path:
    return folder.path / "members"
