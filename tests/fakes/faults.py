"""Rules that make the service misbehave: which request is hit, and what it gets in place of its answer.

A rule is a JSON object; the first rule that fits a request applies. Only requests that the limits admit are hit.

    kind         what happens, see KINDS; required
    match        a text that the raw body must hold (as it is in the JSON, with escapes); null: any body
    probability  decided by hash(seed, content, attempt of that content, index of the rule); 1 by default
    times        at most this often for one content; null: always
    total        at most this often in total; null: always
    after        only after this number of admitted requests; 0
    retry_after  sent unchanged as Retry-After: "-5", "1e9", a date
    location     where `redirect` points to; another path of this service by default
    billed       whether the request is billed; null: as KINDS says

The rows of a batch have rules of their own (`batch.row_faults`), with the kinds that a line of a file can show and with
those of ROW_KINDS. There, `match` looks at the whole line of the input file, so it can name a custom_id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .draws import uniform

USAGE_VARIANTS = (
    "negative", "huge", "nan", "infinity", "missing", "null", "string", "float", "bool", "inconsistent",
)  # fmt: skip

# Each kind, and whether the service charges for it.
KINDS = {
    "insufficient_quota": False,  # 429 that waiting does not help
    "disconnect_before": False,  # the request is read, then the connection closed without one byte
    "disconnect_after": True,  # closed after the headers
    "hang": True,  # never answered
    "redirect": False,  # 307
    "garbage": True,  # 200 with text/html
    "empty_body": True,  # 200 with nothing
    "truncated_json": True,  # 200 with half of the answer, its length declared truthfully
    "content_filter": True,
    "refusal": True,
    "length": True,  # cut at the maximum, whatever was drawn
    "null_content": True,
    "empty_choices": True,
    "slow_loris": True,  # the answer, one byte every 50 ms
    "endless_body": True,  # blanks forever
    "huge_length": True,  # promises a petabyte, sends the answer, stays open
    "gzip_bomb": True,  # 64 MB of blanks in 64 KB, not requested
    "invalid_utf8": True,
    "lone_surrogate": True,
    "nested": True,  # 200,000 brackets
    "overrun": True,  # twice the tokens, even above the request's maximum; billed so
    "duplicate_keys": True,  # a second usage, of zero tokens, after the true one
    "billed_failure": True,  # 200 with the code 502, a part of the answer and its usage
    "echo": False,  # 400 that repeats key and prompt
    "ansi": False,  # 400 with escape sequences
} | {f"bad_usage:{variant}": True for variant in USAGE_VARIANTS}

# What only a row of a batch can be; `error:CODE` is a line without a response, with this error, and free.
ROW_KINDS = {
    "status_code_zero": False,  # in the error file: status 0, an empty body, no error; counted as completed
    "missing": True,  # in neither file
    "duplicate": True,  # twice in the output file, billed once
    "foreign": True,  # and a second line, with a custom_id that the input does not have
    "empty_object": True,  # 200 with {} as its body
    "null_body": True,  # 200 with null as its body
    "long_line": True,  # an answer of `batch.long_line_bytes`
}
_NOT_IN_A_FILE = {
    "disconnect_before", "disconnect_after", "hang", "redirect", "slow_loris", "endless_body", "huge_length",
    "gzip_bomb",
}  # fmt: skip
_BILLED = KINDS | ROW_KINDS


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule, see the module."""

    kind: str
    match: str | None = None
    probability: float = 1.0
    times: int | None = None
    total: int | None = None
    after: int = 0
    retry_after: str | None = None
    location: str = "/v1/elsewhere"
    billed: bool | None = None

    @property
    def bills(self) -> bool:
        """Return whether the request is paid; a status is not, unless the rule says so."""
        return _BILLED.get(self.kind, False) if self.billed is None else self.billed

    @property
    def status(self) -> int | None:
        """Return the N of `status:N`, which has OpenAI's error body, or of `gateway:N`, which has a proxy's page."""
        kind, _, rest = self.kind.partition(":")
        return int(rest) if kind in {"status", "gateway"} else None


def read_rules(value: Any, *, rows: bool = False) -> tuple[Rule, ...]:
    """Check a list of rules, of requests or of the rows of batches; a ValueError or TypeError names what is wrong."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"a list of rules is wanted, not {value!r}")
    return tuple(each if isinstance(each, Rule) else _read_rule(each, rows=rows) for each in value)


def _read_rule(value: Any, *, rows: bool) -> Rule:
    if not isinstance(value, dict):
        raise TypeError(f"a rule is an object, not {value!r}")
    values = dict(value)
    if values.get("retry_after") is not None:
        values["retry_after"] = str(values["retry_after"])
    rule = Rule(**values)  # an unknown name is a TypeError that names it
    prefix, _, code = rule.kind.partition(":")
    known = _BILLED.keys() - _NOT_IN_A_FILE if rows else KINDS.keys()
    is_status = prefix in {"status", "gateway"} and code.isdigit() and 200 <= int(code) < 600
    if rule.kind not in known and not is_status and not (rows and prefix == "error" and code):
        raise ValueError(f"unknown kind {rule.kind!r}; known are status:NNN, gateway:NNN and {sorted(known)}")
    if not 0 <= rule.probability <= 1:
        raise ValueError(f"a probability is from 0 to 1, not {rule.probability!r}")
    return rule


class FaultBook:
    """Decides which rule hits which request, and counts how often each has."""

    def __init__(self) -> None:
        self._by_content: dict[tuple[int, bytes], int] = {}
        self._in_all: dict[int, int] = {}
        self._attempts: dict[bytes, int] = {}
        self._admitted = 0
        self.counts: dict[str, int] = {}

    def pick(self, rules: tuple[Rule, ...], seed: int, digest: bytes, body: bytes) -> Rule | None:
        """Return the first rule that fits and record its use; attempts are counted only while there are rules."""
        if not rules:
            return None
        before, self._admitted = self._admitted, self._admitted + 1
        attempt = self._attempts[digest] = self._attempts.get(digest, 0) + 1
        for index, rule in enumerate(rules):
            if before < rule.after or (rule.match is not None and rule.match.encode() not in body):
                continue
            key = (index, digest)
            if rule.times is not None and self._by_content.get(key, 0) >= rule.times:
                continue
            if rule.total is not None and self._in_all.get(index, 0) >= rule.total:
                continue
            if rule.probability < 1 and uniform(seed, digest, f"fault {index} {attempt}") >= rule.probability:
                continue
            if rule.times is not None:
                self._by_content[key] = self._by_content.get(key, 0) + 1
            self._in_all[index] = self._in_all.get(index, 0) + 1
            self.counts[rule.kind] = self.counts.get(rule.kind, 0) + 1
            return rule
        return None
