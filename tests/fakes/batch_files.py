"""The files of an account: uploads, and the results of batches."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from .answers import BadRequestError
from .batch_options import MAX_EXPIRY_S, MIN_EXPIRY_S
from .forms import read_form, read_number, read_query, unknown_parameter

if TYPE_CHECKING:
    from .batch_options import BatchOptions
    from .exchange import Request

_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_MAX_PAGE = 10_000


@dataclass(slots=True)
class StoredFile:
    """One file; `available_at` is when its content can be read."""

    id: str
    name: str
    purpose: str
    content: bytes
    created_at: float
    expires_at: float | None
    available_at: float

    def document(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": int(self.created_at),
            "expires_at": None if self.expires_at is None else int(self.expires_at),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Files:
    """All files that have not expired and are not deleted."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._made = 0
        self._files: dict[str, StoredFile] = {}

    def add(
        self, name: str, purpose: str, content: bytes, now: float, expires_in_s: float | None, *, late_s: float = 0.0
    ) -> StoredFile:
        """Store a file."""
        self._made += 1
        identity = "file-" + sha256(f"{self._seed}/file/{self._made}".encode()).hexdigest()[:24]
        expires_at = None if expires_in_s is None else now + expires_in_s
        stored = StoredFile(identity, name, purpose, content, now, expires_at, now + late_s)
        self._files[identity] = stored
        return stored

    def find(self, identity: str, now: float) -> StoredFile:
        """Return a file; a BadRequestError is the 404."""
        found = self._files.get(identity)
        if found is None or (found.expires_at is not None and found.expires_at <= now):
            raise BadRequestError(f"No such File object: {identity}", param="id", status=404)
        return found

    def content(self, identity: str, now: float) -> bytes:
        """Return the content of a file."""
        found = self.find(identity, now)
        if found.available_at > now:
            raise BadRequestError(f"No content yet for File object: {identity}", param="id", status=404)
        return found.content

    def delete(self, identity: str, now: float) -> dict[str, Any]:
        """Delete a file and return the answer."""
        del self._files[self.find(identity, now).id]
        return {"id": identity, "object": "file", "deleted": True}

    def upload(self, request: Request, now: float, options: BatchOptions) -> StoredFile:
        """Check a form and store its file."""
        form = read_form(request)
        unknown = set(form) - {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"}
        if unknown:
            raise unknown_parameter(min(unknown))
        for name in ("file", "purpose"):
            if name not in form:
                message = f"Missing required parameter: '{name}'."
                raise BadRequestError(message, param=name, code="missing_required_parameter")
        file_name, content = form["file"]
        purpose = form["purpose"][1].decode("utf-8", "replace")
        if purpose not in _PURPOSES:
            raise BadRequestError(f"'{purpose}' is not one of {list(_PURPOSES)} - 'purpose'", param="purpose")
        if not file_name:
            raise BadRequestError("The file has no name.", param="file")
        if purpose == "batch":
            _check_batch_file(file_name, content, options)
        if options.most_files is not None and len(self._alive(now)) >= options.most_files:
            message = f"There are {options.most_files} files, which is the limit. Delete some."
            raise BadRequestError(message, code="quota_exceeded")
        return self.add(file_name, purpose, content, now, _expiry_s(form, purpose, options))

    def page(self, query: bytes, now: float) -> dict[str, Any]:
        """Return a page of the list."""
        asked = read_query(query, {"after", "limit", "order", "purpose"})
        order = asked.get("order", ["desc"])[-1]
        if order not in {"asc", "desc"}:
            raise BadRequestError(f"Invalid 'order': '{order}'.", param="order", code="invalid_value")
        files = [each for each in self._alive(now) if each.purpose in asked.get("purpose", [each.purpose])]
        return page_of(
            [each.document() for each in (files if order == "asc" else files[::-1])], asked, _MAX_PAGE, _MAX_PAGE
        )

    def _alive(self, now: float) -> list[StoredFile]:
        return [each for each in self._files.values() if each.expires_at is None or each.expires_at > now]


def page_of(documents: list[dict[str, Any]], query: dict[str, list[str]], default: int, most: int) -> dict[str, Any]:
    """Return the page of a list after the cursor `after`."""
    limit = read_number(query, "limit", default, most)
    after = query.get("after", [None])[-1]
    start = 0
    if after is not None:
        places = [place for place, each in enumerate(documents) if each["id"] == after]
        if not places:
            raise BadRequestError(f"Invalid 'after': no object {after}.", param="after", code="invalid_value")
        start = places[0] + 1
    data = documents[start : start + limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(documents) > start + limit,
    }


def check_expiry(name: str, anchor: Any, seconds: Any, options: BatchOptions) -> int:
    """Return the seconds of `expires_after` or `output_expires_after`."""
    if anchor != "created_at":
        raise BadRequestError(f"Invalid '{name}.anchor': created_at is wanted.", param=f"{name}.anchor")
    least = MIN_EXPIRY_S[options.dialect]
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not least <= seconds <= MAX_EXPIRY_S:
        message = f"Invalid '{name}.seconds': an integer from {least} to {MAX_EXPIRY_S} is wanted, not {seconds!r}."
        raise BadRequestError(message, param=f"{name}.seconds", code="invalid_value")
    return seconds


def _expiry_s(form: dict[str, tuple[str | None, bytes]], purpose: str, options: BatchOptions) -> int | None:
    if not any(name.startswith("expires_after") for name in form):
        return MAX_EXPIRY_S if purpose == "batch" and not options.is_azure else None
    anchor = form.get("expires_after[anchor]", (None, b""))[1].decode("latin-1")
    seconds = form.get("expires_after[seconds]", (None, b""))[1].decode("latin-1")
    return check_expiry("expires_after", anchor, int(seconds) if seconds.isdigit() else seconds, options)


def _check_batch_file(name: str, content: bytes, options: BatchOptions) -> None:
    if not name.endswith(".jsonl"):
        raise BadRequestError("Invalid file format for Batch API. Must be .jsonl", param="file")
    if len(content) > options.max_bytes:
        message = f"The file has {len(content)} bytes; the limit is {options.max_bytes}."
        raise BadRequestError(message, param="file", code="file_too_large", status=413)
