"""What the fake service refuses of uploads, creates and input files, and when."""

from __future__ import annotations

from typing import Any

import pytest

from .batching import Batching, as_lines, line


def without(name: str) -> dict[str, Any]:
    found = line(2)
    del found[name]
    return found


def other_model() -> dict[str, Any]:
    found = line(2)
    found["body"]["model"] = "gpt-4o"
    return found


ONE = as_lines([line(1)])


@pytest.mark.parametrize(
    ("content", "code", "number"),
    [
        (b"", "empty_file", None),
        (ONE + b"{broken\n", "invalid_json_line", 2),
        (ONE + b"\n" + as_lines([line(2)]), "invalid_json_line", 2),
        (ONE + b"[1]\n", "invalid_json_line", 2),
        (b"\xef\xbb\xbf" + ONE, "invalid_json_line", 1),
        (as_lines([line(1), line(1)]), "duplicate_custom_id", 2),
        (as_lines([line(1), line(2, url="/v1/responses")]), "url_mismatch", 2),
        (as_lines([line(1), other_model()]), "model_mismatch", 2),
        (as_lines([line(1, method="GET")]), "invalid_method", 1),
        (as_lines([line(1, custom_id="")]), "invalid_type", 1),
        (as_lines([line(1, custom_id=7)]), "invalid_type", 1),
        (as_lines([line(1, body={"messages": []})]), "missing_required_parameter", 1),
        (as_lines([line(1), without("url")]), "missing_required_parameter", 2),
        (as_lines([line(1, priority=1)]), "unknown_parameter", 1),
        (as_lines([line(number) for number in range(5)]), "too_many_tasks", None),
    ],
)
def test_a_bad_input_file_fails_its_batch_and_not_its_create(content: bytes, code: str, number: int | None) -> None:
    """Create accepts the file; after the check the batch is failed, with the code and the line, and costs nothing."""
    batching = Batching(batch={"max_rows": 4})
    batch_id = batching.batch(content)
    batch = batching.get(batch_id)
    assert (batch["status"], batch["errors"]) == ("validating", None)
    batch = batching.ended(batch_id)
    problem = batch["errors"]["data"][0]
    assert (batch["status"], problem["code"], problem["line"]) == ("failed", code, number)
    assert batching.service.stats()["billed_requests"] == 0


def test_limits_are_those_of_the_dialect() -> None:
    """OpenAI takes 50,000 rows and 200,000,000 bytes, Azure 100,000 rows."""
    openai, azure = Batching().service.service.options, Batching(batch={"dialect": "azure"}).service.service.options
    assert (openai.batch.most_rows, azure.batch.most_rows, openai.batch.max_bytes) == (50_000, 100_000, 200_000_000)
    batching = Batching(batch={"max_rows": 2, "max_bytes": len(ONE)})
    assert batching.upload(ONE).status_code == 200
    assert batching.upload(ONE + b"\n").status_code == 413
    batching.service.configure(batch={"max_bytes": 10_000})
    assert batching.ended(batching.rows(2))["status"] == "completed"


def test_unknown_models_and_bad_bodies() -> None:
    """A model that there is not fails the batch; a body that is not valid fails its row, with the status of a live call."""
    batching = Batching(models=["gpt-4o-mini"])
    batch = batching.ended(batching.batch(as_lines([other_model()])))
    assert batch["errors"]["data"][0]["code"] == "model_not_found"
    bad = line(2, body={"model": "gpt-4o-mini", "messages": "none"})
    batch = batching.ended(batching.batch(as_lines([line(1), bad])))
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (failed,) = batching.lines(batch["error_file_id"])
    assert (failed["custom_id"], failed["response"]["status_code"], failed["error"]) == ("r2", 400, None)
    assert failed["response"]["body"]["error"]["param"] == "messages"
    batch = batching.ended(batching.batch(as_lines([bad])))
    assert (batch["status"], batch["output_file_id"]) == ("completed", None)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"completion_window": "1h"}, "completion_window"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"endpoint": "/chat/completions"}, "endpoint"),
        ({"priority": "high"}, "priority"),
        ({"metadata": {f"k{number}": "v" for number in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata." + "k" * 65),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {"k": 1}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"output_expires_after": {"seconds": 3600}}, "output_expires_after"),
    ],
)
def test_create_refuses_bad_parameters(more: dict[str, Any], param: str) -> None:
    """A create with a bad parameter is a 400 that names it, and makes no batch; the limits themselves are accepted."""
    batching = Batching()
    file_id = batching.upload(ONE).json()["id"]
    refused = batching.create(file_id, **more)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert batching.client.get("/batches").json()["data"] == []
    allowed = {"k" * 64: "v" * 512} | {f"k{number}": "v" for number in range(15)}
    expiry = {"anchor": "created_at", "seconds": 2_592_000}
    assert batching.create(file_id, metadata=allowed, output_expires_after=expiry).status_code == 200


def test_uploads_are_checked() -> None:
    """A form without a purpose, with an unknown field, a wrong name or a wrong expiry is refused; so is another purpose
    at create.
    """
    batching = Batching()
    post = batching.client.post
    file = {"file": ("input.jsonl", ONE)}
    for given in (
        post("/files", files=file),
        post("/files", files=file, data={"purpose": "other"}),
        post("/files", files=file, data={"purpose": "batch", "ttl": "1"}),
        post("/files", files={"file": ("input.json", ONE)}, data={"purpose": "batch"}),
        post("/files", json={"purpose": "batch"}),
        batching.upload(ONE, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "soon"}),
        batching.create(batching.upload(ONE, purpose="user_data").json()["id"]),
    ):
        assert given.status_code == 400, given.text
    assert batching.create("file-none").status_code == 404
    assert batching.client.get("/batches/batch_none").status_code == 404
    assert batching.client.put("/files").json()["error"]["code"] == "unknown_url"
