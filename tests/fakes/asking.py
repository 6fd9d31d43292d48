"""Short ways to send a request to a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

    from .running import FakeService


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **more}


def ask(client: httpx.Client, service: FakeService, text: str, **more: Any) -> httpx.Response:
    return client.post(f"{service.url}/chat/completions", json=chat(text, **more))


def completion_tokens(reply: httpx.Response) -> int:
    return int(reply.json()["usage"]["completion_tokens"])
