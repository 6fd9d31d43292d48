"""Clients of Prefect's server: Prefect's own with fewer retries, and a plain one that connects the same way."""

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

EMBEDDED = "PARQUILL_EMBEDDED_SERVER"  # the address of the server that a command started for itself


def is_shared_server() -> bool:
    """Whether others use the server too, such as other runs or people in its UI."""
    address = PREFECT_API_URL.value()
    return bool(address) and address != os.environ.get(EMBEDDED)


@contextlib.contextmanager
def limited_retries(times: int) -> Iterator[None]:
    """Limit the retries of Prefect's clients to `times`, or to their setting if that is lower.

    They wait 2, 4, 8, ... seconds before each retry: a minute in total with Prefect's defaults.
    """
    context = get_settings_context()
    client = context.settings.client
    # copied, because Prefect's `temporary_settings` reads and validates every setting again: 30 ms each time
    # promise: ui: Prefect calls that only display something retry a few times at most
    hasty = client.model_copy(update={"max_retries": min(times, client.max_retries)})
    with SettingsContext(profile=context.profile, settings=context.settings.model_copy(update={"client": hasty})):
        yield


def without_password(address: str) -> str:
    """Return an address without its user name and password, for messages."""
    return re.sub(r"//[^/]*@", "//", address)


def http_client(address: str, timeout: float = 10.0) -> httpx.Client:
    """Return a client that connects as Prefect's own do: same proxies, certificates and credentials.

    Prefect's own wait before a retry, so they notice a server's return seconds late; this one tries once, with a
    timeout in seconds. Raises ParquillError for certificates that cannot be read.
    """
    settings = get_current_settings()
    headers = dict(settings.client.custom_headers)
    if settings.api.auth_string is not None:
        word = base64.b64encode(settings.api.auth_string.get_secret_value().encode()).decode()
        headers["Authorization"] = f"Basic {word}"
    elif settings.api.key is not None:
        headers["Authorization"] = f"Bearer {settings.api.key.get_secret_value()}"
    # promise: server: the certificates from Prefect's settings are trusted
    # promise: server: requests carry Prefect's own credentials
    return httpx.Client(verify=_trusted(address), headers=headers, timeout=timeout)


def _trusted(address: str) -> ssl.SSLContext | bool:
    if not address.startswith("https:") or PREFECT_API_TLS_INSECURE_SKIP_VERIFY.value():
        return False  # http needs no certificates, and to read them all takes 25 ms
    file = PREFECT_API_SSL_CERT_FILE.value() or certifi.where()
    try:
        return ssl.create_default_context(cafile=file)
    except OSError:
        raise ParquillError(f"PREFECT_API_SSL_CERT_FILE={file} holds no certificates that can be read") from None
