"""The quota of tokens that may wait in batches: set in the job, or learned from the service's refusals.

Services limit the prompt tokens of all batches that have not ended, by model and account. The limit is known to the
account only, and other programs use it, too. So a batch that is refused for it is halved, until one is accepted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from parquill.tasks.storage.disk import DISK, Disk, read_json

EXCEEDED: Final = "token_limit_exceeded"
# A message of OpenAI: Enqueued token limit reached for MODEL in organization ORG. Limit: 2,000,000 enqueued tokens.
_LIMIT = re.compile(r"limit:? *(?:is|of)? *([\d,]{3,16})", re.IGNORECASE)


class TokenQuota:
    """How many tokens of a run may wait in batches; `path` keeps what was learned for the run's next start."""

    def __init__(self, most: int | None, path: Path, disk: Disk = DISK) -> None:
        """`most` is the job's own `limits.batch_tokens`; None to learn."""
        self._path, self._disk = path, disk
        self._is_set = most is not None
        self._most = most if most is not None else (read_json(path) or {}).get("batch_tokens")
        self._waiting: dict[str, int] = {}  # batch -> tokens

    @property
    def waiting(self) -> int:
        """Tokens of the batches that have not ended."""
        return sum(self._waiting.values())

    def has_room(self, tokens: int, *, is_first: bool) -> bool:
        """Whether a batch of so many tokens may be sent now; one of a single row may if no other waits."""
        if self._most is None or self.waiting + tokens <= self._most:
            return True
        return is_first and not self._waiting

    def open(self, key: str, tokens: int) -> None:
        """Note that a batch waits."""
        self._waiting[key] = tokens

    def close(self, key: str) -> None:
        """Note that a batch has ended."""
        self._waiting.pop(key, None)

    def learn(self, tokens: int, message: str) -> None:
        """Learn from the refusal of a batch of so many tokens, which is closed already. Raises DiskFailed."""
        named = _LIMIT.search(message)
        limit = int(named[1].replace(",", "")) if named is not None else None
        tried = self.waiting + tokens
        # promise: batches: after a refusal for the token limit, smaller batches are sent
        if limit is None or limit >= tried:  # not named, or others use a part of it
            limit = self.waiting or tokens // 2
        if not self._is_set:
            self._most = max(1, limit)
            self._disk.write_own(self._path, {"batch_tokens": self._most})
