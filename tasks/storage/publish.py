"""Copy an output that is a URI from its local folder (`uri.local_mirror`) to the store.

A store has no rename, so the order of the steps keeps the output consistent. The name of a part identifies its run and
its content, so no part is overwritten. New parts are added next to the earlier ones; then the manifest says which parts
belong together; then the earlier ones are removed; summary.json, which says `running` meanwhile, comes last. A reader
that waits for `state: finished`, or reads the parts that the manifest names, sees one run. An object is whole or
absent, so the next start finishes a copy that was interrupted between any two steps.

A store has no lock either: `owner.json` names the state folder of the run that writes there. The lock of the state
folder keeps the runs that share it apart, so one of them can take over what a killed one left.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from parquill.tasks.errors import BadInput, BadJob, DiskFailed, FolderInUse
from parquill.tasks.storage.disk import DISK, read_json
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.object_store import list_objects, put_file, read_object, remove_object
from parquill.tasks.storage.published import WrittenRun, written_run
from parquill.tasks.storage.uri import is_uri, join, redact_uri

MANIFEST, OWNER, SUMMARY = ".parquill/manifest.json", ".parquill/owner.json", "summary.json"


def take_ownership(folders: Folders, run_id: str) -> None:
    """Check that a store can be written, and record that a run writes there. Raises BadJob, FolderInUse.

    If two machines do so at the same time, the conflict is found when the first of them begins to copy.
    """
    try:
        _take_ownership(folders, run_id)
    except (BadInput, DiskFailed) as error:
        raise BadJob(f"`output`: {error}") from None


def _take_ownership(folders: Folders, run_id: str) -> None:
    owner, mine = _owner(folders.output_uri), _identity(folders)
    # promise: stores: an output that a run with another state owns is refused
    if owner is not None and owner.get("state_id") != mine:
        raise FolderInUse(
            f"{redact_uri(folders.output_uri)} is in use by the run {owner.get('run_id')} on {owner.get('host')} "
            f"since {owner.get('since')}, with another state folder; wait until it ends, or remove "
            f"{redact_uri(join(folders.output_uri, OWNER))} if it will never end"
        )
    since = datetime.now(UTC).isoformat(timespec="seconds")
    claim = {"state_id": mine, "run_id": run_id, "host": socket.gethostname(), "since": since}
    DISK.write_json(folders.meta / "owner.json", claim, 0o600)
    put_file(folders.meta / "owner.json", join(folders.output_uri, OWNER))


def _drop_ownership(folders: Folders) -> None:
    owner = _owner(folders.output_uri)
    if owner is not None and owner.get("state_id") == _identity(folders):
        remove_object(join(folders.output_uri, OWNER))


def _owner(named: str) -> dict[str, Any] | None:
    return _read(join(named, OWNER))


def _read(uri: str) -> dict[str, Any] | None:
    """Read one of Parquill's JSON objects in a store; None if it is missing or damaged."""
    try:
        found = orjson.loads(read_object(uri) or b"null")
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _identity(folders: Folders) -> str:
    """The id of the state folder, kept in it: hosts and paths change with every container."""
    path = folders.state / "state-id.json"
    found = read_json(path)
    if found is None:
        found = {"state_id": secrets.token_hex(8)}
        DISK.write_json(path, found, 0o600)
    return str(found["state_id"])


def publish_summary(folders: Folders, *, ended: bool = False) -> None:
    """Copy the summary of a run that is under way or has `ended` early. Raises DiskFailed."""
    if is_uri(folders.output_uri):
        try:
            put_file(folders.output / SUMMARY, join(folders.output_uri, SUMMARY))
            # promise: stores: a stopped run releases its output for others
            if ended:
                _drop_ownership(folders)
        except BadInput as error:
            raise DiskFailed(str(error)) from None


def publish(folders: Folders) -> None:
    """Copy what the store lacks from the local folder, in the order above. Raises DiskFailed."""
    if not is_uri(folders.output_uri):
        return
    try:
        _publish(folders)
    # these errors mean that nothing was sent, but requests were paid
    except (BadInput, BadJob, FolderInUse) as error:
        raise DiskFailed(f"the results are in {folders.output} but were not copied to the store: {error}") from None


def _publish(folders: Folders) -> None:
    named, local = folders.output_uri, folders.output
    manifest = read_json(folders.meta / "manifest.json")
    summary = read_json(local / SUMMARY) or {}
    # promise: stores: of two machines that claim an output at once, only one copies
    _take_ownership(folders, str(summary.get("run_id")))
    # promise: stores: summary.json says `running` while the parts change
    # promise: stores: the final summary is stored last
    _mark_running(folders, summary)
    # promise: stores: old parts are removed only after the new manifest is stored
    # promise: stores: the manifest is stored after its parts
    results = join(named, "results")
    there = _sizes(results)
    if manifest:
        for part in manifest["parts"]:
            path = local / "results" / part["file"]
            part["file"] = _stored_name(path)
            if there.get(part["file"]) != part["bytes"]:
                put_file(path, join(results, part["file"]))
        DISK.write_json(folders.meta / "published.json", manifest, 0o600)
        put_file(folders.meta / "published.json", join(named, MANIFEST))
        for file in sorted(there.keys() - {part["file"] for part in manifest["parts"]}):
            remove_object(join(results, file))
    kept = _sizes(join(named, "history"))
    for path in sorted((local / "history").glob("*.json")):
        if kept.get(path.name) != path.stat().st_size:
            put_file(path, join(named, "history", path.name))
    if (local / "report.html").exists():
        put_file(local / "report.html", join(named, "report.html"))
    if summary:
        put_file(local / SUMMARY, join(named, SUMMARY))
    _drop_ownership(folders)


def _mark_running(folders: Folders, summary: dict[str, Any]) -> None:
    """Set the stored summary to `running` before its parts change, unless it says so already."""
    there = _read(join(folders.output_uri, SUMMARY))
    if there is not None and there.get("state") != "running":
        running = {**(summary or there), "state": "running", "exit_code": None, "finished_at": None}
        DISK.write_json(folders.meta / "running.json", running)
        put_file(folders.meta / "running.json", join(folders.output_uri, SUMMARY))


def is_published(folders: Folders) -> bool:
    """Whether the store holds exactly what a finished copy leaves there. Raises DiskFailed."""
    if not is_uri(folders.output_uri):
        return True
    path = folders.output / SUMMARY
    try:
        # it is copied last, so if it is equal, all before it was copied
        if not path.exists() or read_object(join(folders.output_uri, SUMMARY)) != path.read_bytes():
            return False
        manifest = _read(join(folders.output_uri, MANIFEST)) or {"parts": []}
        parts = {part["file"]: part["bytes"] for part in manifest["parts"]}
        owner = _owner(folders.output_uri)
        left_over = owner is not None and owner.get("state_id") == _identity(folders)
        # promise: stores: the next start removes a leftover ownership record
        return _sizes(join(folders.output_uri, "results")) == parts and not left_over
    except (BadInput, BadJob) as error:
        raise DiskFailed(str(error)) from None


def stored_summary(output: str) -> dict[str, Any]:
    """Return the summary of an output whose local folder is on another machine. Raises BadInput if there is none."""
    found = _read(join(output, SUMMARY))
    if found is None:
        raise BadInput(f"{redact_uri(output)} has no summary.json: no run has begun there yet")
    return found


def stored_run(output: str) -> WrittenRun:
    """Return the run whose results are in a store. Raises BadInput if there is none, or if it cannot be read."""
    return written_run(lambda name: _read(join(output, name)), redact_uri(output))


def stored_parts(output: str) -> list[tuple[str, None]]:
    """Return the addresses of the current parts, without checksums: stores check objects. Raises BadInput, BadJob."""
    manifest = _read(join(output, MANIFEST)) or {"parts": []}
    return [(join(output, "results", part["file"]), None) for part in manifest["parts"]]


def _stored_name(path: Path) -> str:
    """The name of a part in a store, with its digest: a resumed run rewrites its parts under the same local names."""
    with path.open("rb") as data:
        # promise: stores: a part in a store is never overwritten
        return f"{path.stem}-{hashlib.file_digest(data, 'sha256').hexdigest()[:8]}.parquet"


def _sizes(uri: str) -> dict[str, int]:
    prefix = redact_uri(uri).rstrip("/") + "/"
    return {redact_uri(found.uri).removeprefix(prefix): found.size for found in list_objects(uri)}
