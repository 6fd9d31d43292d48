"""Prefect's server: who knows it, its own clients made less patient, and a plain one that reaches it as they do."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import ssl
from collections.abc import Iterator

import certifi
import httpx
from prefect.context import SettingsContext, get_settings_context
from prefect.settings import (
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
    PREFECT_API_URL,
    get_current_settings,
)

from parquill.tasks.errors import ParquillError

EMBEDDED = "PARQUILL_EMBEDDED_SERVER"  # the address of a server that one command has started for itself


def is_shared_server() -> bool:
    """Whether others know the server too: their runs, and people before its UI."""
    address = PREFECT_API_URL.value()
    return bool(address) and address != os.environ.get(EMBEDDED)


@contextlib.contextmanager
def limited_retries(times: int) -> Iterator[None]:
    """Have Prefect's clients try a request again this often at most, less often where they are set to less.

    They wait 2, 4, 8, ... seconds before each retry, which is a minute in sum as they are set.
    """
    context = get_settings_context()
    client = context.settings.client
    # copied, since Prefect's `temporary_settings` reads and validates every setting anew: 30 ms each time
    hasty = client.model_copy(update={"max_retries": min(times, client.max_retries)})
    with SettingsContext(profile=context.profile, settings=context.settings.model_copy(update={"client": hasty})):
        yield


def without_password(address: str) -> str:
    """An address as it may be told."""
    return re.sub(r"//[^/]*@", "//", address)


def http_client(address: str, timeout: float = 10.0) -> httpx.Client:
    """A client that reaches a server as Prefect's own do: by their proxies, with their certificates and credentials.

    Prefect's own wait before they try again, so they see a server's return seconds late; this one tries once, for so
    many seconds. Raises ParquillError for certificates that cannot be read.
    """
    settings = get_current_settings()
    headers = dict(settings.client.custom_headers)
    if settings.api.auth_string is not None:
        word = base64.b64encode(settings.api.auth_string.get_secret_value().encode()).decode()
        headers["Authorization"] = f"Basic {word}"
    elif settings.api.key is not None:
        headers["Authorization"] = f"Bearer {settings.api.key.get_secret_value()}"
    return httpx.Client(verify=_trusted(address), headers=headers, timeout=timeout)


def _trusted(address: str) -> ssl.SSLContext | bool:
    if not address.startswith("https:") or PREFECT_API_TLS_INSECURE_SKIP_VERIFY.value():
        return False  # by http there is nothing to be trusted, and to read all certificates takes 25 ms
    file = PREFECT_API_SSL_CERT_FILE.value() or certifi.where()
    try:
        return ssl.create_default_context(cafile=file)
    except OSError:
        raise ParquillError(f"PREFECT_API_SSL_CERT_FILE={file} holds no certificates that can be read") from None
