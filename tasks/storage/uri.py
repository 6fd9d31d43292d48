"""Addresses of inputs and outputs in object stores: recognize, check, join and show them."""

from __future__ import annotations

import glob
import hashlib
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import platformdirs

# The options that an address may set: where the store is, never credentials.
_S3 = frozenset({"region", "scheme", "endpoint_override", "anonymous"})
_GS = frozenset({"scheme", "endpoint_override", "anonymous"})
_ABFS = frozenset({"blob_storage_authority", "blob_storage_scheme", "dfs_storage_authority", "dfs_storage_scheme"})
_OPTIONS = {"s3": _S3, "gs": _GS, "gcs": _GS, "abfs": _ABFS, "abfss": _ABFS}
HUB = "hf://datasets/"


def is_uri(location: str) -> bool:
    """Whether a setting names a store and not a local path."""
    return "://" in location


def is_dataset(uri: str) -> bool:
    """Whether an address names a dataset of Hugging Face."""
    return uri.startswith(HUB)


def check_uri(uri: str, *, is_written: bool = False) -> None:
    """Raise ValueError for an address that cannot be used or holds a secret; the message shows no secret.

    `is_written` says that it is the address of an output.
    """
    try:
        parts = urlsplit(uri)
        # promise: stores: a `?` wildcard in an address is not parsed as options
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError("is not an address; options follow a ?, so it is not a wildcard here: use *") from None
    if parts.scheme == "file":
        raise ValueError("names a local file: leave out file://")
    if parts.scheme == "hf":
        _check_dataset(uri, is_written=is_written)
        return
    if parts.scheme not in _OPTIONS:
        raise ValueError(f"has the unsupported scheme {parts.scheme}://; use s3://, gs:// or abfs://")
    if not parts.netloc:
        raise ValueError("names no bucket")
    # promise: stores: an address with an empty path segment is refused
    if "//" in parts.path.rstrip("/"):
        raise ValueError("has an empty part between two slashes")
    on_azure = parts.scheme.startswith("abfs")
    # in abfs://container@account the container is not a user
    # promise: stores: an address with a user or password is refused
    if parts.password is not None or (parts.username is not None and not on_azure):
        raise ValueError("holds a user or a password; credentials come from the environment")
    if on_azure and not parts.username:
        raise ValueError("names no account: abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH")
    # promise: stores: an address with options that may hold a secret is refused
    if options.keys() - _OPTIONS[parts.scheme] or parts.fragment:
        names = ", ".join(sorted(_OPTIONS[parts.scheme]))
        raise ValueError(f"may only have the options {names}, no credentials: they come from the environment")


def _check_dataset(uri: str, *, is_written: bool) -> None:
    if is_written:
        raise ValueError("is in a dataset of Hugging Face, which is only read; use a folder, s3://, gs:// or abfs://")
    if {"?", "#"} & set(uri):
        raise ValueError("may have no ? and no #: a token comes from HF_TOKEN")
    owner, _, rest = uri.removeprefix(HUB).partition("/")
    name, _, path = rest.partition("/")
    name = name.partition("@")[0]
    # promise: hf: an address of anything but one dataset is refused
    if not is_dataset(uri) or not owner or not name or "@" in owner or is_wild(owner + name):
        raise ValueError(f"names no dataset; write {HUB}OWNER/NAME/PATH or {HUB}OWNER/NAME@REVISION/PATH")
    if "//" in f"/{path}":
        raise ValueError("has an empty part between two slashes")


def redact_uri(uri: str) -> str:
    """Return an address as it is shown: without its options."""
    return uri.partition("?")[0] if is_uri(uri) else uri


def join(uri: str, *names: str) -> str:
    """Return the address, or the local path, of something below `uri`; its options stay at the end."""
    base, mark, query = uri.partition("?") if is_uri(uri) else (uri, "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + query


def is_wild(text: str) -> bool:
    """Whether a part of an address has a wildcard."""
    return glob.has_magic(text)


def fixed_part(uri: str) -> str:
    """Return an address up to its first wildcard, with its options."""
    path, mark, query = uri.partition("?")
    parts = path.rstrip("/").split("/")
    depth = next((i for i, part in enumerate(parts) if is_wild(part)), len(parts))
    return "/".join(parts[:depth]) + mark + query


def local_mirror(output: str, state: str | None = None) -> Path:
    """Return the local folder of an output that is a URI: always the same for an address, below `state` if it is set.

    So machines that share a state folder also share the local copy of the output.
    """
    parts = urlsplit(output)
    mirrored = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
    # two services may have buckets of the same name
    service = dict(parse_qsl(parts.query)).get("endpoint_override", "")
    slug = re.sub(r"[^a-z0-9]+", "-", mirrored.lower()).strip("-")[-60:]
    digest = hashlib.sha256(f"{mirrored}\0{service}".encode()).hexdigest()[:8]
    home = Path(state) if state else Path(platformdirs.user_state_dir("parquill"))
    return home / "outputs" / f"{slug}-{digest}"
