"""The calls for files and batches, as OpenAI and Azure answer them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from .answers import BadRequestError
from .batch_files import check_expiry, page_of
from .batch_input import APIS, with_version
from .exchange import Manner, Reply, Request
from .forms import read_query, unknown_parameter

if TYPE_CHECKING:
    from .batches import Batch
    from .fake_openai import Service

_CREATE_KEYS = {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
_REQUIRED = ("input_file_id", "endpoint", "completion_window")
_MAX_METADATA, _MAX_KEY, _MAX_VALUE = 16, 64, 512
_CANCELLABLE = {"validating", "in_progress", "finalizing"}


def _json(document: dict[str, Any]) -> Reply:
    return Reply(200, orjson.dumps(document))


def upload(service: Service, request: Request, _identity: str, _query: bytes) -> Reply:
    """POST /files."""
    return _json(service.files.upload(request, service.clock.now, service.options.batch).document())


def list_files(service: Service, _request: Request, _identity: str, query: bytes) -> Reply:
    """GET /files."""
    return _json(service.files.page(query, service.clock.now))


def get_file(service: Service, _request: Request, identity: str, _query: bytes) -> Reply:
    """GET /files/ID."""
    return _json(service.files.find(identity, service.clock.now).document())


def get_content(service: Service, _request: Request, identity: str, _query: bytes) -> Reply:
    """GET /files/ID/content, sent in pieces of unknown total length."""
    content = service.files.content(identity, service.clock.now)
    return Reply(200, content, content_type=b"application/octet-stream", manner=Manner.STREAM)


def delete_file(service: Service, _request: Request, identity: str, _query: bytes) -> Reply:
    """DELETE /files/ID."""
    return _json(service.files.delete(identity, service.clock.now))


def create_batch(service: Service, request: Request, _identity: str, _query: bytes) -> Reply:
    """POST /batches; it reads the input file only to keep it."""
    try:
        asked = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        raise BadRequestError("We could not parse the JSON body of your request.") from None
    if not isinstance(asked, dict):
        raise BadRequestError("The body must be a JSON object.")
    _check_create(asked, service)
    stored = service.files.find(asked["input_file_id"], service.clock.now)
    if stored.purpose != "batch":
        message = f"Invalid 'input_file_id': the purpose of {stored.id} is '{stored.purpose}' and not 'batch'."
        raise BadRequestError(message, param="input_file_id", code="invalid_value")
    batch = service.batches.create(asked, stored.content, service.key_id(request))
    return _json(service.batches.document(batch))


def list_batches(service: Service, _request: Request, _identity: str, query: bytes) -> Reply:
    """GET /batches, newest first; metadata is no filter."""
    asked = read_query(query, {"after", "limit"})
    shown = [service.batches.document(each) for each in service.batches.newest_first()]
    return _json(page_of(shown, asked, 20, 100))


def get_batch(service: Service, _request: Request, identity: str, _query: bytes) -> Reply:
    """GET /batches/ID."""
    return _json(service.batches.document(_find(service, identity)))


def cancel_batch(service: Service, _request: Request, identity: str, _query: bytes) -> Reply:
    """POST /batches/ID/cancel."""
    batch = _find(service, identity)
    if batch.status not in _CANCELLABLE:
        raise BadRequestError(f"Cannot cancel a batch with status '{batch.status}'.", status=409)
    service.batches.cancel(batch)
    return _json(service.batches.document(batch))


def _find(service: Service, identity: str) -> Batch:
    batch = service.batches.find(identity)
    if batch is None:
        raise BadRequestError(f"No batch found with id '{identity}'.", param="id", status=404)
    return batch


def _check_create(asked: dict[str, Any], service: Service) -> None:
    """Check what create itself refuses."""
    for name in _REQUIRED:
        if name not in asked:
            message = f"Missing required parameter: '{name}'."
            raise BadRequestError(message, param=name, code="missing_required_parameter")
    unknown = set(asked) - _CREATE_KEYS
    if unknown:
        raise unknown_parameter(min(unknown))
    for name in _REQUIRED:
        if not isinstance(asked[name], str):
            raise BadRequestError(f"Invalid '{name}': a text is wanted.", param=name, code="invalid_type")
    if with_version(asked["endpoint"], service.options) not in APIS:
        message = f"Invalid 'endpoint': '{asked['endpoint']}'. Supported values are {sorted(APIS)}."
        raise BadRequestError(message, param="endpoint", code="invalid_value")
    if asked["completion_window"] != "24h":
        message = f"Invalid 'completion_window': '{asked['completion_window']}'. Supported values are: '24h'."
        raise BadRequestError(message, param="completion_window", code="invalid_value")
    _check_metadata(asked.get("metadata"))
    expiry = asked.get("output_expires_after")
    if expiry is not None:
        if not isinstance(expiry, dict) or set(expiry) != {"anchor", "seconds"}:
            message = "Invalid 'output_expires_after': anchor and seconds are wanted."
            raise BadRequestError(message, param="output_expires_after")
        check_expiry("output_expires_after", expiry["anchor"], expiry["seconds"], service.options.batch)


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise BadRequestError("Invalid 'metadata': an object is wanted.", param="metadata", code="invalid_type")
    if len(metadata) > _MAX_METADATA:
        message = f"Invalid 'metadata': too many properties. At most {_MAX_METADATA} are wanted, not {len(metadata)}."
        raise BadRequestError(message, param="metadata", code="object_above_max_properties")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise BadRequestError(f"Invalid 'metadata.{key}': a text is wanted.", param="metadata", code="invalid_type")
        if len(key) > _MAX_KEY or len(value) > _MAX_VALUE:
            message = f"Invalid 'metadata': a key has at most {_MAX_KEY} characters and a value {_MAX_VALUE}."
            raise BadRequestError(message, param=f"metadata.{key}", code="string_above_max_length")
