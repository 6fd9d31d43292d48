"""Addresses of inputs and outputs in object stores: told apart from local paths, checked, joined and shown."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import platformdirs

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
_OPTIONS = {"s3": {"region", "scheme", "endpoint_override"}}


def is_uri(place: str) -> bool:
    """Whether a setting names a store and not a local path."""
    return "://" in place


def check_uri(uri: str) -> str:
    """Normalize the address of a store. Raises ValueError for one that cannot be used, or that holds a secret."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        raise ValueError("names a local file: leave out file://")
    if parts.scheme not in SCHEMES:
        raise ValueError(f"has the scheme {parts.scheme}://; s3://, gs:// and abfs:// can be used")
    # abfs://container@account is no user
    if parts.password is not None or (parts.username is not None and not parts.scheme.startswith("abfs")):
        raise ValueError("holds a user or a password; credentials come from the environment")
    unknown = {name for name, _ in parse_qsl(parts.query)} - _OPTIONS.get(parts.scheme, set())
    if unknown or parts.fragment:
        raise ValueError("may have the options region, scheme and endpoint_override, and no credentials")
    if not parts.netloc:
        raise ValueError("names no bucket")
    return uri


def shown(uri: str) -> str:
    """An address as it is told: without its options."""
    return uri.partition("?")[0]


def join(uri: str, *names: str) -> str:
    """The address of something below another."""
    place, mark, query = uri.partition("?")
    return "/".join([place.rstrip("/"), *names]) + mark + query


def mirror_of(output: str) -> Path:
    """The local folder of an output that is a URI; always the same for the same address."""
    place = shown(output).rstrip("/")
    slug = re.sub(r"[^a-z0-9]+", "-", place.lower()).strip("-")[-60:]
    digest = hashlib.sha256(place.encode()).hexdigest()[:8]
    return Path(platformdirs.user_state_dir("parquill")) / "outputs" / f"{slug}-{digest}"
