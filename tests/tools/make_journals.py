"""Makes the stored journals of the present version: `python -m tests.tools.make_journals`.

The journals of a released version are never changed. After a release, run this only if `VERSION` of
tasks/storage/journal.py has changed. Next to each journal is its content, for a person to read before it is committed.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from parquill.tasks.records import Charge, Outcome, Usage, to_json
from parquill.tasks.storage.journal import VERSION, Journal
from parquill.tasks.storage.replay import ShardState, replay_shard

FOLDER = Path(__file__).parents[1] / "promises" / "journals"
HEADER = {"run_id": "20261123-051448-k3fq", "shard": 7}
RESERVED = 41_250


def _intent(row: int, number: int) -> dict[str, Any]:
    return {"type": "intent", "row": row, "n": number, "reserved": RESERVED}


def _attempt(row: int, number: int, fate: str, code: str) -> dict[str, Any]:
    return {"type": "attempt", "row": row, "n": number, "fate": fate, "code": code}


def _answer(row: int, **more: Any) -> Outcome:
    given: dict[str, Any] = {
        "status": "ok",
        "completion": f"answer {row}",
        "finish_reason": "stop",
        "model_used": "gpt-4o-mini-2024-07-18",
        "request_id": f"req_{row}",
        "usage": Usage(100, 20, 5, 30, 10),
        "cost_nano": 31_500,
        "attempts": 1,
        "latency_s": 0.75,
        "finished_at": 1_795_410_888_123_456,
        "resolves": 1,
        "service_tier": "default",
    }
    return Outcome(row=row, key=f"{row:064x}", **(given | more))


# What can happen to a row, each case in a group of its own.
WHOLE: list[Any] = [
    *(_intent(0, 1), _answer(0)),
    *(_intent(1, 1), _attempt(1, 1, "unpaid", "rate_limited"), _intent(1, 2), _answer(1, attempts=2, resolves=2)),
    *(_intent(2, 1), _attempt(2, 1, "in_doubt", "timeout"), _intent(2, 2)),
    _answer(2, attempts=2, resolves=2, in_doubt_nano=RESERVED),
    *(_intent(3, 1), _answer(3, completion="né à Zürich \N{GRINNING FACE}\n\t\"'\u2028\x7f", parsed={"a": [1, None]})),
    *(
        _intent(4, 1),
        _answer(4, status="truncated", error_code="max_output_tokens", error_message="the answer was cut"),
    ),
    *(_intent(5, 1), _answer(5, usage=None, usage_unknown=True, cost_nano=RESERVED)),
    *(_intent(10, 1), _answer(10, usage=Usage(100, 0, 0, 2_000, 1_900), usage_flag="total", cost_nano=RESERVED + 7)),
    *(_intent(6, 1), _attempt(6, 1, "unpaid", "bad_request")),
    Outcome(row=6, key=f"{6:064x}", status="failed", error_code="bad_request", error_message="refused", attempts=1),
    _intent(7, 1),
    _answer(7, prior=Charge(9, 8, 3, Usage(4, 1, 2, 3, 2))),
    _intent(8, 1),  # under way when the run was cut off
    *(_intent(9, 1), _attempt(9, 1, "in_doubt", "server_error"), _intent(9, 2)),
    *(
        _intent(11, 1),
        {**_attempt(11, 1, "billed", "server_error"), "cost": 7, "usage": [20, 0, 0, 5, 0]},
        _intent(11, 2),
    ),
    _answer(11, attempts=2, resolves=2, cost_nano=31_507, failed_usage=Usage(20, 0, 0, 5, 0)),
    *(_intent(12, 1), {**_attempt(12, 1, "billed", "broken_answer"), "cost": RESERVED + 9, "usage": [20, 0, 0, 50, 0]}),
]


def content_of(state: ShardState) -> dict[str, Any]:
    """Return all that a journal holds, as JSON."""
    content: dict[str, Any] = orjson.loads(
        orjson.dumps(
            {
                "rows": {str(number): asdict(row) for number, row in sorted(state.rows.items())},
                "outcomes": {str(number): asdict(outcome) for number, outcome in sorted(state.outcomes.items())},
                "totals": state.totals().to_json(),
            },
            default=to_json,
            option=orjson.OPT_NON_STR_KEYS,
        )
    )
    return content


async def _write(path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        journal = Journal(path, HEADER, threads)
        for record in WHOLE:
            await journal.append(record)
        await journal.close()


def main() -> None:
    """Write the journal of the present version, one with a torn end, and the content of both."""
    FOLDER.mkdir(exist_ok=True)
    whole = FOLDER / f"v{VERSION}-whole.journal"
    if whole.exists():
        raise SystemExit(f"{whole} already exists, and is kept unchanged")
    asyncio.run(_write(whole))
    torn = FOLDER / f"v{VERSION}-torn.journal"
    torn.write_bytes(whole.read_bytes()[:-10])
    for path in (whole, torn):
        content = orjson.dumps(content_of(replay_shard(path)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        path.with_suffix(".json").write_bytes(content)


if __name__ == "__main__":
    main()
