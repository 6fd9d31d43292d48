"""Object stores: where an input or an output that is a URI lies, and how its files are read, listed and put there.

s3://, gs:// and abfs:// are pyarrow's own filesystems; credentials come from where each store's tools take them (the
environment, a profile, the machine's role), never from a setting. A store has no rename and no lock: an object is whole
or absent, a folder is only names, so what belongs together is said by a manifest (see `publish`).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from parquill.tasks.disk.address import shown
from parquill.tasks.errors import BadInput, BadJob

CONNECT_S, REQUEST_S, ATTEMPTS = 10, 60, 4
BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """One object: its address, size in bytes, and when it was written, in nanoseconds since 1970."""

    uri: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Store:
    """A filesystem, and the beginning and the end of the addresses in it."""

    files: pafs.FileSystem
    scheme: str
    query: str

    def uri(self, path: str) -> str:
        """The address of a path in it."""
        return f"{self.scheme}://{path}" + (f"?{self.query}" if self.query else "")


def split(uri: str) -> tuple[Store, str]:
    """The store of an address, and the path in it, without a slash at its end. Raises BadJob."""
    parts = urlsplit(uri)
    try:
        return _store(parts.scheme, parts.netloc, parts.query, _ambient()), f"{parts.netloc}{parts.path}".rstrip("/")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadJob(f"{shown(uri)} cannot be opened: {reason(error)}") from None


def _ambient() -> tuple[tuple[str, str], ...]:
    """What the environment says of S3, as Amazon's own tools read it; pyarrow looks at the credentials only."""
    names = {
        "endpoint_override": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    }
    found = {option: next(filter(None, map(os.environ.get, given)), None) for option, given in names.items()}
    return tuple((option, value) for option, value in found.items() if value)


@functools.cache
def _store(scheme: str, netloc: str, query: str, ambient: tuple[tuple[str, str], ...]) -> Store:
    if scheme == "s3":
        options: dict[str, Any] = {**dict(ambient), **dict(parse_qsl(query))}
        made = pafs.S3FileSystem(
            connect_timeout=CONNECT_S,
            request_timeout=REQUEST_S,
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            **options,
        )
        return Store(made, scheme, query)
    return Store(pafs.FileSystem.from_uri(f"{scheme}://{netloc}/")[0], scheme, query)


def reason(error: Exception) -> str:
    """Why a store refused, in a few words: its own text may hold whatever was sent to it."""
    text = str(error)
    if found := re.search(r"AWS Error ([A-Z_]+)", text):
        return {
            "ACCESS_DENIED": "access denied",
            "NO_SUCH_BUCKET": "there is no such bucket",
            "NETWORK_CONNECTION": "it does not answer",
        }.get(found[1], found[1].lower().replace("_", " "))
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, PermissionError):
        return "access denied"
    return type(error).__name__


def list_objects(uri: str) -> Iterator[Stored]:
    """The object with this address, or all below it, in the order of their names. Raises BadInput."""
    store, path = split(uri)
    try:
        found = store.files.get_file_info(path)
        if found.type == pafs.FileType.File:
            infos = [found]
        else:
            infos = store.files.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{shown(uri)} cannot be read: {reason(error)}") from None
    for info in sorted(infos, key=lambda each: each.path):
        if info.type == pafs.FileType.File:
            yield Stored(store.uri(info.path), info.size, info.mtime_ns or 0)


def open_parquet(uri: str) -> pq.ParquetFile:
    """Open a Parquet object for streaming: pages are fetched as they are read. Raises OSError."""
    store, path = split(uri)
    return pq.ParquetFile(
        store.files.open_input_file(path),
        buffer_size=BUFFER_BYTES,
        pre_buffer=False,
        page_checksum_verification=True,
    )


def read_object(uri: str) -> bytes | None:
    """The bytes of a small object; None when there is none. Raises BadInput."""
    store, path = split(uri)
    try:
        with store.files.open_input_file(path) as stream:
            data: bytes = stream.read()
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{shown(uri)} cannot be read: {reason(error)}") from None
    return data
