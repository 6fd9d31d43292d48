"""Requests and answers of whole runs: APIs, templates, messages, parameters and response formats."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest

from tests.fakes.answers import echo
from tests.tools.expected import PRICES, billed_usd, check_books, request_key, row_usd
from tests.tools.jobs import Jobs

PRODUCT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "price": {"type": ["number", "null"]},
        "sold": {"type": "boolean"},
        "mood": {"enum": ["good", "bad"]},
        "parts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "sizes": {"type": "array", "items": {"type": "integer"}}},
                "required": ["name", "sizes"],
                "additionalProperties": False,
            },
        },
        "maker": {"$ref": "#/$defs/maker"},
    },
    "required": ["title", "stars", "price", "sold", "mood", "parts", "maker"],
    "additionalProperties": False,
    "$defs": {"maker": {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]}},
}
PRODUCT_TYPE = pa.struct(
    [
        ("title", pa.string()),
        ("stars", pa.int64()),
        ("price", pa.float64()),
        ("sold", pa.bool_()),
        ("mood", pa.string()),
        ("parts", pa.list_(pa.struct([("name", pa.string()), ("sizes", pa.list_(pa.int64()))]))),
        ("maker", pa.struct([("country", pa.string())])),
    ]
)


def _bodies(jobs: Jobs) -> list[dict[str, Any]]:
    return [orjson.loads(entry["body"]) for entry in jobs.service.log()]


@pytest.mark.parametrize(
    ("api", "model", "limit", "path"),
    [
        ("chat", "gpt-4o-mini", "max_tokens", "/v1/chat/completions"),
        ("chat", "o4-mini", "max_completion_tokens", "/v1/chat/completions"),
        ("responses", "gpt-4o-mini", "max_output_tokens", "/v1/responses"),
        ("responses", "o4-mini", "max_output_tokens", "/v1/responses"),
        ("completions", "gpt-3.5-turbo-instruct", "max_tokens", "/v1/completions"),
    ],
)
def test_each_api_in_its_own_words(jobs: Jobs, api: str, model: str, limit: str, path: str) -> None:
    """Each API gets prompt and output limit under its own names, and its usage is stored under Parquill's names."""
    jobs.service.configure(log=10, log_bodies=True, output_tokens="fixed:9", reasoning_tokens=4, cached_ratio=0.5)
    parameters = {"temperature": 1, "seed": 7}
    texts = ["first prompt", "second prompt"]
    settings = jobs.job(texts, model=model, endpoint={"api": api}, parameters=parameters)
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert {entry["target"] for entry in jobs.service.log()} == {path}
    field = {"chat": "messages", "responses": "input", "completions": "prompt"}[api]
    for body in _bodies(jobs):
        assert body[limit] == 50
        assert body["model"] == model
        assert {name: body[name] for name in parameters} == parameters
        extra = {"store"} if api == "responses" else set()
        assert set(body) == {"model", limit, field, *parameters, *extra}
    messages = [[{"role": "user", "content": text}] for text in texts]
    sent = texts if api == "completions" else messages
    assert sorted(map(str, (body[field] for body in _bodies(jobs)))) == sorted(map(str, sent))
    for row, message in zip(done.rows, messages, strict=True):
        assert row["completion"] == echo([row["text"]])
        assert row["request_key"] == request_key(settings, message)
        assert (row["completion_tokens"], row["reasoning_tokens"]) == (13, 4)
        assert row["cached_tokens"] == row["prompt_tokens"] // 2
        tokens = (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])
        assert row["cost_usd"] == row_usd(tokens, PRICES[model])
    check_books(done)


@pytest.mark.parametrize("api", ["chat", "responses", "completions"])
def test_each_api_says_when_an_answer_is_not_whole(jobs: Jobs, api: str) -> None:
    """Under each API, cut, filtered, refused and empty answers get their status and are billed."""
    faults = [
        {"kind": "length", "match": "cut"},
        {"kind": "content_filter", "match": "filter"},
        {"kind": "refusal", "match": "refuse"},
        {"kind": "null_content", "match": "nothing"},
    ]
    jobs.service.configure(faults=faults)
    model = "gpt-3.5-turbo-instruct" if api == "completions" else "gpt-4o-mini"
    settings = jobs.job(["fine", "cut", "filter", "refuse", "nothing"], model=model, endpoint={"api": api})
    done = jobs.run(settings)
    assert done.exit_code == 5
    refusal = "content_filter" if api == "completions" else "refusal"
    codes = [None, "max_output_tokens", "content_filter", refusal, "no_answer"]
    assert done.column("status") == ["ok", "truncated", "refused", "refused", "failed"]
    assert done.column("error_code") == codes
    assert done.column("attempts") == [1] * 5
    assert [text is None for text in done.column("completion")] == [False, False, False, False, True]
    assert Decimal(done.summary["cost_usd"]) == billed_usd(jobs.service, model)
    check_books(done)


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_response_format_fills_parsed(jobs: Jobs, api: str) -> None:
    """With a JSON schema, `parsed` holds each valid answer as a struct of the schema's types, nested types included."""
    jobs.service.configure(log=10, log_bodies=True, output_tokens="fixed:40")
    (jobs.folder / "schema.json").write_bytes(orjson.dumps(PRODUCT))
    settings = jobs.job(["a", "b", "c"], response_format=str(jobs.folder / "schema.json"), endpoint={"api": api})
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.table.schema.field("parsed").type == PRODUCT_TYPE
    names = done.table.column_names
    assert names.index("parsed") == names.index("completion") + 1
    assert done.column("parsed") == [orjson.loads(text) for text in done.column("completion")]
    assert done.column("parsed")[1]["title"] == echo(["b"])
    for body in _bodies(jobs):
        sent_format = body["text"]["format"] if api == "responses" else body["response_format"]["json_schema"]
        assert (sent_format["schema"], sent_format["strict"]) == (PRODUCT, True)
    key = request_key({**settings, "response_format": PRODUCT}, [{"role": "user", "content": "a"}])
    assert done.column("request_key")[0] == key
    inline = jobs.run({**settings, "response_format": PRODUCT})
    assert jobs.service.stats()["requests"] == 3, "the same schema, inline or in a file, is the same request"
    assert inline.exit_code == 0


def test_an_answer_that_does_not_match_is_invalid(jobs: Jobs) -> None:
    """An answer that breaks the schema is `invalid` and paid; its text is kept, and it is not requested again."""
    schema = {"type": "object", "properties": {"code": {"type": "string", "pattern": "^[A-Z]{3}$"}}}
    jobs.service.configure(faults=[{"kind": "length", "match": "cut"}])
    settings = jobs.job(["wrong", "cut"], response_format=schema)
    done = jobs.run(settings)
    assert done.exit_code == 5
    assert done.column("status") == ["invalid", "truncated"]
    assert done.column("error_code") == ["schema_mismatch", "max_output_tokens"]
    assert done.column("parsed") == [None, None]
    assert orjson.loads(done.column("completion")[0]) == {"code": echo(["wrong"])}
    assert done.column("attempts") == [1, 1]
    assert Decimal(done.summary["cost_usd"]) == billed_usd(jobs.service)
    check_books(done)
    again = jobs.run(settings)
    assert jobs.service.stats()["requests"] == 2
    assert again.rows == done.rows


def test_messages_column_as_structs_and_as_json(jobs: Jobs) -> None:
    """A column of messages, as structs or JSON text, is sent unchanged; its request key is that of the messages."""
    chats = [
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello {{ name }}"}],
        [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}, {"role": "user", "content": "3"}],
    ]
    jobs.service.configure(log=10, log_bodies=True)
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())]))
    structs = pa.table({"chat": pa.array(chats, kind)})
    texts = pa.table({"chat": [orjson.dumps(chat).decode() for chat in chats]})
    settings = jobs.job(structs, prompt=None, messages_column="chat")
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert sorted(map(str, (body["messages"] for body in _bodies(jobs)))) == sorted(map(str, chats))
    contents = [[message["content"] for message in chat] for chat in chats]
    assert done.column("completion") == [echo(content) for content in contents]
    assert done.column("request_key") == [request_key(settings, chat) for chat in chats]
    as_json = jobs.run(jobs.job(texts, prompt=None, messages_column="chat"))
    assert jobs.service.stats()["requests"] == 2, "the same messages are the same requests"
    assert as_json.column("completion") == done.column("completion")


def test_bad_messages_are_rejected(jobs: Jobs) -> None:
    """A cell that does not hold valid chat messages makes its row `rejected`; the other rows are sent."""
    good = orjson.dumps([{"role": "user", "content": "fine"}]).decode()
    bad = ["{", "[]", '[{"role": "robot", "content": "x"}]', '[{"role": "user", "content": " "}]', None, '"text"']
    table = pa.table({"chat": [good, *bad, good.replace("fine", "also")]})
    settings = jobs.job(table, prompt=None, messages_column="chat", tolerate={"rejected": 1, "not_ok": 1})
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok", *["rejected"] * 6, "ok"]
    codes = ["bad_messages", "bad_messages", "bad_messages", "blank_prompt", "null_value", "bad_messages"]
    assert done.column("error_code")[1:7] == codes
    assert jobs.service.stats()["requests"] == 2
    check_books(done)


def test_vars_from_files_and_for_each(jobs: Jobs) -> None:
    """`vars` can be a file or name files, and a template looks values up by the `for_each` value.
    An unquoted `no` is a language.
    """
    (jobs.folder / "glossary.yaml").write_text("no: hei\nfr: salut\n", encoding="utf-8")
    (jobs.folder / "vars.yaml").write_text(f"glossary: {jobs.folder / 'glossary.yaml'}\ntone: warm\n", encoding="utf-8")
    prompt = {"system": "{{ language }} {{ vars.tone }}: {{ vars.glossary[language] }}", "user": "{{ text }}"}
    each = {"language": ["no", "fr"]}
    settings = jobs.job(["a"], prompt=prompt, for_each=each, vars=str(jobs.folder / "vars.yaml"))
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.column("language") == ["no", "fr"]
    assert done.column("completion") == [echo(["no warm: hei", "a"], "a"), echo(["fr warm: salut", "a"], "a")]
    (jobs.folder / "glossary.yaml").write_text("no: hallo\nfr: salut\n", encoding="utf-8")
    changed = jobs.run(settings)
    assert jobs.service.stats()["requests"] == 3, "only the row whose text has changed is paid again"
    assert changed.column("completion")[0] == echo(["no warm: hallo", "a"], "a")


def test_parameters_of_a_row(jobs: Jobs) -> None:
    """`parameters_column` overrides parameters row by row, changes the request key, and cannot raise the cost."""
    cells = [
        '{"temperature": 0.9}',
        None,
        '{"temperature": 0.9}',
        '{"n": 3}',
        '{"max_tokens": 9999}',
        '{"top_p": 7}',
        "[",
    ]
    table = pa.table({"text": [*"abcdefg"], "p": cells})
    jobs.service.configure(log=10, log_bodies=True)
    parameters = {"temperature": 0.1, "seed": 1}
    tolerate = {"rejected": 1, "not_ok": 1}
    settings = jobs.job(table, parameters=parameters, parameters_column="p", tolerate=tolerate)
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok", "ok", "ok", *["rejected"] * 4]
    assert done.column("error_code")[3:] == ["bad_parameters"] * 4
    sent = {body["messages"][0]["content"]: (body["temperature"], body["seed"]) for body in _bodies(jobs)}
    assert sent == {"a": (0.9, 1), "b": (0.1, 1), "c": (0.9, 1)}
    key = request_key({**settings, "parameters": {"temperature": 0.9, "seed": 1}}, [{"role": "user", "content": "a"}])
    assert done.column("request_key")[0] == key
    struct = pa.table({"text": ["a"], "p": pa.array([{"temperature": 0.9, "seed": None}])})
    again = jobs.run(jobs.job(struct, parameters=parameters, parameters_column="p"))
    assert (again.exit_code, jobs.service.stats()["requests"]) == (0, 3)


def test_null_and_blank_prompts_are_rejected(jobs: Jobs) -> None:
    """A null that the template does not handle, or a blank prompt, makes its row `rejected`, in its position."""
    settings = jobs.job(["a", None, "  \n", "d"], tolerate={"rejected": 0.5, "not_ok": 0.5})
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok", "rejected", "rejected", "ok"]
    assert done.column("error_code") == [None, "null_value", "blank_prompt", None]
    for name in ("completion", "prompt_tokens", "run_id", "latency_s", "finished_at", "request_id"):
        assert done.column(name)[1:3] == [None, None], name
    assert done.column("attempts") == [1, 0, 0, 1]
    assert done.column("cost_usd")[1:3] == [0, 0]
    check_books(done)
    handled = jobs.run(jobs.job(["a", None], prompt={"user": "x{{ text | default('-', true) }}"}))
    assert handled.column("completion") == [echo(["xa"]), echo(["x-"])]


def test_ids_tell_rows_apart(jobs: Jobs) -> None:
    """With `id_column`, a null or repeated id makes its row `rejected`; the first row of equal ids is sent."""
    table = pa.table({"text": [*"abcd"], "id": ["1", "2", "1", None]})
    done = jobs.run(jobs.job(table, id_column="id", tolerate={"rejected": 1, "not_ok": 1}))
    assert done.column("status") == ["ok", "ok", "rejected", "rejected"]
    assert done.column("error_code")[2:] == ["bad_id", "bad_id"]
    assert jobs.service.stats()["requests"] == 2
