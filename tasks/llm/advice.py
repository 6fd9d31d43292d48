"""What to do about each error code of a row. The report, Prefect's artifact and the documentation show these sentences.

The codes and their meanings are in `outcomes`. Each advice is a sentence without its full stop.
"""

from __future__ import annotations

_RESUME = "start the job again: it sends these rows again"
_RAISE = "raise `max_output_tokens`, then run with `--redo truncated`"
_ODD_REPLY = f"nothing, if a few rows have it: {_RESUME}. If many have it, check that `endpoint.base_url` is right"
_OUTAGE = f"{_RESUME}. If it happens again, look at the service's status page"

ADVICE = {
    # answers
    "max_output_tokens": _RAISE,
    "context_window": "shorten the prompt, or choose a model with a larger context window",
    "cut_off": "run with `--redo truncated`; the service had a reason of its own, such as a time limit",
    "prompt_cut": "raise the server's context length (Ollama: OLLAMA_CONTEXT_LENGTH), then run with `--redo truncated`",
    "content_filter": "look at these rows; change the prompt if the filter is wrong about them",
    "refusal": "look at these rows; change the prompt if the model misunderstands them",
    "schema_mismatch": "look at these answers; simplify the schema or the prompt, then run with `--redo invalid`",
    "no_answer": _RESUME,
    "empty": f"if `error_message` says that the reply holds only reasoning, raise `max_output_tokens`; then {_RESUME}",
    "unusable_answer": f"{_RESUME}; for example, the model wrote a malformed call of a tool",
    # replies that cannot be read
    "bad_reply": _ODD_REPLY,
    "failed_reply": _ODD_REPLY,
    "not_ready": _ODD_REPLY,
    "reply_too_large": "check what `endpoint.base_url` leads to; no model's answer is so long",
    "redirect": "set `endpoint.base_url` to the address that the service redirects to",
    # nothing is known about the answer
    "broken_answer": _OUTAGE,
    "request_timeout": _OUTAGE,
    "bad_gateway": _OUTAGE,
    "timeout": f"raise `retry.timeout_s` if the model is slow, then {_RESUME}",
    "connection_lost": _OUTAGE,
    # rows of a batch
    "batch_expired": f"{_RESUME}; if most rows of a night expire, use `lane: flex` or `lane: live`",
    "batch_skipped": _RESUME,
    "batch_cancelled": _RESUME,
    "batch_refused": "correct what `error_message` names, then start the job again",
    "batch_missing": "the rows may be billed: `retry.in_doubt` says whether the next start sends them again",
    "batch_lost": "the rows may be billed: `retry.in_doubt` says whether the next start sends them again",
    # failures and refusals of the service
    "connect_error": f"check `endpoint.base_url` and the network with `parquill doctor`, then {_RESUME}",
    "server_error": _OUTAGE,
    "unavailable": _OUTAGE,
    "conflict": _RESUME,
    "bad_request": "correct the setting or the row that `error_message` names, then start the job again",
    "forbidden": "ask for access to the model, or use another key; then start the job again",
    "not_found": "correct `endpoint.base_url` or `model`; `parquill doctor` checks both",
    "too_long": "shorten the prompt, lower `max_output_tokens`, or choose a model with a larger context window",
    "prompt_filtered": "look at these rows; change the prompt or the input",
    "rate_limited": "lower `limits.requests_per_minute` and `limits.tokens_per_minute` to the service's limits, then "
    "start the job again",
    "quota_exhausted": "raise the quota or add credit at the service, then start the job again",
    "not_authorized": "put a valid key where the worker runs, check it with `parquill doctor`, then start the job "
    "again",
    # rows that were not sent
    "null_value": "give the template a default, `{{ column | default('', true) }}`, or correct the cell",
    "blank_prompt": "correct the cell, or leave the row out of the input",
    "template_error": "correct the template; `error_message` says where it fails",
    "invalid_utf8": "write the text as UTF-8",
    "bad_messages": "correct the messages; `error_message` says what is wrong",
    "bad_parameters": "correct the row's parameters; `error_message` names the parameter",
    "bad_id": "give each row an id of its own",
    "bad_value": "leave the column out of the prompt, or write its value as text",
    "over_budget": "raise the budget, then start the job again: it resumes",
    "stopped": "remove the cause of the stop, then start the job again: it resumes",
}


def advice_of(code: str | None) -> str:
    """Return what to do about an error code; for one of a later version, what to do in any case."""
    return ADVICE.get(code or "", "read `error_message`, then start the job again")
