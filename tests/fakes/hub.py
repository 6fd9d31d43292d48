"""A service that answers what huggingface_hub asks of Hugging Face to list and read datasets, on loopback.

with hub() as running:
    commit = running.push("owner/name", {"data/a.parquet": b"..."})
    # HF_ENDPOINT=running.origin

As on Hugging Face, files are sent from another host (localhost instead of 127.0.0.1), which must not get the token.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_CANARYtokenOfTheTests"
_ROUTE = re.compile(r"/(?P<kind>api/datasets|datasets|files)/(?P<name>[^/]+/[^/]+)(?:/(?P<rest>.*))?")


class Request(NamedTuple):
    """A request: the host that it named, its path, and its Authorization header."""

    host: str
    path: str
    authorization: str


@dataclass
class Dataset:
    """The commits of a dataset, and the commit that each branch or tag is at."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    is_private: bool = False
    is_gated: bool = False


class Hub:
    """The running service. `asked` has its requests. `cut` and `ignore_ranges` make it send wrong ranges of files."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.files = f"http://localhost:{port}"
        self.datasets: dict[str, Dataset] = {}
        self.asked: list[Request] = []
        self.status = 0  # answer every request for a file with this status
        self.cut = 0
        self.ignore_ranges = False

    def push(self, name: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Store a commit with these files and no others, and set a revision to it; return the commit."""
        dataset = self.datasets.setdefault(name, Dataset())
        commit = hashlib.sha1(repr((len(dataset.commits), revision, sorted(files))).encode()).hexdigest()  # noqa: S324
        dataset.commits[commit] = dict(files)
        dataset.revisions[revision] = commit
        return commit


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str = "refused by the service") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        host = self.headers.get("host", "").partition(":")[0]
        self.hub.asked.append(Request(host, self.path, self.headers.get("authorization", "")))
        parts = urlsplit(self.path)
        try:
            self._answer(unquote(parts.path), parse_qs(parts.query))
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
            self._send(refused.status, json.dumps({"error": str(refused)}).encode(), headers)

    def _answer(self, path: str, query: Mapping[str, list[str]]) -> None:
        found = _ROUTE.fullmatch(path)
        if found is None:
            raise _Refused(404, "")
        name, rest = found["name"], found["rest"] or ""
        if found["kind"] == "files":
            commit, _, file = rest.partition("/")
            self._send_file(self.hub.datasets[name].commits[commit][file])
            return
        dataset, token = self._admitted(name)
        action, _, after = rest.partition("/")
        if found["kind"] == "datasets":
            self._send_there(name, dataset, after, token)
            return
        commit, folder = self._commit(dataset, after or "main")
        if action in {"", "revision"}:
            self._send_json({"id": name, "sha": commit, "private": dataset.is_private, "gated": dataset.is_gated})
        else:
            is_deep = query.get("recursive", [""])[0].lower() == "true"
            self._send_json(_tree(dataset.commits[commit], folder, is_deep=is_deep))

    def _admitted(self, name: str) -> tuple[Dataset, str]:
        """Return a dataset that the request may know of, and its token."""
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in {"", TOKEN}:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        dataset = self.hub.datasets.get(name)
        if dataset is None or (dataset.is_private and not token):
            raise _Refused(404 if token else 401, "RepoNotFound")
        return dataset, token

    def _send_there(self, name: str, dataset: Dataset, path: str, token: str) -> None:
        """Send the address of a file on the other host."""
        commit, file = self._commit(dataset, path)
        if dataset.is_gated and not token:
            raise _Refused(401, "GatedRepo")
        if self.hub.status:
            raise _Refused(self.hub.status, "")
        if file not in dataset.commits[commit]:
            raise _Refused(404, "EntryNotFound")
        self._send(302, b"", {"Location": f"{self.hub.files}/files/{name}/{commit}/{file}", "X-Repo-Commit": commit})

    @staticmethod
    def _commit(dataset: Dataset, path: str) -> tuple[str, str]:
        """Return the commit of the revision with which a path begins, and the rest of the path."""
        for revision in sorted([*dataset.revisions, *dataset.commits], key=len, reverse=True):
            if path == revision or path.startswith(f"{revision}/"):
                return dataset.revisions.get(revision, revision), path[len(revision) + 1 :]
        raise _Refused(404, "RevisionNotFound")

    def _send_file(self, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if wanted is None or self.hub.ignore_ranges:
            self._send(200, data)
            return
        first, last = int(wanted[1]), int(wanted[2]) + 1 - self.hub.cut
        self._send(206, data[first:last], {"Content-Range": f"bytes {first}-{last - 1}/{len(data)}"})

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tree(files: Mapping[str, bytes], folder: str, *, is_deep: bool) -> list[dict[str, Any]]:
    """Return the entries below a folder as the service lists them."""
    below = {path: data for path, data in files.items() if not folder or path.startswith(f"{folder}/")}
    if not below and folder:
        raise _Refused(404, "EntryNotFound")
    depth = folder.count("/") + 1 if folder else 0
    entries: dict[str, dict[str, Any]] = {}
    for path, data in below.items():
        for parent in list(PurePosixPath(path).parents)[: -1 - depth]:
            entries[str(parent)] = {"type": "directory", "oid": _oid(str(parent).encode()), "size": 0}
        entries[path] = {"type": "file", "oid": _oid(data), "size": len(data)}
    shown = {path: entry for path, entry in entries.items() if is_deep or path.count("/") == depth}
    return [{"path": path, **entry} for path, entry in sorted(shown.items())]


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()  # noqa: S324 - as git names its objects


@contextmanager
def hub() -> Iterator[Hub]:
    """Run the service on a free port."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        running = Hub(server.server_address[1])
        handler.hub = running  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()
