"""Parquill removes what surrounds the JSON of an answer and never takes a part of a larger value for the answer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from parquill.tasks.llm.answer_format import AnswerFormat
from parquill.tasks.llm.wrapping import MAX_LEVELS, NotJson, find_object
from tests.tools.timing import within

SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "score": {"type": "number"}},
    "required": ["label", "score"],
    "additionalProperties": False,
}
ANSWER = '{"label":"pos","score":0.9}'
OTHER = '{"label":"neg","score":0.1}'
FOUND = {"label": "pos", "score": 0.9}
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def answers() -> AnswerFormat:
    return AnswerFormat(SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        f"\ufeff{ANSWER}",
        f"\u200b {ANSWER}\n\ufeff",
        f"```json\n{ANSWER}\n```",
        f"```\n{ANSWER}\n```",
        f"```JSON5\r\n{ANSWER}\r\n```\r\n",
        f"```json-schema\n{ANSWER}\n```",
        f"~~~json\n{ANSWER}\n~~~",
        f"````json\n{ANSWER}\n````",
        f"```json\n\ufeff{ANSWER}\n```",
        f"```json {ANSWER}```",
        f"```json{ANSWER}```",
        f"```{ANSWER}```",
        f"```json\n{ANSWER}```",
        f"```json\n{ANSWER}",
        f"~~~\n{ANSWER}\n",
        f"Here is the JSON: ```json\n{ANSWER}\n```",
        f"Sure! Here it is:\n\n```json\n{ANSWER}\n```\n\nHope this helps!",
        f"```json {ANSWER}``` Hope this helps!",
        f"  ```json\n  {ANSWER}\n  ```",
        f"{ANSWER}\nHope this helps!",
        f"Sure! {ANSWER}",
        f'"{ANSWER}"',
        f"The answer is:\n{ANSWER}\nHope this helps [1], {{name}}!",
        f"See [1] and [the guide](https://example.com): {ANSWER}",
        f"For {{curly}} words:\n```json\n{ANSWER}\n```",
        f"A smile :] and then\n```\n{ANSWER}\n```",
        f"<think>It is positive.</think>{ANSWER}",
        f"<think>\n\n</think>\n\n{ANSWER}",
        f"<THINK>x</THINK>\n```json\n{ANSWER}\n```",
        f"<thinking>x</thinking> {ANSWER} Done.",
        f"<seed:think>x</seed:think>{ANSWER}",
        f"[THINK]x[/THINK]{ANSWER}",
        f"It is positive, or is it {{not}}?</think>\n{ANSWER}",
        f"<think>maybe {OTHER}</think>{ANSWER}",
        f"maybe {OTHER}</think>{ANSWER}",
        f"<think>a</think><think>b</think>{ANSWER}",
        f"{ANSWER}\n\n{ANSWER}",
        f'```json\n{ANSWER}\n```\nAgain: {{"score": 0.9, "label": "pos"}}',
        f'Input: {{"text": "fine"}}\n```json\n{ANSWER}\n```',
    ],
    ids=lambda text: ascii(text)[:60],
)
def test_what_is_around_an_answer_is_taken_off(answers: AnswerFormat, text: str) -> None:
    """Parquill removes fences, thoughts, marks and sentences around the one JSON object."""
    assert answers.parse(text) == FOUND


@pytest.mark.parametrize(
    "text",
    [
        f"{ANSWER} or {OTHER}",
        f"{ANSWER}{OTHER}",
        f"```json\n{ANSWER}\n```\n```json\n{OTHER}\n```",
        f"```json\n{ANSWER}\n```\nFinal answer: {OTHER}",
        f"[{ANSWER}]",
        f"[{ANSWER}, {OTHER}]",
        f"```json\n[{ANSWER}]\n```",
        f'{{"answer": {ANSWER}}}',
        f'{{"answer": {ANSWER}',
        f'Sure: {{"answer": {ANSWER}, "more": ',
        f"Sure: [{ANSWER}, ",
        f"{{broken {ANSWER}}}",
        f'{ANSWER} or {{"label":"neg"',
        f"{ANSWER} or [",
        f"[see {ANSWER}]",
        f'{{"text": "Example:\n```json\n{ANSWER}\n```"\n}}',
        f'{{\n"text":\n```json\n{ANSWER}\n```',
        f"{ANSWER}}}",
        f'"answer": {ANSWER}}}',
        f"{ANSWER}]",
        f"{ANSWER[:-1]}",
        f"```json\n{ANSWER[:-1]}\n```",
        f"<think>{ANSWER}",
        f"<think>{ANSWER}</think>",
        f"{ANSWER}</think>",
        f"<think>a</think> and <think>{ANSWER}",
        f"```json\n{ANSWER[:-1]}, 5\n```",
        f"{ANSWER} and [{OTHER}]",
        "```json\n```",
        "```",
        "<think></think>",
        "\ufeff",
        "{'label': 'pos', 'score': 0.9}",
        f"{ANSWER[:-1]},}}",
    ],
    ids=lambda text: ascii(text)[:60],
)
def test_a_part_of_something_larger_is_not_taken(answers: AnswerFormat, text: str) -> None:
    """Several different objects, an object inside another, a torn object and mere thoughts are not an answer."""
    assert answers.parse(text) is None


def test_fences_and_tags_inside_a_string_are_text(answers: AnswerFormat) -> None:
    """A string in an answer may hold any text that could wrap an answer."""
    for label in ("```json\\n{}\\n```", "</think>", "<think>", "{", '\\"}', "~~~", "] ["):
        inner = f'{{"label":"{label}","score":1}}'
        assert answers.parse(inner) is not None
    for label in ("```py\\nx\\n```", "{", "\\\\", '\\"}', "}} [[", "~~~"):
        inner = f'{{"label":"{label}","score":1}}'
        found = answers.parse(inner)
        assert found is not None
        for text in (
            f"```json\n{inner}\n```",
            f"~~~\n{inner}\n~~~",
            f"Sure:\n{inner}\nDone.",
            f"<think>x</think>{inner}",
        ):
            assert answers.parse(text) == found, text


def test_the_schema_may_be_absent() -> None:
    """In JSON mode any object is an answer, and nothing else is."""
    answers = AnswerFormat({"type": "json_object"})
    assert answers.parse('```json\n{"b": 1, "a": [0.10]}\n```') == '{"b":1,"a":[0.10]}'
    assert [answers.parse(text) for text in ("[]", "5", "null", '"{}"', "", "{} or {}x{")] == [None] * 6


HOSTILE: dict[str, Any] = {
    "braces": "{" * MEGABYTE,
    "pairs": "{}" * (MEGABYTE // 2),
    "lists": "[1]" * (MEGABYTE // 3),
    "backticks": "`" * MEGABYTE,
    "fences": "```\n" * (MEGABYTE // 4),
    "fences on one line": "``` " * (MEGABYTE // 4),
    "blocks": "```json\n{\n```\n" * (MEGABYTE // 14),
    "tildes": "~~~ ```" * (MEGABYTE // 7),
    "quotes": '{"' + '"' * MEGABYTE,
    "escapes": '{"' + '\\"' * (MEGABYTE // 2),
    "backslashes": "\\" * MEGABYTE,
    "thoughts": "<think>" * (MEGABYTE // 7),
    "ends of thoughts": "</think>" * (MEGABYTE // 8),
    "digits": "1" * MEGABYTE,
    "fraction": "0." + "1" * MEGABYTE,
    "blanks": "```json" + " " * MEGABYTE,
    "objects": f"{ANSWER} " * (MEGABYTE // 28),
    "marks": "\ufeff" * MEGABYTE,
}


@pytest.mark.timed
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_megabyte_costs_little(answers: AnswerFormat, name: str) -> None:
    """Parquill scans any answer only a few times."""
    with within(5, time.process_time):
        answers.parse(HOSTILE[name])


def test_deep_brackets_are_given_up() -> None:
    """`find_object` follows brackets to a depth that no real answer has, and no further."""

    def read(text: str) -> Any:
        if text[0] == "x":
            raise NotJson
        return {}

    assert find_object("x" + "{" * MAX_LEVELS + "}" * MAX_LEVELS, read, lambda _: True) == {}
    with pytest.raises(NotJson):
        find_object("x" + "{" * (MAX_LEVELS + 1) + "}" * (MAX_LEVELS + 1), read, lambda _: True)
