"""Short ways to work with batches of a fake service in simulated time."""

from __future__ import annotations

from typing import Any

import httpx
import orjson

from .asking import chat
from .in_process import InProcess

START = 1_790_000_000.0
CHAT = "/v1/chat/completions"


def line(number: int, text: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a line of an input file, for the row `r{number}`."""
    body = chat(text or f"row {number}", max_tokens=20)
    return {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": body} | more


def as_lines(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(each) + b"\n" for each in lines)


class Batching:
    """A service in this process, and a client of it with short ways."""

    def __init__(self, **options: Any) -> None:
        self.service = InProcess(clock_start=START, **options)
        self.client = httpx.Client(transport=self.service, base_url=self.service.url)

    def upload(self, content: bytes, **form: Any) -> httpx.Response:
        fields = {"purpose": "batch"} | form
        return self.client.post("/files", files={"file": ("input.jsonl", content)}, data=fields)

    def create(self, file_id: str, **more: Any) -> httpx.Response:
        asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | more
        return self.client.post("/batches", json=asked)

    def batch(self, content: bytes, **more: Any) -> str:
        """Upload a file, create its batch, and return the id."""
        created = self.create(self.upload(content).json()["id"], **more)
        assert created.status_code == 200, created.text
        return str(created.json()["id"])

    def rows(self, count: int, **more: Any) -> str:
        """Create a batch of this many rows and return its id."""
        return self.batch(as_lines([line(number) for number in range(count)]), **more)

    def get(self, batch_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/batches/{batch_id}").json()
        return found

    def ended(self, batch_id: str) -> dict[str, Any]:
        """Let a day pass and return the batch."""
        self.service.advance(86_400)
        return self.get(batch_id)

    def content(self, file_id: str) -> bytes:
        reply = self.client.get(f"/files/{file_id}/content")
        assert reply.status_code == 200, reply.text
        return reply.content

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        """Return the lines of a result file; none if there is no file."""
        return [] if not file_id else [orjson.loads(each) for each in self.content(file_id).splitlines()]
