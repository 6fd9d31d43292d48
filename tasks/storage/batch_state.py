"""A batch of a shard, as its journal records it.

| step | says |
|---|---|
| `intent` | a batch is about to be made; the same group has a `submitted` record for each of its rows |
| `uploaded` | the service has the file of its requests |
| `creating` | the batch is about to be created: from here on it may exist |
| `created` | the service has the batch, under this id |
| `void` | the service certainly completed none of it: its requests count as never sent |
| `collected` | each of its rows has a record of its reply |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class BatchState:
    """A batch that is not over; times in seconds since 1970.

    `key` is Parquill's own name for it, which its metadata holds. `tokens` are those of its prompts, which count
    against the service's quota. `fingerprint` is the start of the sha256 of its file. `limit` is
    the name under which its requests have max_output_tokens.
    """

    key: str
    rows: int
    tokens: int
    fingerprint: str
    limit: str
    began_at: float
    file_id: str | None = None
    creating_at: float | None = None
    batch_id: str | None = None
    deadline: float | None = None

    @classmethod
    def from_intent(cls, record: Mapping[str, Any]) -> BatchState:
        """Read the first record of a batch."""
        return cls(*(record[name] for name in ("key", "rows", "tokens", "fingerprint", "limit", "at")))

    def apply(self, record: Mapping[str, Any]) -> None:
        """Apply a later record: `uploaded`, `creating` or `created`. Raises KeyError for any other step."""
        step = record["step"]
        if step == "uploaded":
            self.file_id = record["file"]
        elif step == "creating":
            self.creating_at = record["at"]
        elif step == "created":
            self.batch_id, self.deadline = record["batch"], record["deadline"]
        else:
            raise KeyError(step)
