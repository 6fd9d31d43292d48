"""Failures that come with HTTP 200: the code inside is treated as the status, by the one table of outcomes.

| where | who | what it says |
|---|---|---|
| `error` next to or instead of `choices` | OpenRouter, gateways; Ollama as text | its `code`, `status` or `type` |
| `error` in the choice | OpenRouter | the same |
| `error` with `status: failed` | the Responses API | its `code` |
| `status: cancelled` | the Responses API | a broken answer |
| `status: in_progress`, `queued` | the Responses API | no answer yet, and it may be billed |
| a finish reason such as `error` or `abort` | see `endings` | a broken answer |
| `base_resp.status_code` | MiniMax | its own code |
| `object: error`, `detail`, `errors`, `code` with a message | vLLM, FastAPI, gateways | their `code` |

Money: usage that the reply reports is billed. A failure with a part of an answer but without usage may be billed, so it
is in doubt. In both cases each try may cost money, so the row gets one more try whatever the code. Otherwise the line
of the table counts: a failure that the service itself reports was not billed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parquill.tasks.llm.outcomes import TABLE, Money, Retry, Rule, error_of_body, rule_for_status
from parquill.tasks.llm.retry import MAX_RETRY_AFTER_S
from parquill.tasks.llm.usage import UNKNOWN, Reading, read_usage
from parquill.tasks.records import Usage

# What services write instead of a status, in the form of `_plain`. Codes of `outcomes` that refuse a request are 400.
_STATUSES: dict[str, int] = {
    name: status
    for status, names in {
        400: "invalidrequest invalidrequesterror badrequest badrequesterror invalidargument failedprecondition "
        "outofrange invalidparameter invalidprompt invalidvalue invalidtype unsupportedvalue unsupportedparameter "
        "unknownparameter missingrequiredparameter invalidjsonschema contextlengthexceeded exceedcontextsizeerror "
        "stringabovemaxlength contentfilter contentpolicyviolation imagecontentpolicyviolation datainspectionfailed "
        "moderation unprocessableentity",
        401: "invalidapikey invalidauthenticationerror authenticationerror unauthenticated unauthorized "
        "accountdeactivated",
        402: "insufficientquota insufficientuserquota insufficientbalance insufficientcredits paymentrequired "
        "billinghardlimitreached billingnotactive exceededcurrentquotaerror budgetexceeded",
        403: "permissionerror permissiondenied permissiondeniederror forbidden accessdenied",
        404: "notfound notfounderror modelnotfound",
        408: "requesttimeout",
        413: "requesttoolarge",
        429: "ratelimitexceeded ratelimiterror ratelimitreached ratelimitreachederror ratelimited resourceexhausted "
        "toomanyrequests throttling throttlingratequota throttlingexception requestlimitexceeded",
        500: "servererror internal internalerror internalservererror apierror processingerror modelerror",
        502: "badgateway upstreamerror providererror",
        503: "unavailable serviceunavailable serviceunavailableerror overloaded overloadederror engineoverloaded "
        "engineoverloadederror modeloverloaded provideroverloaded serverisoverloaded",
        504: "timeout timeouterror gatewaytimeout deadlineexceeded vectorstoretimeout",
    }.items()
    for name in names.split()
}
# MiniMax's `base_resp.status_code`, by its page of error codes.
_MINIMAX = {
    1000: 500,
    1001: 504,
    1002: 429,
    1004: 401,
    1008: 402,
    1013: 500,
    1024: 500,
    1026: 400,
    1027: 400,
    1033: 500,
    1039: 429,
    1041: 429,
    2013: 400,
    2045: 429,
    2049: 401,
    2056: 402,
}
_MINIMAX_SENSITIVE = frozenset({1026, 1027})
_NO_CODES = frozenset({"", "0", "200", "null", "none", "ok", "success"})
_AGAIN = frozenset({Retry.AGAIN, Retry.OUTAGE, Retry.THROTTLE})
# The codes of finish reasons that make a reply a failure.
BROKEN = frozenset({"broken_answer", "not_ready"})
# A failure without `error` is looked for only in a reply that has neither of these.
_ANSWERS = ("choices", "output")


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure that a 2xx reply reports; `code` is the line of the table if no status is known."""

    code: str
    status: int | None = None
    # promise: secrets: the repr of a failed reply omits its error body
    error: Mapping[str, Any] | None = field(default=None, repr=False)  # it may echo the prompt
    reading: Reading = UNKNOWN
    has_text: bool = False
    service_tier: str | None = None
    reason: str | None = None  # the finish reason or status that reports the failure, a known name

    @property
    def usage(self) -> Usage | None:
        """The usage that the reply reports, which is billed."""
        return self.reading.usage

    @property
    def retry_after_s(self) -> float | None:
        """The seconds that the error asks to wait."""
        return retry_after_of(self.error)

    def rule(self, *, retry_after: bool) -> tuple[Rule, str]:
        """Return the line of the table, with one more try at most if each may cost money, and the row's sentence."""
        rule = TABLE[self.code]
        sentence = f"{rule.sentence} ({self.reason})" if self.reason else rule.sentence
        if self.status is not None:
            where = "HTTP 200, code"
            document = {"error": self.error}
            rule, sentence = rule_for_status(self.status, retry_after=retry_after, document=document, where=where)
        # promise: M2 a failure that was billed is requested once more at most
        if rule.retry in _AGAIN and self._may_cost:
            rule = rule._replace(retry=Retry.UNREADABLE)
        return rule, sentence

    @property
    def _may_cost(self) -> bool:
        """Whether the reply itself shows that it is billed or may be."""
        return any(self.usage) if self.usage is not None else self.has_text or self.reading.least is not None

    def money(self, rule: Rule) -> Money:
        """What the failure did to the budget."""
        if self.usage is not None:
            return Money.BILLED
        # promise: M5 a partial answer without usage is in doubt
        return Money.IN_DOUBT if self.has_text or self.reading.least is not None else rule.money


def failure_of(
    document: Mapping[str, Any],
    *,
    inner: Mapping[str, Any] | None = None,
    ending: str | None = None,
    reason: str | None = None,
    has_text: bool = False,
    service_tier: str | None = None,
) -> Failure | None:
    """Return the failure that a reply reports, if any.

    Args:
        document: The reply.
        inner: Its choice, which may have its own `error`.
        ending: The code of its finish reason.
        reason: That finish reason, in a form that is safe to show; needed for the codes of BROKEN only.
        has_text: Whether there is a part of an answer.
        service_tier: The tier that the reply names.
    """
    # promise: M5 an error inside a choice makes the reply a failure
    error = _error_in(inner) or _error_in(document)
    if error is None and not any(isinstance(document.get(name), list) for name in _ANSWERS):
        error = _error_without_answer(document)
    if error is not None:
        return Failure("failed_reply", status_of(error), error, read_usage(document), has_text, service_tier)
    # promise: M5 an answer that the service broke off is not accepted
    if ending in BROKEN:
        return Failure(ending, None, None, read_usage(document), has_text, service_tier, reason)
    return None


def _error_in(document: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the `error` of a reply or a choice, also in MiniMax's form; None if it is absent or reports no error."""
    if document is None:
        return None
    base = document.get("base_resp")
    if isinstance(base, dict) and type(code := base.get("status_code")) is int and code:
        kind = {"type": "content_filter"} if code in _MINIMAX_SENSITIVE else {}
        return {"code": _MINIMAX.get(code, code), "message": base.get("status_msg"), **kind}
    if "error" not in document:
        return None
    error = error_of_body({"error": document["error"], **{n: document[n] for n in ("code", "type") if n in document}})
    if error is None:
        return None
    texts = [error.get(name) for name in ("message", "type", "status")]
    is_error = any(isinstance(text, str) and text for text in texts) or status_of(error) is not None
    return error if is_error or _plain(error.get("code")) not in _NO_CODES else None


def _error_without_answer(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error of a reply without `choices` and `output`, in the forms of vLLM, FastAPI and gateways."""
    if (error := error_of_body(document)) is not None:
        return error
    errors = document.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return errors[0]
    code = document.get("code", document.get("error_code"))
    message = next((t for n in ("message", "msg", "error_msg") if isinstance(t := document.get(n), str) and t), None)
    return None if message is None or _plain(code) in _NO_CODES else {"code": code, "message": message}


def status_of(error: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error's code stands for; None for an unknown code."""
    for name in ("code", "status_code", "status", "type"):
        value = error.get(name)
        text = _plain(value)
        if text.isascii() and text.isdigit() and len(text) == 3 and 400 <= int(text) < 600:
            return int(text)
        if text in _STATUSES:
            return _STATUSES[text]
    return None


def _plain(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return re.sub(r"[^a-z0-9]+", "", str(value)[:80].casefold())


def retry_after_of(error: Mapping[str, Any] | None) -> float | None:
    """Return the seconds that an error body asks to wait, bounded like the header; None if it does not ask.

    Reads OpenRouter's `metadata.retry_after_seconds`, the headers of its provider in `metadata.headers`, and Gemini's
    `details[].retryDelay` ("17s").
    """
    if error is None:
        return None
    metadata = error.get("metadata")
    places = [error, *([metadata] if isinstance(metadata, dict) else [])]
    if isinstance(metadata, dict) and isinstance(metadata.get("headers"), dict):
        places.append({str(name).casefold().replace("-", "_"): value for name, value in metadata["headers"].items()})
    found = [holder.get(name) for holder in places for name in ("retry_after_seconds", "retry_after")]
    details = error.get("details")
    found += [d.get("retryDelay") for d in details if isinstance(d, dict)] if isinstance(details, list) else []
    for value in found:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            continue
        try:
            seconds = float(str(value)[:40].strip().removesuffix("s"))
        except ValueError:
            continue
        if seconds == seconds:  # no NaN  # noqa: PLR0124
            return min(max(0.0, seconds), MAX_RETRY_AFTER_S)
    return None
