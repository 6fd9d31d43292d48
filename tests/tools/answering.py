"""A service in this process that answers each prompt at once and counts what it bills."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable

import httpx
import orjson

NO_DELAY: Callable[[str], float] = lambda _: 0.0  # noqa: E731 - a named default


class Answering(httpx.AsyncBaseTransport):
    """Bills a request when it comes, and answers after `delay_s` of the prompt.

    The answer to a prompt is `answer to PROMPT`. If the prompt holds the word `long`, the answer is cut off, which
    makes its row `truncated`.
    """

    def __init__(self, delay_s: Callable[[str], float] = NO_DELAY) -> None:
        self.billed: Counter[str] = Counter()
        self.lock = threading.Lock()
        self._delay_s = delay_s

    def open(self) -> Answering:
        """Return itself, for a caller that opens a transport."""
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        prompt = orjson.loads(await request.aread())["messages"][-1]["content"]
        with self.lock:
            self.billed[prompt] += 1
        await asyncio.sleep(self._delay_s(prompt))
        return httpx.Response(200, content=self.answer(prompt), request=request)

    @staticmethod
    def answer(prompt: str) -> bytes:
        """Return the reply's body; ids and usage are the same for all prompts of one length."""
        return orjson.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "gpt-4o-mini-2024-07-18",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "length" if "long" in prompt else "stop",
                        "message": {"role": "assistant", "content": f"answer to {prompt}"},
                    }
                ],
                "usage": {
                    "prompt_tokens": 8 + len(prompt) // 4,
                    "completion_tokens": 5,
                    "total_tokens": 13 + len(prompt) // 4,
                },
            }
        )
