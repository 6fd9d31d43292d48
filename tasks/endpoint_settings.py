"""Where requests go, under which protocol, and what the service wants in them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from parquill.tasks.settings import OneLine, Settings

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPENAI_BASE_URL = "https://api.openai.com/v1"


class Endpoint(Settings):
    """Where requests go, and under which protocol."""

    base_url: str = Field(OPENAI_BASE_URL, description="Address that ends before /chat/completions")
    api: Literal["chat", "responses", "completions"] = Field("chat", description="Protocol of the service")
    name: Annotated[str, OneLine] | None = Field(
        None, min_length=1, description="Stands for the address in request keys, so that it may move"
    )
    api_key_env: str | None = Field(
        None, description="NAME of the environment variable that holds the key, or else api_key_block"
    )
    api_key_block: str | None = Field(
        None, description="NAME of the Prefect Secret block that holds the key, or else api_key_env"
    )
    allow_http: bool = Field(False, description="Allow plain http to another host than this one")

    @model_validator(mode="before")
    @classmethod
    def _default_key(cls, data: Any) -> Any:
        # OPENAI_API_KEY is for OpenAI alone: another host is never offered it unless the job says so. The form of
        # Prefect's UI sends null for what nobody has filled in, and OpenAI answers nobody without a key.
        if isinstance(data, dict) and data.get("api_key_env") is None and data.get("api_key_block") is None:
            host = urlsplit(str(data.get("base_url", OPENAI_BASE_URL))).hostname
            if host == urlsplit(OPENAI_BASE_URL).hostname:
                return {**data, "api_key_env": "OPENAI_API_KEY"}
        return data

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", value):
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
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a user or password: name a variable in `api_key_env`")
        try:
            parts.hostname.encode("idna")
        except UnicodeError:
            raise ValueError("has a host name that no host can have") from None
        if parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", value):
            raise ValueError("must be an address without a query, fragment or blanks")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _safe(self) -> Self:
        parts = urlsplit(self.base_url)
        if parts.scheme == "http" and parts.hostname not in LOOPBACK and not self.allow_http:
            raise ValueError(
                f"base_url is plain http to {parts.hostname}: prompts and key would be readable on the way; "
                "use https, or set `allow_http: true`"
            )
        if self.api_key_env and self.api_key_block:
            raise ValueError("set api_key_env or api_key_block, not both")
        return self
