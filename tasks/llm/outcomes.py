"""The one closed table of how a request can end: what each ending means for the money, the next step and the row.

A request is surely unpaid if no connection was established, if the service refused it (429 and every other 4xx except
408 and 499), or if the service failed with its own error body (5xx). After a 408, a 499, a 5xx without such a body, a
time-out or a lost connection, nothing is known about the answer: the request is in doubt and stays booked at its full
reservation. The same holds for a 2xx reply that cannot be read. A billed answer is never asked for again within a run,
however useless it is.

A 2xx reply may report a failure (see `failures`): its code is treated as the status. If such a reply reports usage,
that is billed whatever the line says, and the row is tried once more at most.

Exit codes follow from the table: a row whose status is not `ok` counts toward exit 5, and a stop (STOP, or REFUSAL,
UNREADABLE, OUTAGE and THROTTLE once the run gives up) ends with exit 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple


class Money(Enum):
    """What a request did to the budget."""

    UNPAID = "unpaid"
    BILLED = "billed"
    IN_DOUBT = "in_doubt"


class Retry(Enum):
    """What happens next."""

    NEVER = "never"  # the row has its outcome
    REFUSAL = "refusal"  # the row has its outcome; but if every row is refused alike, the run stops
    AGAIN = "again"  # costs an attempt
    UNREADABLE = "unreadable"  # one more try, as each may be billed; several without an answer between stop the run
    OUTAGE = "outage"  # costs an attempt; but if every request fails, the run waits
    THROTTLE = "throttle"  # all requests slow down; costs no attempt
    STOP = "stop"  # the run stops: no request can succeed


# The same for readers of the documentation.
NEXT_STEPS = {
    Retry.NEVER: "no other request",
    Retry.REFUSAL: "no other request; if every row is refused alike, the run stops",
    Retry.AGAIN: "another attempt",
    Retry.UNREADABLE: "one more request; several in a row stop the run",
    Retry.OUTAGE: "another attempt; if every request fails, the run waits",
    Retry.THROTTLE: "all requests slow down; costs no attempt",
    Retry.STOP: "the run stops",
}


class Rule(NamedTuple):
    """One line of the table. `code` is the row's error_code; None for a good answer."""

    code: str | None
    money: Money
    retry: Retry
    status: str
    sentence: str


def _rules(*rules: Rule) -> dict[str, Rule]:
    return {rule.code or "ok": rule for rule in rules}


B, D, U = Money.BILLED, Money.IN_DOUBT, Money.UNPAID
NEVER, REFUSAL, AGAIN, UNREADABLE = Retry.NEVER, Retry.REFUSAL, Retry.AGAIN, Retry.UNREADABLE
OUTAGE, THROTTLE, STOP = Retry.OUTAGE, Retry.THROTTLE, Retry.STOP

TABLE = _rules(
    # answers
    Rule(None, B, NEVER, "ok", "answered"),
    Rule("max_output_tokens", B, NEVER, "truncated", "the answer was cut at max_output_tokens"),
    Rule("context_window", B, NEVER, "truncated", "the answer was cut at the end of the model's context window"),
    Rule("cut_off", B, NEVER, "truncated", "the service cut the answer short"),
    Rule("prompt_cut", B, NEVER, "truncated", "the server cut the prompt and answered only what was left of it"),
    Rule("content_filter", B, NEVER, "refused", "the service's content filter stopped the answer"),
    Rule("refusal", B, NEVER, "refused", "the model declined to answer"),
    Rule("schema_mismatch", B, NEVER, "invalid", "the answer does not match response_format"),
    Rule("no_answer", B, NEVER, "failed", "the reply was billed but holds no text"),
    Rule("empty", B, NEVER, "failed", "the answer was billed but is empty"),
    Rule("unusable_answer", B, NEVER, "failed", "the service reports that the model's answer is unusable"),
    # replies that cannot be read: perhaps billed
    Rule("bad_reply", D, UNREADABLE, "failed", "the reply could not be read"),
    Rule("failed_reply", D, UNREADABLE, "failed", "the reply reports a failure without a known code"),
    Rule("not_ready", D, UNREADABLE, "failed", "the service replied before its answer was ready"),
    Rule("reply_too_large", D, NEVER, "failed", "the reply is larger than any answer can be"),
    Rule("redirect", D, REFUSAL, "failed", "the service redirects; Parquill does not follow, which keeps the key safe"),
    # nothing is known about the answer
    # promise: M2 an answer that the service broke off is requested once more at most
    Rule("broken_answer", D, UNREADABLE, "failed", "the service broke off the answer"),
    Rule("request_timeout", D, OUTAGE, "failed", "the service or a proxy gave up waiting"),
    Rule("bad_gateway", D, OUTAGE, "failed", "the service failed without an error body of its own"),
    Rule("timeout", D, OUTAGE, "failed", "no answer within retry.timeout_s"),
    Rule("connection_lost", D, OUTAGE, "failed", "the connection was lost after sending"),
    # failures of the service, surely unpaid
    Rule("connect_error", U, OUTAGE, "failed", "the service could not be reached"),
    Rule("server_error", U, OUTAGE, "failed", "the service failed"),
    Rule("unavailable", U, OUTAGE, "failed", "the service was busy (503 with Retry-After)"),
    Rule("conflict", U, AGAIN, "failed", "the service could not accept the request at that time"),
    # rows of a batch
    Rule("batch_expired", U, AGAIN, "failed", "the batch expired before the service completed the row"),
    Rule("batch_skipped", U, AGAIN, "failed", "the batch ended without running the row"),
    Rule("batch_cancelled", U, STOP, "failed", "the batch was cancelled at the service"),
    Rule("batch_refused", U, STOP, "failed", "the service refused the batch"),
    Rule("batch_missing", D, AGAIN, "failed", "the result files of the batch lack the row"),
    Rule("batch_lost", D, AGAIN, "failed", "the service no longer has the batch"),
    # refusals of the service, surely unpaid
    Rule("bad_request", U, REFUSAL, "failed", "the service refused the request"),
    Rule("forbidden", U, REFUSAL, "failed", "the service does not allow the request"),
    Rule("not_found", U, REFUSAL, "failed", "the service does not know the address or the model"),
    Rule("too_long", U, NEVER, "failed", "the service says that the prompt is too long"),
    Rule("prompt_filtered", U, NEVER, "refused", "the service's content filter refused the prompt"),
    Rule("rate_limited", U, THROTTLE, "failed", "the service answered 429 until patience ran out"),
    # no request can succeed
    Rule("quota_exhausted", U, STOP, "failed", "the account's quota or balance at the service is used up"),
    Rule("not_authorized", U, STOP, "failed", "the service rejects the key (endpoint.api_key_env, api_key_block)"),
)

# Other values of a row's error_code: faults found before sending (status rejected), and rows that were not sent.
ROW_CODES = {
    "null_value": "the template uses a null that it does not handle",
    "blank_prompt": "the rendered prompt is empty or white space",
    "template_error": "the template fails on this row",
    "invalid_utf8": "a text of the row is not valid UTF-8",
    "bad_messages": "the messages cannot be sent to the API of the job",
    "bad_parameters": "the row's own parameters cannot be read, or one of them is refused",
    "bad_id": "the id is null, or another row has it too",
    "bad_value": "a cell that the prompt uses cannot be written as text",
    "too_long": "the prompt and `max_output_tokens` exceed the model's context window",
}
NOT_SENT_CODES = {"over_budget": "did not fit into the budget", "stopped": "the run stopped before this row"}


def meaning_of(code: str) -> str:
    """Return what a row's error code means; empty for a code of a later version."""
    return TABLE[code].sentence if code in TABLE else {**ROW_CODES, **NOT_SENT_CODES}.get(code, "")


_BY_HTTP = {
    401: "not_authorized",
    402: "quota_exhausted",
    403: "forbidden",
    404: "not_found",
    # promise: M5 a 408 reply leaves the request in doubt
    408: "request_timeout",
    409: "conflict",
    410: "not_found",
    413: "too_long",
    414: "too_long",
    425: "conflict",
    429: "rate_limited",
    431: "too_long",
    498: "rate_limited",  # Groq: flex lacks capacity
    499: "request_timeout",
    501: "bad_request",
}
# Codes that services put into an error body; their meaning does not depend on the status.
_QUOTA = frozenset(
    [
        "insufficient_quota",  # OpenAI
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",  # this and the next three as in OpenAI's page on 429 errors, November 2026
        "organization_usage_limit_exceeded",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "enforced_spend_limit_reached",  # Anthropic
        "exceeded_current_quota_error",  # Moonshot
        "insufficient_user_quota",  # one-api and new-api gateways
        "insufficient_balance",
        "budget_exceeded",  # LiteLLM's proxy
    ]
)
_KEY = frozenset(["invalid_api_key", "invalid_authentication_error", "account_deactivated"])
_TOO_LONG = frozenset(["context_length_exceeded", "exceed_context_size_error", "string_above_max_length"])
_FILTERED = frozenset(["content_filter", "content_policy_violation", "data_inspection_failed", "moderation"])
_REFUSING = frozenset([400, 403, 422])
# Other codes that the row's message repeats. Nothing else is repeated verbatim: it may echo the prompt or the key.
_PLAIN_CODES = frozenset(
    [
        "invalid_request_error",
        "model_not_found",
        "rate_limit_exceeded",
        "resource_unavailable",  # OpenAI: flex lacks capacity
        "capacity_exceeded",  # the same at Groq
        "unsupported_parameter",
        "unsupported_value",
        "unknown_parameter",
        "invalid_json_schema",
        "missing_required_parameter",
        "invalid_value",
        "invalid_type",
        "invalid_prompt",
        "tokens",
        "requests",
        "server_error",
        "overloaded_error",
    ]
)
_KNOWN_CODES = _QUOTA | _KEY | _TOO_LONG | _FILTERED | _PLAIN_CODES


def error_of_body(document: Any) -> Mapping[str, Any] | None:
    """Return the error that a JSON body reports, in the form of OpenAI's `error` object; None if it is no error body.

    Forms: OpenAI {error: {...}}, Gemini [{error: {...}}], Ollama {error: "text"}, vLLM {object: error, message},
    FastAPI {detail}. A gateway's JSON page (problem details, or only {message}) is not an error of the service itself.
    """
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if isinstance(error, dict) and error:
        return error
    if isinstance(error, str) and error:
        return {"message": error, **{name: document.get(name) for name in ("code", "type") if name in document}}
    if document.get("object") == "error":
        return document
    detail = document.get("detail")
    # promise: M5 a gateway's problem document is not taken as the service's error body
    if detail and "title" not in document and "cloudflare_error" not in document:
        return {"message": detail} if isinstance(detail, str) else {"detail": detail}
    return None


def rule_for_status(status: int, *, retry_after: bool, document: Any, where: str = "HTTP") -> tuple[Rule, str]:
    """Return the rule for an HTTP status that is not 2xx, and the sentence for the row.

    `document` is the parsed body; `where` says where the status came from.
    """
    error = error_of_body(document)
    known = [
        value
        for name in ("code", "type")
        # promise: S1 only known error codes are repeated from an error body
        if error is not None and isinstance(value := error.get(name), str) and value in _KNOWN_CODES
    ]
    rule = TABLE[_code_of(status, set(known), error, retry_after=retry_after)]
    details = f"{where} {status}" + (f", {known[0]}" if known else "")
    return rule, f"{rule.sentence} ({details})"


def _code_of(  # noqa: PLR0911 - one return for each line
    status: int, known: set[str], error: Mapping[str, Any] | None, *, retry_after: bool
) -> str:
    # promise: service: a redirect reply has its own outcome and is not followed
    if 300 <= status < 400:
        return "redirect"
    if 500 <= status < 600 and status != 501:
        # promise: M5 a 5xx reply is a server error only with the service's own error body
        if error is not None:
            return "server_error"
        # promise: M5 a 503 reply without an error body is unpaid only with Retry-After
        return "unavailable" if status == 503 and retry_after else "bad_gateway"
    # promise: M5 a reply with an unexpected status is not reported as a lost connection
    if not 400 <= status < 600:
        return "bad_reply"
    if known & _QUOTA:
        return "quota_exhausted"
    if known & _KEY:
        return "not_authorized"
    if status in _REFUSING and known & _TOO_LONG:
        return "too_long"
    if status in _REFUSING and (known & _FILTERED or _is_moderation(error)):
        return "prompt_filtered"
    return _BY_HTTP.get(status, "bad_request")


def _is_moderation(error: Mapping[str, Any] | None) -> bool:
    """Whether a router says that its moderation flagged the prompt (OpenRouter's `metadata.reasons`)."""
    metadata = error.get("metadata") if error is not None else None
    return isinstance(metadata, dict) and ("flagged_input" in metadata or bool(metadata.get("reasons")))
