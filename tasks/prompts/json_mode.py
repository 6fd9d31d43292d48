"""OpenAI's condition for JSON mode: it refuses a request without the word JSON in its messages."""

from __future__ import annotations

from typing import Any

from parquill.tasks.errors import RowFault
from parquill.tasks.job.providers import is_azure, is_openai
from parquill.tasks.job.resolved import ResolvedJob


def must_say_json(job: ResolvedJob) -> bool:
    """Whether the service, or one of several, refuses each request of a job without the word JSON."""
    asked, urls = job.answer_format, [each.endpoint.base_url for each in job.each_endpoint]
    return asked is not None and asked.schema is None and any(is_openai(url) or is_azure(url) for url in urls)


def check_says_json(messages: list[dict[str, Any]]) -> None:
    """Raise RowFault for messages without the word."""
    if not any("json" in text.casefold() for message in messages for text in _texts(message)):
        raise RowFault(
            "bad_messages",
            "OpenAI accepts `response_format: {type: json_object}` only if the messages contain the word JSON: say in "
            "the prompt that the answer must be JSON",
        )


def _texts(message: dict[str, Any]) -> list[str]:
    content = message.get("content", message.get("output"))
    if isinstance(content, list):
        return [part["text"] for part in content if isinstance(part.get("text"), str)]
    return [content] if isinstance(content, str) else []
