"""Reads keys by the names of their variables or blocks, and checks them before use. Errors show the names alone."""

from __future__ import annotations

import os
import re

from parquill.tasks.errors import BadJob
from parquill.tasks.job.azure_token import read_azure_key
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.key import Key
from parquill.tasks.job.settings import Job

AZURE = "Azure's identity service"  # where the token of `auth: azure` comes from, for people


def read_key(endpoint: Endpoint) -> Key | None:
    """Read the key and the headers that an endpoint names; None if it names none.

    Raises BadJob, which names only the variable or block.
    """
    headers = {name: _read_header(name, variable) for name, variable in endpoint.headers_env.items()}
    if endpoint.auth == "azure":
        return read_azure_key(endpoint, headers)
    value = _read_value(endpoint)
    return Key(value, endpoint.auth, headers) if value is not None or headers else None


def read_keys(job: Job) -> list[Key | None]:
    """Read the key of each endpoint of a job, in their order. Raises BadJob as `read_key`."""
    return [read_key(each.endpoint) for each in job.each_endpoint]


def header_names(endpoint: Endpoint) -> dict[str, str]:
    """Map each header with credentials to what holds its value: a variable, a block, or Azure; nothing is read."""
    named = AZURE if endpoint.auth == "azure" else endpoint.api_key_env or endpoint.api_key_block
    own = {"api-key" if endpoint.auth == "api-key" else "Authorization": named} if named else {}
    return {**endpoint.headers_env, **own}


def _read_header(name: str, variable: str) -> str:
    where = f"the environment variable {variable} (of the header {name})"
    value = os.environ.get(variable)
    if value is None:
        raise BadJob(f"{where} is not set")
    value = value.strip()
    if not value:
        raise BadJob(f"{where} is blank")
    # promise: S2 a malformed header value is refused by the name of its variable
    if value[0] in "\"'" or not re.fullmatch(r"[\x20-\x7e]+", value):
        raise BadJob(f"{where} holds quotes, a line break or characters that no header has; set it again")
    return value


def _read_value(endpoint: Endpoint) -> str | None:
    if endpoint.api_key_env:
        where = f"the environment variable {endpoint.api_key_env}"
        value = os.environ.get(endpoint.api_key_env)
        if value is None:
            raise BadJob(f"{where} is not set: it must hold the key for {endpoint.base_url}")
    elif endpoint.api_key_block:
        where = f"the Prefect Secret block {endpoint.api_key_block}"
        value = _read_block(endpoint.api_key_block, where)
    else:
        return None
    value = value.strip()
    if not value:
        raise BadJob(f"{where} is blank")
    # promise: S2 a malformed API key is refused by the name of its variable
    # promise: S2 validation covers the whole API key, not only its beginning
    if value[0] in "\"'" or not re.fullmatch(r"[\x21-\x7e]+", value):
        raise BadJob(f"{where} holds quotes, blanks or characters that no key has; set it again")
    return value


def _read_block(name: str, where: str) -> str:
    from prefect.blocks.system import Secret

    try:
        return str(Secret.load(name).get())  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001 - whatever Prefect raises may hold the value
        # promise: S2 the error for an unreadable credentials block does not chain the original error
        raise BadJob(f"{where} cannot be read") from None
