"""Object stores: read, list and write the files of an input or an output that is a URI.

s3://, gs:// and abfs:// are pyarrow's own filesystems, and hf:// is that of `hugging_face`. Credentials come from where
each store's own tools find them (the environment, a profile, the machine's role), never from a setting. A store has no
rename and no lock: an object is whole or absent, and a folder is only a prefix of names, so a manifest says which
objects belong together (see `publish`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from parquill.tasks.errors import BadInput, BadJob, DiskFailed
from parquill.tasks.storage.hugging_face import HubFailed, commit_of, hub_files
from parquill.tasks.storage.table_formats import ICEBERG_FOLDER, MARKERS, table_among
from parquill.tasks.storage.uri import fixed_part, is_dataset, is_wild, join, redact_uri

CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, ATTEMPTS = 10, 60, 4
RETRY_TIMEOUT_S = 60  # gs://, whose default is a quarter of an hour
BUFFER_BYTES = 1 << 20
CHUNK_BYTES = 8 << 20
PEEKS_AT_ONCE = 16
_S3_WORDS = {
    "ACCESS_DENIED": "access denied",
    "INVALID_ACCESS_KEY_ID": "access denied",
    "SIGNATURE_DOES_NOT_MATCH": "access denied",
    "NO_SUCH_BUCKET": "there is no such bucket",
    "NETWORK_CONNECTION": "the store does not answer",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """One object: its address, its size in bytes, and its time of writing in nanoseconds since 1970."""

    uri: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class StoreLocation:
    """What an address points to: a filesystem, and the path in it without a trailing slash."""

    files: pafs.FileSystem
    path: str


def find_location(uri: str) -> StoreLocation:
    """Return the filesystem and the path of an address. Raises BadJob."""
    parts = urlsplit(uri)
    if is_dataset(uri):
        return StoreLocation(hub_files(), f"{parts.netloc}{parts.path}".rstrip("/"))
    # abfs://container@account
    container, _, account = parts.netloc.rpartition("@")
    try:
        files = _files(parts.scheme, account if container else parts.netloc, parts.query, _ambient())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadJob(f"{redact_uri(uri)} cannot be opened: {reason(error)}") from None
    # promise: stores: an Azure account name is not part of an object's path
    return StoreLocation(files, f"{container or parts.netloc}{parts.path}".rstrip("/"))


def _ambient() -> tuple[tuple[str, str], ...]:
    """The S3 options in the environment, as Amazon's own tools read them; pyarrow itself reads only credentials."""
    names = {
        "endpoint_override": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    }
    found = {option: next(filter(None, map(os.environ.get, given)), None) for option, given in names.items()}
    return tuple((option, value) for option, value in found.items() if value)


@functools.cache
def _files(scheme: str, host: str, query: str, ambient: tuple[tuple[str, str], ...]) -> pafs.FileSystem:
    """One filesystem per bucket or account, cached because it keeps connections."""
    options: dict[str, Any] = dict(parse_qsl(query))
    if scheme == "s3":
        # promise: stores: the S3 endpoint that the environment sets is used
        return _s3(host, {**dict(ambient), **options})
    if scheme in {"gs", "gcs"}:
        anonymous = options.pop("anonymous", "false") == "true"
        return pafs.GcsFileSystem(anonymous=anonymous, retry_time_limit=timedelta(seconds=RETRY_TIMEOUT_S), **options)
    # the variables that Azure's own command-line tool reads
    secrets = {"account_key": "AZURE_STORAGE_KEY", "sas_token": "AZURE_STORAGE_SAS_TOKEN"}
    found = {name: os.environ[variable] for name, variable in secrets.items() if os.environ.get(variable)}
    return pafs.AzureFileSystem(account_name=host.partition(".")[0], **found, **options)


def _s3(bucket: str, options: dict[str, Any]) -> pafs.S3FileSystem:
    if not {"endpoint_override", "region"} & options.keys():
        options["region"] = pafs.resolve_s3_region(bucket)
    anonymous = options.pop("anonymous", "false") == "true"
    return pafs.S3FileSystem(
        anonymous=anonymous,
        # promise: stores: an upload uses a bounded amount of memory
        background_writes=False,  # they would hold a whole file in memory if the disk is faster than the network
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        **options,
    )


def reason(error: Exception) -> str:
    """Return why a store refused, in a few words; its own text is not shown, since it may repeat what was sent."""
    text = str(error)
    if isinstance(error, HubFailed):
        return text
    if found := re.search(r"AWS Error ([A-Z_]+)", text):
        return _S3_WORDS.get(found[1], found[1].lower().replace("_", " "))
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, PermissionError) or re.search(r"\b(401|403)\b", text):
        return "access denied"
    if isinstance(error, TimeoutError | ConnectionError) or re.search(r"(?i)connect|resolve|time[d ]*out|curl", text):
        return "the store does not answer"
    # promise: stores: the text of a store's own error is never shown
    return f"the store refuses it ({type(error).__name__})"


def list_objects(uri: str) -> Iterator[Stored]:
    """Yield the object with this address, all objects below it, or those that match a glob, in order of their names.

    For a glob only the matching folders are listed. Raises BadInput, BadJob.
    """
    root = fixed_part(uri)
    pattern = redact_uri(uri).rstrip("/").removeprefix(redact_uri(root)).lstrip("/")
    location = find_location(root)
    try:
        infos = _matching(location.files, location.path, pattern.split("/")) if pattern else _below(location)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{redact_uri(uri)} cannot be read: {reason(error)}") from None
    for info in sorted(infos, key=lambda each: each.path):
        name = info.path.removeprefix(location.path).lstrip("/")
        if {"?", "#"} & set(name):
            raise BadInput(f"{redact_uri(root)} holds {name!r}: an address cannot contain ? or #; rename the object")
        yield Stored(join(root, name) if name else root, info.size, info.mtime_ns or 0)


def _below(location: StoreLocation) -> list[pafs.FileInfo]:
    found = location.files.get_file_info(location.path)
    if found.type == pafs.FileType.File:
        return [found]
    selector = pafs.FileSelector(location.path, recursive=True, allow_not_found=True)
    return [info for info in location.files.get_file_info(selector) if info.type == pafs.FileType.File]


def _matching(files: pafs.FileSystem, folder: str, pattern: Sequence[str]) -> list[pafs.FileInfo]:
    """Return the files below a folder that match the parts of a glob; ** matches any number of folders."""
    recursive = pattern[0] == "**"
    selector = pafs.FileSelector(folder, recursive=recursive, allow_not_found=True)
    found = files.get_file_info(selector)
    if recursive:
        parts = [(info, info.path[len(folder) + 1 :].split("/")) for info in found if info.type == pafs.FileType.File]
        return [info for info, names in parts if matches(names, pattern)]
    found = [info for info in found if matches([info.base_name], pattern[:1])]
    if len(pattern) == 1:
        return [info for info in found if info.type == pafs.FileType.File]
    folders = [info.path for info in found if info.type == pafs.FileType.Directory]
    return [info for each in folders for info in _matching(files, each, pattern[1:])]


def peek(uris: Sequence[str], size: int) -> list[bytes]:
    """Read the first `size` bytes of each object, several objects at once. Raises BadInput, BadJob."""

    def begin(uri: str) -> bytes:
        try:
            with open_object(uri) as stream:
                data: bytes = stream.read(size)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{redact_uri(uri)} cannot be read: {reason(error)}") from None
        return data

    with ThreadPoolExecutor(PEEKS_AT_ONCE) as threads:
        return list(threads.map(begin, uris))


def find_marked(uri: str, folders_of: Callable[[str], Iterable[str]]) -> tuple[str, str] | None:
    """Return the format and the address of the first folder that is a table; None if none is.

    `folders_of` returns the folders to look at, at or above the files, for the path of the address. A folder that
    cannot be listed is skipped.
    """
    location = find_location(uri)
    scheme = uri.partition("://")[0]

    def look(folder: str) -> tuple[str, str] | None:
        with contextlib.suppress(pa.ArrowException, OSError):
            infos = location.files.get_file_info([f"{folder}/{marker}" for marker in MARKERS])
            marked = [info.base_name for info in infos if info.type == pafs.FileType.Directory]
            names = [f"{marker}/x" for marker in marked]
            if ICEBERG_FOLDER in marked:
                inside = location.files.get_file_info(pafs.FileSelector(f"{folder}/{ICEBERG_FOLDER}"))
                names = [*names, *(f"{ICEBERG_FOLDER}/{info.base_name}" for info in inside)]
            return table_among(f"{scheme}://{folder}", names)
        return None

    with ThreadPoolExecutor(PEEKS_AT_ONCE) as threads:
        return next((found for found in threads.map(look, folders_of(location.path)) if found is not None), None)


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob, as for local files: no wildcard matches a leading dot."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(
            matches(parts[i:], pattern[1:])
            for i in range(len(parts) + 1)
            if not any(part.startswith(".") for part in parts[:i])
        )
    # promise: stores: a wildcard does not match hidden objects
    if not parts or (parts[0].startswith(".") and is_wild(pattern[0][:1])):
        return False
    return fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def open_parquet(uri: str, int96_unit: str = "us") -> tuple[pq.ParquetFile, str]:
    """Open a Parquet object for streaming and return it with its ETag. Pages are fetched when read. Raises OSError."""
    location = find_location(uri)
    stream = location.files.open_input_file(location.path)
    parquet = pq.ParquetFile(
        stream,
        buffer_size=BUFFER_BYTES,
        pre_buffer=False,
        page_checksum_verification=True,
        coerce_int96_timestamp_unit=int96_unit,
    )
    return parquet, tag_of(uri, stream)


def tag_of(uri: str, stream: pa.NativeFile) -> str:
    """Return the ETag of an open object, which changes with its content, or the commit of a dataset; "" if none."""
    # promise: hf: the commit of a dataset is part of the input's identity
    if is_dataset(uri):
        return commit_of(uri)
    # promise: stores: an object that is overwritten within the same second is detected
    tag: str = (stream.metadata() or {}).get("ETag", b"").decode(errors="replace")
    return tag


def open_object(uri: str) -> pa.NativeFile:
    """Open an object; ranges of it are fetched when they are read. Raises OSError."""
    location = find_location(uri)
    return location.files.open_input_file(location.path)


def read_object(uri: str) -> bytes | None:
    """Return the bytes of a small object; None if it does not exist. Raises BadInput, BadJob."""
    location = find_location(uri)
    try:
        with location.files.open_input_file(location.path) as stream:
            data: bytes = stream.read()
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{redact_uri(uri)} cannot be read: {reason(error)}") from None
    return data


def put_file(path: Path, uri: str) -> None:
    """Copy a file into a store. Raises DiskFailed.

    This is one call into pyarrow: a stream that Python writes is closed by an interruption such as a signal, and
    closing it would store the half-written object.
    """
    location = find_location(uri)
    try:
        # promise: stores: an interrupted upload leaves no partial object
        pafs.copy_files(
            str(path),
            location.path,
            source_filesystem=pafs.LocalFileSystem(),
            destination_filesystem=location.files,
            chunk_size=CHUNK_BYTES,
            use_threads=False,
        )
    except (pa.ArrowException, OSError) as error:
        raise DiskFailed(f"cannot write {redact_uri(uri)}: {reason(error)}") from None


def remove_object(uri: str) -> None:
    """Remove an object if it exists. Raises DiskFailed."""
    location = find_location(uri)
    try:
        location.files.delete_file(location.path)
    except FileNotFoundError:
        pass
    except (pa.ArrowException, OSError) as error:
        raise DiskFailed(f"cannot remove {redact_uri(uri)}: {reason(error)}") from None
