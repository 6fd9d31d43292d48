"""An output that is a URI: a local folder in the user's state folder has it all, and is copied to the store.

A store has no rename, so the order makes the promise. The parts of a run have names of their own; they are put beside
the earlier ones, then the manifest says which belong together, then the earlier ones are removed, and summary.json,
which said `running` meanwhile, comes last. Whoever waits for `state: finished`, or reads the parts that the manifest
names, sees one run. An object is whole or absent, so a copy that was cut off is only finished by the next start.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from parquill.tasks.disk.address import is_uri, join, mirror_of, shown
from parquill.tasks.disk.files import read_json
from parquill.tasks.disk.store import list_objects, read_object, reason, split
from parquill.tasks.errors import BadInput, BadJob, DiskFailed, FolderInUse

CHUNK_BYTES = 8 << 20
MANIFEST, OWNER = ".parquill/manifest.json", ".parquill/owner.json"


def claim(output: str, run_id: str) -> None:
    """Show that a store can be written, and say that a run writes there. Raises BadJob, FolderInUse.

    A store has no lock: another machine that began within the same moment is not seen, one that began before it is.
    """
    try:
        text = read_object(join(output, OWNER))
    except BadInput as error:
        raise BadJob(f"`output`: {error}") from None
    owner = orjson.loads(text) if text else None
    mine = {"host": socket.gethostname(), "state": str(mirror_of(output))}
    if owner is not None and {name: owner.get(name) for name in mine} != mine:
        raise FolderInUse(
            f"{shown(output)} is written by the run {owner.get('run_id')} on {owner.get('host')} since "
            f"{owner.get('since')}; wait for it, or remove {shown(join(output, OWNER))} if it will never end"
        )
    since = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        _put_bytes(join(output, OWNER), orjson.dumps({**mine, "run_id": run_id, "since": since}))
    except DiskFailed as error:
        raise BadJob(f"`output`: {error}") from None


def publish_summary(output: str) -> None:
    """Copy the summary of a run that is under way, or that was cut off. Raises DiskFailed."""
    if is_uri(output):
        _put(mirror_of(output) / "summary.json", join(output, "summary.json"))


def publish(output: str) -> None:
    """Copy what the local folder has and the store lacks, in the order above. Raises DiskFailed."""
    if not is_uri(output):
        return
    local = mirror_of(output)
    manifest = read_json(local / MANIFEST)
    parts = {part["file"]: part["bytes"] for part in manifest["parts"]} if manifest else {}
    there = _sizes(join(output, "results"))
    for file, size in parts.items():
        if there.get(file) != size:
            _put(local / "results" / file, join(output, "results", file))
    if manifest:
        _put(local / MANIFEST, join(output, MANIFEST))
    for file in there.keys() - parts.keys():
        _remove(join(output, "results", file))
    kept = _sizes(join(output, "history"))
    for path in sorted((local / "history").glob("*.json")):
        if kept.get(path.name) != path.stat().st_size:
            _put(path, join(output, "history", path.name))
    if (local / "report.html").exists():
        _put(local / "report.html", join(output, "report.html"))
    _put(local / "summary.json", join(output, "summary.json"))
    _remove(join(output, OWNER))


def is_published(output: str) -> bool:
    """Whether the store has every part of the local results, and no other, and the summary. Raises DiskFailed."""
    if not is_uri(output):
        return True
    local = mirror_of(output)
    manifest = read_json(local / MANIFEST) or {"parts": []}
    parts = {part["file"]: part["bytes"] for part in manifest["parts"]}
    try:
        summary = read_object(join(output, "summary.json"))
    except BadInput as error:
        raise DiskFailed(str(error)) from None
    return _sizes(join(output, "results")) == parts and summary == (local / "summary.json").read_bytes()


def stored_summary(output: str) -> dict[str, Any]:
    """The summary of an output whose local folder is on another machine. Raises BadInput when there is none."""
    text = read_object(join(output, "summary.json"))
    if text is None:
        raise BadInput(f"{shown(output)} has no summary.json: no run has begun there yet")
    found: dict[str, Any] = orjson.loads(text)
    return found


def _sizes(uri: str) -> dict[str, int]:
    prefix = shown(uri).rstrip("/") + "/"
    try:
        return {shown(found.uri).removeprefix(prefix): found.size for found in list_objects(uri)}
    except BadInput as error:
        raise DiskFailed(str(error)) from None


def _put(path: Path, uri: str) -> None:
    store, key = split(uri)
    try:
        with path.open("rb") as data, store.files.open_output_stream(key) as stream:
            while chunk := data.read(CHUNK_BYTES):
                stream.write(chunk)
    except (pa.ArrowException, OSError) as error:
        raise DiskFailed(f"cannot write {shown(uri)}: {reason(error)}") from None


def _put_bytes(uri: str, data: bytes) -> None:
    store, key = split(uri)
    try:
        with store.files.open_output_stream(key) as stream:
            stream.write(data)
    except (pa.ArrowException, OSError) as error:
        raise DiskFailed(f"cannot write {shown(uri)}: {reason(error)}") from None


def _remove(uri: str) -> None:
    store, key = split(uri)
    try:
        store.files.delete_file(key)
    except FileNotFoundError:
        pass
    except (pa.ArrowException, OSError) as error:
        raise DiskFailed(f"cannot remove {shown(uri)}: {reason(error)}") from None
