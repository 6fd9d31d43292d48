"""The one closed table: what each way in which a request can end means for money, retry, row and exit code.

What is not in it is in doubt (`connection_lost`): the money stays booked at its full reservation.

Surely unpaid are failed connects, 429, 400, 401, 403, 404, 413, 422 and 503 with Retry-After. A billed answer is never
asked for again within a run, however useless it is.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Money(Enum):
    """What a request did to the budget."""

    UNPAID = "unpaid"
    BILLED = "billed"
    IN_DOUBT = "in_doubt"


class Retry(Enum):
    """What happens next."""

    NEVER = "never"
    AGAIN = "again"  # costs an attempt
    THROTTLE = "throttle"  # everybody slows down; costs no attempt
    STOP = "stop"  # the run stops: no request can succeed


class Rule(NamedTuple):
    """One line of the table. `code` is None for an answer that is simply good.

    `exit_code` is that of a run which finished with such a row and tolerates none. A run that the service stopped exits
    1 by whichever line it was: by one of STOP, or by `rate_limited` when the service answered nothing else.
    """

    code: str | None
    money: Money
    retry: Retry
    status: str
    exit_code: int
    sentence: str


def _rules(*rules: Rule) -> dict[str, Rule]:
    return {rule.code or "ok": rule for rule in rules}


B, D, U = Money.BILLED, Money.IN_DOUBT, Money.UNPAID
NEVER, AGAIN, THROTTLE, STOP = Retry.NEVER, Retry.AGAIN, Retry.THROTTLE, Retry.STOP

TABLE = _rules(
    # answers
    Rule(None, B, NEVER, "ok", 0, "answered"),
    Rule("max_output_tokens", B, NEVER, "truncated", 5, "the answer was cut at max_output_tokens"),
    Rule("content_filter", B, NEVER, "refused", 5, "the service's content filter stopped the answer"),
    Rule("refusal", B, NEVER, "refused", 5, "the model declined to answer"),
    Rule("schema_mismatch", B, NEVER, "invalid", 5, "the answer does not match response_format"),
    Rule("no_answer", B, NEVER, "failed", 5, "the reply was billed but holds no text"),
    # replies that cannot be read: paid, perhaps
    Rule("bad_reply", D, AGAIN, "failed", 5, "the reply could not be read"),
    Rule("reply_too_large", D, NEVER, "failed", 5, "the reply is larger than any answer can be"),
    Rule(
        "redirect", D, NEVER, "failed", 5, "the service redirects; redirects are not followed, they would leak the key"
    ),
    Rule("server_error", D, AGAIN, "failed", 5, "the service failed"),
    Rule("timeout", D, AGAIN, "failed", 5, "no answer within retry.timeout_s"),
    Rule("connection_lost", D, AGAIN, "failed", 5, "the connection was lost after sending"),
    # refusals of the service, surely unpaid
    Rule("connect_error", U, AGAIN, "failed", 5, "the service could not be reached"),
    Rule("unavailable", U, AGAIN, "failed", 5, "the service was busy (503 with Retry-After)"),
    Rule("bad_request", U, NEVER, "failed", 5, "the service refused the request"),
    Rule("too_long", U, NEVER, "failed", 5, "the service says that the prompt is too long"),
    Rule("prompt_filtered", U, NEVER, "refused", 5, "the service's content filter refused the prompt"),
    Rule("rate_limited", U, THROTTLE, "failed", 5, "the service answered 429 until patience ran out"),
    # no request can succeed
    Rule("quota_exhausted", U, STOP, "failed", 1, "the account's quota at the service is used up"),
    Rule("not_authorized", U, STOP, "failed", 1, "the service refuses the key (endpoint.api_key_env, api_key_block)"),
    Rule("not_found", U, STOP, "failed", 1, "the service does not know the address or the model"),
)

# What else a row's error_code can be: faults found before sending (status rejected), and rows that were not sent.
ROW_CODES = frozenset(
    [
        "null_value",
        "blank_prompt",
        "template_error",
        "invalid_utf8",
        "bad_messages",
        "bad_parameters",
        "bad_id",
        "bad_value",
        "too_long",
    ]
)
NOT_SENT_CODES = {"over_budget": "did not fit into the budget", "stopped": "the run stopped before this row"}

_BY_HTTP = {
    400: "bad_request",
    401: "not_authorized",
    403: "not_authorized",
    404: "not_found",
    413: "too_long",
    422: "bad_request",
    429: "rate_limited",
}
# Codes that services put into an error body; nothing else in it is repeated, it may echo the prompt or the key.
_KNOWN_BODY_CODES = frozenset(
    [
        "context_length_exceeded",
        "invalid_request_error",
        "model_not_found",
        "content_filter",
        "content_policy_violation",
        "invalid_api_key",
        "insufficient_quota",
        "rate_limit_exceeded",
        "unsupported_parameter",
        "unsupported_value",
        "unknown_parameter",
        "invalid_json_schema",
        "missing_required_parameter",
        "invalid_value",
        "invalid_type",
        "string_above_max_length",
        "exceed_context_size_error",
        "invalid_prompt",
        "billing_hard_limit_reached",
        "tokens",
        "requests",
        "server_error",
    ]
)


def rule_for_status(status: int, *, retry_after: bool, error: object) -> tuple[Rule, str]:
    """The rule for an HTTP status other than 200, and the sentence for the row. `error` is the body's `error`."""
    known = [
        value
        for name in ("code", "type")
        if isinstance(error, dict) and isinstance(value := error.get(name), str) and value in _KNOWN_BODY_CODES
    ]
    code = _BY_HTTP.get(status, "server_error" if status >= 500 else "connection_lost")
    if status == 503 and retry_after:
        code = "unavailable"
    elif 300 <= status < 400:
        code = "redirect"
    elif {"insufficient_quota", "billing_hard_limit_reached"} & set(known):
        code = "quota_exhausted"
    elif status == 400 and {"context_length_exceeded", "exceed_context_size_error"} & set(known):
        code = "too_long"
    elif status == 400 and {"content_filter", "content_policy_violation"} & set(known):
        code = "prompt_filtered"
    rule = TABLE[code]
    told = f"HTTP {status}" + (f", {known[0]}" if known else "")
    return rule, f"{rule.sentence} ({told})"
