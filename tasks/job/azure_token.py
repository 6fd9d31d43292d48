"""Tokens of Azure's identity service (Microsoft Entra ID), in place of a key: `auth: azure`.

azure-identity finds the credentials of the machine or the user: a service principal in variables, a workload identity,
a managed identity, or the login of the Azure CLI. A token lasts for about an hour. It is renewed before it ends, in a
thread of its own, since the login may take seconds and the requests must not wait for it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from parquill.tasks.errors import BadJob
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.key import Key

# azure-identity itself asks for a new token from then on; earlier calls return the one that it has.
RENEW_BEFORE_S: Final = 300.0
RETRY_INTERVAL_S: Final = 30.0  # azure-identity asks no sooner again
# The part of an error of Microsoft's that names its kind, such as AADSTS7000215. The rest may say more than is wanted.
_CODE = re.compile(r"AADSTS\d{4,8}")
_TOKEN = re.compile(r"[\x21-\x7e]+")

_log = logging.getLogger("parquill.service")


class Token(NamedTuple):
    """A token and when it ends, and when a new one may be asked for, in seconds since 1970."""

    text: str
    ends_at: float
    renew_at: float


class Credential(Protocol):
    """What azure-identity calls a credential."""

    def get_token_info(self, *scopes: str) -> Any:
        """Return a token with `token`, `expires_on` and `refresh_on`. Raises whatever it likes."""


def scope_of(endpoint: Endpoint) -> str:
    """Return what the token of an endpoint is for.

    https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle names the scope of the v1 addresses, and the
    documentation of the older addresses theirs. National clouds have the same names under their own domains.
    """
    if endpoint.azure_scope is not None:
        return endpoint.azure_scope
    parts = urlsplit(endpoint.base_url)
    host = parts.hostname or ""
    domain = next((end for end in ("us", "cn") if host.endswith(f".azure.{end}")), "com")
    is_v1 = re.match(r"/openai/v1(?:/|$)", parts.path) is not None
    return f"https://{'ai' if is_v1 else 'cognitiveservices'}.azure.{domain}/.default"


class AzureKey(Key):
    """The token of an endpoint as its key. Requests read it; only `renew` waits for the identity service."""

    __slots__ = ("_clock", "_credential", "_is_renewing", "_more", "_scope", "_start", "_token", "_tried_at")
    is_renewed = True

    def __init__(
        self,
        credential: Credential,
        scope: str,
        headers: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.time,
        start: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """Get the first token; raises BadJob. `start` runs a renewal, by default in a thread of its own."""
        self._credential, self._scope, self._clock = credential, scope, clock
        self._start = start or _in_a_thread
        self._more = dict(headers)
        self._tried_at = clock()
        self._is_renewing = threading.Lock()
        try:
            self._token = self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, it may hold a secret
            # promise: S2 an error of the identity service is replaced by its code
            raise BadJob(f"`auth: azure` got no token{_reason(error)}; {_ADVICE}") from None
        super().__init__(self._token.text, "bearer", self._more)

    def _ask(self) -> Token:
        found = self._credential.get_token_info(self._scope)
        text, ends_at = found.token, float(found.expires_on)
        # promise: S2 a malformed token is refused
        if not isinstance(text, str) or not _TOKEN.fullmatch(text):
            raise ValueError("no token")
        renew_at = ends_at - RENEW_BEFORE_S
        if found.refresh_on is not None:
            renew_at = min(renew_at, float(found.refresh_on))
        return Token(text, ends_at, renew_at)

    def headers(self) -> dict[str, str]:
        """Return the headers with the token as it is now.

        A token that ends soon is renewed meanwhile. One that has ended, since no request left for a while, is renewed
        at once: the service would refuse it, and the run would stop.
        """
        now = self._clock()
        # promise: azure: a token is renewed before it ends
        if now >= self._token.renew_at and now >= self._tried_at + RETRY_INTERVAL_S:
            self._tried_at = now
            if now < self._token.ends_at:
                self._start(self.renew)
            else:
                # promise: azure: no request leaves with a token that has ended
                self.renew()
        return super().headers()

    def renew(self) -> None:
        """Get a new token and use it from now on; if there is none, the old one stays."""
        if not self._is_renewing.acquire(blocking=False):
            return
        try:
            token = self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, it may hold a secret
            left_s = self._token.ends_at - self._clock()
            state = f"the old one is valid for another {left_s:,.0f} s" if left_s > 0 else "the old one has ended"
            _log.warning("Azure's identity service gave no new token%s; %s", _reason(error), state)
        else:
            # promise: S1 the old token and the new one are masked in replies
            self._set(token.text, "bearer", self._more, also=(self._token.text,))
            self._token = token
        finally:
            self._is_renewing.release()


_ADVICE: Final = (
    "sign in with `az login`, give the machine a managed identity, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and "
    "AZURE_CLIENT_SECRET"
)


def _reason(error: Exception) -> str:
    codes = dict.fromkeys(_CODE.findall(str(error)))
    return f" ({', '.join(codes)})" if codes else ""


def _in_a_thread(renew: Callable[[], None]) -> None:
    threading.Thread(target=renew, name="parquill-token", daemon=True).start()


def read_azure_key(endpoint: Endpoint, headers: Mapping[str, str]) -> Key:
    """Sign in to Azure, and return the key of an endpoint with `auth: azure`. Raises BadJob."""
    try:
        credential = _credential()
    except ImportError:
        raise BadJob("`auth: azure` needs azure-identity: pip install 'parquill[azure]'") from None
    return AzureKey(credential, scope_of(endpoint), headers)


@cache
def _credential() -> Credential:
    """Return the credential of this process, which keeps its tokens: a start signs in once."""
    from azure.identity import DefaultAzureCredential

    # its long warnings go to logs, but not to the terminal of someone who has set up none
    logging.getLogger("azure").addHandler(logging.NullHandler())
    return DefaultAzureCredential()
