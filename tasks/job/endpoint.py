"""Where requests go, under which protocol, and what the service requires in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import Field, field_validator, model_validator

from parquill.tasks.job.base import OneLine, Settings
from parquill.tasks.job.parameters import SECRETS

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPENAI_BASE_URL = "https://api.openai.com/v1"
# The names that services use for max_output_tokens.
LimitName = Literal["max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict"]

# Paths of requests, which are added to a base_url. /models is not one of them: an address of Azure ends in it.
_OPERATION = re.compile(r"/(?:chat/completions|completions|chat|responses|messages|embeddings)$", re.IGNORECASE)
# promise: S2 a key where the name of its variable belongs is refused
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
_OWN_HEADERS = frozenset(
    (
        "host content-length content-type content-encoding transfer-encoding connection keep-alive te trailer upgrade "
        "expect accept accept-encoding cookie"
    ).split()
)
_SECRET_NAME = re.compile(r"key|secret|token|password|credential|^(?:sig|signature|code|auth)$", re.IGNORECASE)


class Endpoint(Settings):
    """Where requests go, and under which protocol."""

    base_url: str = Field(
        OPENAI_BASE_URL, description="Address of the service; it ends before /chat/completions, for example in /v1"
    )
    api: Literal["chat", "responses", "completions"] = Field("chat", description="Protocol of the service")
    name: Annotated[str, OneLine] | None = Field(
        None, min_length=1, description="Replaces the address in request keys, so that the address may change"
    )
    api_key_env: str | None = Field(
        None,
        description="NAME of the environment variable that holds the key; default: OPENAI_API_KEY at api.openai.com, "
        "no key elsewhere",
    )
    api_key_block: str | None = Field(
        None, description="NAME of the Prefect Secret block that holds the key, instead of api_key_env"
    )
    auth: Literal["bearer", "api-key", "azure"] = Field(
        "bearer",
        description="bearer: the key in the header `Authorization`; api-key: in the header `api-key` (Azure, many "
        "gateways); azure: a token of Azure's identity service in place of a key, renewed during the run",
    )
    azure_scope: str | None = Field(
        None,
        pattern=r"^[a-z]+://[!-~]{1,500}$",
        description="With auth: azure, what the token is for; default: https://ai.azure.com/.default at /openai/v1, "
        "https://cognitiveservices.azure.com/.default at older addresses, .us or .cn in those clouds",
    )
    admin_key_env: str | None = Field(
        None,
        description="NAME of the environment variable that holds an admin key of the account, for `doctor` and "
        "`reconcile`; default: OPENAI_ADMIN_KEY at api.openai.com, if it is set",
    )
    headers_env: dict[str, str] = Field(
        default_factory=dict,
        description="More headers, each with the NAME of the environment variable that holds its value",
    )
    query: dict[str, str] = Field(
        default_factory=dict, description="Query of every request, for example {api-version: 2024-10-21}"
    )
    limit_name: LimitName | None = Field(
        None, description="Name of max_output_tokens in the request; default: the one for the API and model"
    )
    allow_http: bool = Field(False, description="Allow plain http to hosts other than this machine")

    @model_validator(mode="before")
    @classmethod
    def _default_key(cls, data: Any) -> Any:
        # OPENAI_API_KEY is for OpenAI only, which answers no request without a key; another host gets it only if the
        # job says so. The form in Prefect's UI sends null for an empty field.
        # promise: P6 a key field left empty in Prefect's form means the default key
        if not isinstance(data, dict):
            return data
        host = urlsplit(str(data.get("base_url", OPENAI_BASE_URL))).hostname
        if host != urlsplit(OPENAI_BASE_URL).hostname:
            return data
        found = dict(data)
        if found.get("api_key_env") is None and found.get("api_key_block") is None and found.get("auth") != "azure":
            found["api_key_env"] = "OPENAI_API_KEY"
        if found.get("admin_key_env") is None:
            found["admin_key_env"] = "OPENAI_ADMIN_KEY"
        return found

    @field_validator("headers_env")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        for header, variable in value.items():
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", header):
                raise ValueError("has a name that no header can have")
            if header.casefold() in _OWN_HEADERS or header.casefold().startswith("proxy-"):
                raise ValueError(f"{header!r} is a header of the protocol and cannot be set")
            # promise: S1 `headers_env` accepts names of variables, never values
            if not re.fullmatch(_VARIABLE, variable):
                raise ValueError(f"{header!r} must have the name of a variable, never the value itself")
        if len({header.casefold() for header in value}) < len(value):
            raise ValueError("has a header twice, in upper and lower case")
        return value

    @field_validator("query", mode="before")
    @classmethod
    def _text_of_query(cls, value: Any) -> Any:
        # YAML reads `api-version: 2024-10-21` as a date
        if not isinstance(value, Mapping):
            return value
        return {
            name: str(member) if isinstance(member, date | int | float) and not isinstance(member, bool) else member
            for name, member in value.items()
        }

    @field_validator("query")
    @classmethod
    def _plain_query(cls, value: dict[str, str]) -> dict[str, str]:
        for name, member in value.items():
            if not re.fullmatch(r"[\x21-\x7e]{1,128}", name) or not re.fullmatch(r"[\x20-\x7e]{0,1000}", member):
                raise ValueError("holds characters that no query has")
            # promise: S1 a query parameter that names a secret is refused
            if name.casefold() in SECRETS or _SECRET_NAME.search(name):
                raise ValueError(f"{name!r} is a secret and must not be in an address: use `auth` or `headers_env`")
        return value

    @field_validator("api_key_env", "admin_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(_VARIABLE, value):
            raise ValueError("must be the name of a variable, never the key itself")
        return value

    @field_validator("api_key_block")
    @classmethod
    def _block(cls, value: str | None) -> str | None:
        # Prefect's own rule for names of blocks; keys begin with sk- and have capitals
        if value is not None and not re.fullmatch(r"(?!sk-)[a-z][a-z0-9-]{0,127}", value):
            raise ValueError("must be the name of a Secret block (lower case and dashes), never the key itself")
        return value

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must start with https:// (or http:// on this machine)")
        # promise: S1 a base_url that holds a user or password is refused
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a user or password: name a variable in `api_key_env`")
        try:
            # promise: input: a base_url with an invalid host name is refused
            parts.hostname.encode("idna")
        except UnicodeError:
            raise ValueError("has a host name that no host can have") from None
        if parts.query:
            raise ValueError(_without_query(parts.hostname, parts.query))
        if parts.fragment or re.search(r"[?\s\x00-\x1f]", value):
            raise ValueError("must be an address without a query, fragment or blanks")
        value = value.rstrip("/")
        # promise: input: a base_url that includes the operation path is refused
        if operation := _OPERATION.search(value):
            raise ValueError(
                f"must end before {operation.group()}, which is added to it: write "
                f"`base_url: {value[: operation.start()]}`"
            )
        return value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        parts = urlsplit(self.base_url)
        # promise: S1 plain HTTP to another host is refused unless the job allows it
        if parts.scheme == "http" and parts.hostname not in LOOPBACK and not self.allow_http:
            raise ValueError(
                f"base_url is plain http to {parts.hostname}: others could read the prompts and the key; "
                "use https, or set `allow_http: true`"
            )
        if self.api_key_env and self.api_key_block:
            raise ValueError("set api_key_env or api_key_block, not both")
        if self.auth == "azure" and (self.api_key_env or self.api_key_block):
            raise ValueError("`auth: azure` signs in by itself: leave out api_key_env and api_key_block")
        if self.azure_scope is not None and self.auth != "azure":
            raise ValueError("`azure_scope` needs `auth: azure`")
        own = "api-key" if self.auth == "api-key" else "authorization"
        if (self.auth == "azure" or self.api_key_env or self.api_key_block) and own in {
            name.casefold() for name in self.headers_env
        }:
            raise ValueError(f"`headers_env` has {own!r}, which is the header of the key; set one of the two")
        return self

    @property
    def identity(self) -> str:
        """What identifies the service in request keys: its name, or its address."""
        # promise: keys: the query of the endpoint is part of a request key
        return identity_of(self.name, self.base_url, self.query)

    @property
    def label(self) -> str:
        """What people call the service: its name, or its host."""
        return self.name or urlsplit(self.base_url).netloc

    def url(self, path: str) -> str:
        """The address of one path of the service, with its query."""
        return f"{self.base_url}{path}{'?' if self.query else ''}{urlencode(self.query)}"


def identity_of(name: str | None, base_url: str | None, query: Mapping[str, str]) -> str:
    """Return the name, or else the address with its query except `api-version`, which does not change who answers."""
    chosen = {member: value for member, value in sorted(query.items()) if member.casefold() != "api-version"}
    return name or f"{base_url or ''}{'?' if chosen else ''}{urlencode(chosen)}"


def _without_query(host: str, query: str) -> str:
    names = [name for name, _ in parse_qsl(query, keep_blank_values=True)] or ["..."]
    advice = ", ".join(f"{name}: ..." for name in names[:5] if re.fullmatch(r"[\w.-]{1,40}", name)) or "..."
    message = f"must be an address without a query: put it into `endpoint.query: {{{advice}}}`"
    if host.endswith(".azure.com"):
        message += f". Azure also takes https://{host}/openai/v1 without one, with the deployment's name as `model`"
    return message
