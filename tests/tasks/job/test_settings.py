"""A job accepts only settings that are known, complete and possible, and no secrets."""

from __future__ import annotations

import math
import string
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.job.parameters import KNOWN, OUTPUT_LIMITS, OWNED, REFUSED, near_miss
from parquill.tasks.job.settings import Job

LEAST: dict[str, Any] = {
    "name": "translate",
    "input": "in.parquet",
    "output": "out",
    "prompt": {"user": "{{ text }}"},
    "model": "gpt-4o-mini",
    "max_output_tokens": 100,
}
NUMBERS = {
    "max_output_tokens": ("max_output_tokens",),
    "budget": ("run_usd", "soft_fraction", "monthly_usd"),
    "limits": ("max_at_once", "requests_per_minute", "tokens_per_minute"),
    "retry": ("attempts", "timeout_s"),
    "tolerate": ("rejected", "not_ok"),
}
NUMBER_PATHS = [(group,) if names == (group,) else (group, name) for group, names in NUMBERS.items() for name in names]


def _job(**changes: Any) -> Job:
    return make_job({**LEAST, **changes})


def _with(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    return {path[0]: value if len(path) == 1 else {path[1]: value}}


def _refusal(**changes: Any) -> str:
    with pytest.raises(BadJob) as caught:
        _job(**changes)
    return str(caught.value)


def test_defaults_are_those_of_the_contract() -> None:
    """A job that sets only what is required gets the defaults that the contract names."""
    job = _job()
    assert (job.timezone, job.dedupe, job.column_prefix, job.labels, job.state) == ("UTC", True, "", {}, None)
    assert (job.endpoint.base_url, job.endpoint.api) == ("https://api.openai.com/v1", "chat")
    assert (job.endpoint.api_key_env, job.endpoint.allow_http) == ("OPENAI_API_KEY", False)
    assert (job.budget.run_usd, job.budget.soft_fraction, job.budget.when_short) == (None, 0.8, "refuse")
    assert (job.limits.max_at_once, job.limits.count_output) == (64, "reserved")
    assert (job.retry.attempts, job.retry.timeout_s, job.retry.in_doubt) == (6, 120, "resend")
    assert (job.tolerate.rejected, job.tolerate.not_ok) == (0.01, 0.0)


def test_a_job_is_frozen() -> None:
    """A setting cannot be changed after validation, so that a validated job stays valid."""
    job = _job(budget={"run_usd": 5})
    with pytest.raises(ValidationError):
        job.model = "gpt-4"
    with pytest.raises(ValidationError):
        job.budget.run_usd = Decimal(500)


@pytest.mark.parametrize("name", ["name", "input", "output", "model", "max_output_tokens"])
def test_a_missing_setting_is_named(name: str) -> None:
    """A job without a required setting is refused with the setting's name."""
    settings_ = {key: value for key, value in LEAST.items() if key != name}
    with pytest.raises(BadJob, match=f"`{name}` is missing"):
        make_job(settings_)


@pytest.mark.parametrize(
    ("changes", "unknown", "near"),
    [
        ({"modle": "x"}, "modle", "model"),
        ({"max_ouput_tokens": 5}, "max_ouput_tokens", "max_output_tokens"),
        ({"budget": {"run_us": 5}}, "budget.run_us", "budget.run_usd"),
        ({"run_usd": 5}, "run_usd", "budget.run_usd"),
        ({"base_url": "https://x"}, "base_url", "endpoint.base_url"),
        ({"limits": {"max_at_onc": 5}}, "limits.max_at_onc", "limits.max_at_once"),
        ({"limits": {"attempts": 5}}, "limits.attempts", "retry.attempts"),
        ({"endpoint": {"api_key_envv": "K"}}, "endpoint.api_key_envv", "endpoint.api_key_env"),
        ({"prompt": {"user": "a", "systen": "b"}}, "prompt.systen", "prompt.system"),
    ],
)
def test_an_unknown_setting_names_the_nearest(changes: dict[str, Any], unknown: str, near: str) -> None:
    """A misspelled setting, or one at the wrong level, is refused with the nearest known name."""
    assert _refusal(**changes) == f"unknown setting `{unknown}`; did you mean `{near}`?"


def test_an_unknown_setting_like_no_other_is_refused_alone() -> None:
    """A setting that resembles no other is refused without a misleading guess."""
    assert _refusal(zzzzzz=1) == "unknown setting `zzzzzz`"


def test_every_fault_is_told_at_once() -> None:
    """A refusal names all faults of a job, so that the user can correct them together."""
    refusal = _refusal(modle="x", max_output_tokens=0, budget={"run_usd": -1})
    assert all(part in refusal for part in ("`modle`", "`max_output_tokens`", "`budget.run_usd`"))
    assert refusal.count("; ") >= 2


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"prompt": {"system": "only"}}, "prompt.user"),
        ({"price": {"usd_per_mtok_input": 1}}, "price.usd_per_mtok_output"),
        ({"price": {"usd_per_mtok_output": 1}}, "price.usd_per_mtok_input"),
    ],
)
def test_half_settings_are_refused(changes: dict[str, Any], missing: str) -> None:
    """A group that lacks a required setting is refused with that setting's name, and no value is guessed."""
    assert _refusal(**changes) == f"the setting `{missing}` is missing"


@pytest.mark.parametrize(
    "changes", [{"prompt": None}, {"messages_column": "messages"}, {"prompt": None, "messages_column": None}]
)
def test_exactly_one_source_of_messages(changes: dict[str, Any]) -> None:
    """A job with both `prompt` and `messages_column`, or with neither, is refused."""
    assert _refusal(**changes) == "set either `prompt` or `messages_column`"


@pytest.mark.parametrize("path", NUMBER_PATHS, ids=".".join)
@pytest.mark.parametrize("value", [True, False])
def test_a_bool_is_no_number(path: tuple[str, ...], value: bool) -> None:  # noqa: FBT001
    """A boolean is refused as a number: `max_at_once: true` must not become 1."""
    refusal = _refusal(**_with(path, value))
    assert refusal == f"`{'.'.join(path)}`: a number is needed, not true or false"


@pytest.mark.parametrize("path", NUMBER_PATHS, ids=".".join)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, "ten", [5], {"usd": 5}])
def test_impossible_numbers_are_refused(path: tuple[str, ...], value: Any) -> None:
    """NaN, infinity, a negative number, a word, a list and a mapping are refused for every number setting."""
    assert _refusal(**_with(path, value)).startswith(f"`{'.'.join(path)}")


@pytest.mark.parametrize("value", [0, 0.0, "0", "0.0000000001", 10_000_001, "NaN", "-Infinity", "five"])
def test_impossible_budgets_are_refused(value: Any) -> None:
    """A budget of zero, of less than a nano-dollar, above the maximum, without end or in words is refused."""
    assert "budget.run_usd" in _refusal(budget={"run_usd": value})


def test_a_budget_is_exact() -> None:
    """A budget of 0.1 dollars is a tenth of a dollar, not the nearest binary fraction."""
    assert _job(budget={"run_usd": 0.1}).budget.run_usd == Decimal("0.1")
    assert _job(budget={"run_usd": "0.000000001"}).budget.run_usd == Decimal("1e-9")


@pytest.mark.parametrize("value", [0, 10**6, 4097, 1.5, -64])
def test_impossible_concurrency_is_refused(value: Any) -> None:
    """`max_at_once` must be a whole number from 1 to 4096."""
    assert "limits.max_at_once" in _refusal(limits={"max_at_once": value})
    assert _job(limits={"max_at_once": 4096}).limits.max_at_once == 4096


@pytest.mark.parametrize(
    "price",
    [
        {"usd_per_mtok_input": -1, "usd_per_mtok_output": 1},
        {"usd_per_mtok_input": 150_000, "usd_per_mtok_output": 600_000},
        {"usd_per_mtok_input": math.nan, "usd_per_mtok_output": 1},
        {"usd_per_mtok_input": True, "usd_per_mtok_output": 1},
        {"usd_per_mtok_input": 1, "usd_per_mtok_output": "1e-12"},
    ],
)
def test_impossible_prices_are_refused(price: dict[str, Any]) -> None:
    """A price is refused if it is negative, a million times off, not a number or finer than a femto-dollar a token."""
    assert "price.usd_per_mtok" in _refusal(price=price)


def test_a_price_of_zero_is_written_on_purpose() -> None:
    """A job can set a price of 0 for a model that costs nothing."""
    price = _job(price={"usd_per_mtok_input": 0, "usd_per_mtok_output": 0}).price
    assert price is not None
    assert price.usd_per_mtok_input == 0
    assert price.usd_per_mtok_output == 0


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_tolerated_fractions_are_fractions(value: float) -> None:
    """A tolerated fraction must be between none and all of the rows."""
    assert "tolerate.not_ok" in _refusal(tolerate={"not_ok": value})
    assert "tolerate.rejected" in _refusal(tolerate={"rejected": value})


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/v1",
        "HTTP://example.com/v1",
        "http://127.0.0.1.example.com/v1",
        "http://localhost.example.com",
        "http://10.0.0.5:8000/v1",
        "http://[2001:db8::1]/v1",
    ],
)
def test_plain_http_to_another_host_is_refused(url: str) -> None:
    """Plain HTTP to another host, which exposes prompts and key on the way, is refused unless the job allows it."""
    assert "allow_http" in _refusal(endpoint={"base_url": url})
    assert _job(endpoint={"base_url": url, "allow_http": True}).endpoint.allow_http


@pytest.mark.parametrize(
    "url", ["http://localhost:8089/v1", "http://127.0.0.1:1", "http://[::1]:8080/v1", "http://LOCALHOST/v1"]
)
def test_plain_http_to_this_machine_is_allowed(url: str) -> None:
    """A model on this machine needs no TLS and gets no key by default."""
    endpoint = _job(endpoint={"base_url": url}).endpoint
    assert (endpoint.base_url, endpoint.api_key_env) == (url, None)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret-4711@api.openai.com/v1",
        "https://secret-4711@api.openai.com/v1",
        "http://localhost:80@evil.example/v1",
        "https://:secret-4711@api.openai.com",
    ],
)
def test_userinfo_in_a_url_is_refused_unseen(url: str) -> None:
    """A user or password in an address is refused, and the refusal does not repeat it."""
    refusal = _refusal(endpoint={"base_url": url})
    assert "user or password" in refusal
    assert "secret-4711" not in refusal


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "s3://bucket/v1",
        "ftp://example.com",
        "api.openai.com/v1",
        "//api.openai.com",
        "https://",
        "https:///v1",
        "",
        "https://api.openai.com/v1?key=1",
        "https://api.openai.com/v1#x",
        "https://api.openai.com/v1\nX-Evil: 1",
        "https://api openai.com",
        "https://[::1",
        "https://api.openai.com:port/v1",
        "https://api.openai.com:99999/v1",
    ],
)
def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    """A base_url with a file, a bucket, a query, a line end or a blank, or a broken one, is refused."""
    assert "endpoint" in _refusal(endpoint={"base_url": url})


def test_a_trailing_slash_makes_no_difference() -> None:
    """An address with a trailing slash is the same address, so that its answers are found again."""
    endpoint = _job(endpoint={"base_url": "https://api.openai.com/v1/"}).endpoint
    assert endpoint.base_url == "https://api.openai.com/v1"


@pytest.mark.parametrize(
    "url", ["https://api.openai.com/v1", "https://API.OpenAI.com/v1/", "https://api.openai.com:443"]
)
def test_openai_is_offered_openai_api_key(url: str) -> None:
    """OPENAI_API_KEY is the default key of api.openai.com."""
    assert _job(endpoint={"base_url": url}).endpoint.api_key_env == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com.evil.example/v1",
        "https://evil.example/api.openai.com",
        "https://openai.com/v1",
        "https://xapi.openai.com/v1",
        "https://gateway.example/v1",
    ],
)
def test_no_other_host_is_offered_openai_api_key(url: str) -> None:
    """A host other than api.openai.com never gets OpenAI's key by default."""
    assert _job(endpoint={"base_url": url}).endpoint.api_key_env is None


@pytest.mark.parametrize("endpoint", [{"api_key_env": None}, {"api_key_env": None, "api_key_block": None}, {}])
def test_a_form_that_nobody_filled_in_names_the_default_key(endpoint: dict[str, Any]) -> None:
    """Prefect's form sends null for an empty field: OpenAI then gets OPENAI_API_KEY, and another host gets no key."""
    assert _job(endpoint=endpoint).endpoint.api_key_env == "OPENAI_API_KEY"
    other = _job(endpoint={"base_url": "https://gateway.example/v1", **endpoint}).endpoint
    assert other.api_key_env is None


def test_a_named_key_takes_the_place_of_the_default() -> None:
    """A key that the job names replaces the default key."""
    assert _job(endpoint={"api_key_env": "MY_KEY"}).endpoint.api_key_env == "MY_KEY"
    block = _job(endpoint={"api_key_block": "my-key"}).endpoint
    assert (block.api_key_env, block.api_key_block) == (None, "my-key")
    assert "not both" in _refusal(endpoint={"api_key_env": "A", "api_key_block": "b"})


@pytest.mark.parametrize(
    "value",
    [
        "sk-proj/4711+secret",
        "sk-4711 secret",
        "sk-proj-4711-Secret",
        "sk-4711secret",
        "$OPENAI_API_KEY",
        "4711-secret",
        "",
        "k" * 129,
    ],
)
@pytest.mark.parametrize("setting", ["api_key_env", "api_key_block"])
def test_a_key_in_place_of_its_name_is_refused_unseen(setting: str, value: str) -> None:
    """A key in place of the name of a key is refused, and the refusal does not repeat it."""
    refusal = _refusal(endpoint={setting: value})
    assert "never the key itself" in refusal
    assert "4711" not in refusal


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"search_parameters": {"mode": "on"}}, "search"),
        ({"enable_search": True}, "search"),
        ({"web_search_options": {}}, "search"),
        ({"google_search": {}}, "search"),
        ({"plugins": [{"id": "web"}]}, "another model or seller"),
        ({"models": ["a", "b"]}, "another model or seller"),
        ({"route": "fallback"}, "another model or seller"),
        ({"provider": {"order": ["x"]}}, "another model or seller"),
        ({"fallbacks": ["a"]}, "another model or seller"),
        ({"documents": [{"text": "x"}]}, "more input"),
        ({"data_sources": []}, "more input"),
        ({"service_tier": "priority"}, "another tier"),
        ({"service_tier": "default"}, "another tier"),
        ({"speed": "fast"}, "another tier"),
        ({"priority": 1}, "another tier"),
        ({"inference_geo": "us"}, "another tier or region"),
        ({"extra_body": {"google": {}}}, "not checked here"),
        ({"n": 2}, "more than one answer"),
        ({"n": True}, "more than one answer"),
        ({"best_of": 3}, "more than one answer"),
        ({"stream": True}, "protocol"),
        ({"stream": 0}, "protocol"),
        ({"tools": [{"type": "web_search"}]}, "functions only"),
        ({"tools": [{"type": "builtin_function", "function": {"name": "$web_search"}}]}, "functions only"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "cache"),
        ({"prompt_cache_options": {"ttl": "12h"}}, "cache"),
    ],
)
def test_a_refused_parameter_says_why(parameters: dict[str, Any], words: str) -> None:
    """M1: a parameter that makes a service search, fall back, read more or bill otherwise is refused with a reason."""
    refusal = _refusal(parameters=parameters)
    assert f"{next(iter(parameters))!r}" in refusal
    assert words in refusal


@pytest.mark.parametrize("name", ["n", "best_of", "num_return_sequences", "stream"])
def test_parameters_that_change_nothing_are_dropped(name: str) -> None:
    """A parameter that asks for one answer, or for no stream, is accepted and dropped: the default is the same."""
    value = False if name == "stream" else 1
    assert _job(parameters={name: value, "seed": 1}) == _job(parameters={"seed": 1})


@pytest.mark.parametrize("options", [{"ttl": "30m"}, {"ttl": "5m"}, {"mode": "explicit"}])
def test_a_cache_of_the_usual_time_is_accepted(options: dict[str, str]) -> None:
    """A cache option whose writes cost no more than the reserved price is accepted."""
    assert _job(parameters={"prompt_cache_options": options}).parameters == {"prompt_cache_options": options}


@pytest.mark.parametrize("name", sorted(OUTPUT_LIMITS | REFUSED.keys() | OWNED))
def test_refused_parameters_are_refused(name: str) -> None:
    """A parameter that limits or raises the cost, changes the protocol or is a setting of its own is refused."""
    assert f"{name!r}" in _refusal(parameters={"temperature": 0, name: 2})


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "n",
        "best_of",
        "stream",
        "service_tier",
        "tools",
        "web_search_options",
        "store",
        "messages",
        "model",
        "response_format",
    ],
)
def test_the_dangerous_parameters_stay_on_the_list(name: str) -> None:
    """The parameters that the contract names as refused are refused."""
    assert name in _refusal(parameters={name: 2})


@pytest.mark.parametrize(
    "tool", [{"type": "web_search"}, {"type": "code_interpreter"}, {"type": "function"}, "search", {}]
)
def test_hosted_tools_are_refused(tool: Any) -> None:
    """A tool that the service bills in addition to tokens is refused, also among functions.

    Functions alone are accepted.
    """
    function = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    assert "'tools' may hold functions only" in _refusal(parameters={"tools": [function, tool]})
    assert "'tools' may hold functions only" in _refusal(parameters={"tools": tool})
    assert _job(parameters={"tools": [function]}).parameters == {"tools": [function]}


@pytest.mark.parametrize("name", ["temperature", "top_p", "seed", "stop", "reasoning_effort", "logit_bias"])
def test_harmless_parameters_are_passed_on(name: str) -> None:
    """A parameter that only shapes the answer is passed on."""
    assert _job(parameters={name: 1}).parameters == {name: 1}


def test_sharing_needs_something_to_share() -> None:
    """A shared limit without a number is refused, so that no one relies on a limit that does not hold."""
    limits = {"shared": "openai", "requests_per_minute": None, "tokens_per_minute": None}
    assert "`shared` needs a requests_per_minute or a tokens_per_minute" in _refusal(limits=limits)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "é", "a" * 65])
def test_names_that_a_server_cannot_keep_are_refused(name: str) -> None:
    """The name of a shared limit is refused if it cannot be part of an address."""
    assert "limits.shared" in _refusal(limits={"shared": name, "requests_per_minute": 10})


@pytest.mark.parametrize("text", ["a\nb", "a\r", "\tb", "a\x1b[2Jb", "\x7f", "a\u2028b", "a\u0085"])
def test_names_are_one_line(text: str) -> None:
    """A name that tables or the ledger show is refused if it holds a line break or another control character."""
    for changes in ({"name": text}, {"model": text}, {"labels": {text: "a"}}, {"labels": {"a": text}}):
        assert "holds a line break or another control character" in _refusal(**changes)
    assert "control character" in _refusal(endpoint={"name": text})
    assert _job(name="caf\u00e9 \N{FAMILY}\u200d\N{GIRL} {x}").name == "caf\u00e9 \N{FAMILY}\u200d\N{GIRL} {x}"


@pytest.mark.parametrize("uri", ["s3://bucket/x", "gs://bucket/x", "abfs://container@account/x"])
def test_addresses_of_stores(uri: str) -> None:
    """An input or an output can be in a store, a state cannot.

    An address that is not in a store is refused by the name of its setting.
    """
    assert (_job(input=uri).input, _job(output=uri).output) == (uri, uri)
    assert "`state` must be a local folder" in _refusal(state=uri)
    for other in ("file:///data/x", "https://host/x.parquet"):
        assert "`input`" in _refusal(input=other)


@pytest.mark.parametrize("zone", ["Paris", "Europe/Pariss", "CEST+1", "", "../../etc/passwd"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    """A time zone that does not exist is refused before a date is computed with it."""
    assert "is not a time zone" in _refusal(timezone=zone)
    assert str(_job(timezone="Europe/Paris").zone) == "Europe/Paris"


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ({"language": []}, "for_each.language"),
        ({"language": ["fr", "fr"]}, "paid for twice"),
        ({"language": ["1", 1]}, "mixes types"),
        ({"flag": [True, 1]}, "mixes types"),
        ({"two words": ["a"]}, "cannot be the name of a column"),
        ({"1st": ["a"]}, "cannot be the name of a column"),
        ({"": ["a"]}, "cannot be the name of a column"),
        ({"language": [None]}, "for_each.language"),
        ({"language": [["fr"]]}, "for_each.language"),
        ({"language": "fr"}, "for_each.language"),
    ],
)
def test_impossible_for_each_is_refused(each: dict[str, Any], expected: str) -> None:
    """A for_each is refused if its values would pay twice or have no common type, or if its name is not usable."""
    assert expected in _refusal(for_each=each)


def test_for_each_keeps_its_values() -> None:
    """Values of for_each do not change: a text that looks like a number stays text, and true stays true."""
    each = _job(for_each={"language": ["no", "fr"], "year": [1, 2], "flag": [True, False], "code": ["007"]}).for_each
    assert each is not None
    assert each["language"] == ["no", "fr"]
    assert [type(value) for value in each["year"]] == [int, int]
    assert each["flag"][0] is True
    assert each["code"] == ["007"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompt": {"system": "s", "user": "u"}}, "prompt.user"),
        ({"prompt": None, "messages_column": "m"}, "prompt.user"),
        ({"response_format": {"type": "object"}}, "response_format"),
    ],
)
def test_legacy_completions_take_one_text(changes: dict[str, Any], expected: str) -> None:
    """The legacy API has no roles and no schemas, so a job that sets them is refused."""
    assert expected in _refusal(endpoint={"api": "completions"}, **changes)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"endpoint": {"api": "assistants"}}, "endpoint.api"),
        ({"retry": {"in_doubt": "maybe"}}, "retry.in_doubt"),
        ({"budget": {"when_short": "ignore"}}, "budget.when_short"),
        ({"limits": {"count_output": "none"}}, "limits.count_output"),
        ({"labels": {"team": 5}}, "labels.team"),
        ({"name": ""}, "name"),
        ({"name": "x" * 81}, "name"),
        ({"model": ""}, "model"),
        ({"dedupe": "perhaps"}, "dedupe"),
        ({"endpoint": {"name": ""}}, "endpoint.name"),
        ({"budget": 5}, "budget"),
        ({"parameters": [1]}, "parameters"),
        ({"for_each": {"x": [0.5, float("nan")]}}, "for_each"),
        ({"for_each": {"x": [float("inf")]}}, "for_each"),
        ({"output": "out\0"}, "output"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any], where: str) -> None:
    """A value that means nothing is refused with the name of its setting."""
    assert _refusal(**changes).startswith(f"`{where}`")


HALF = "\ud83d"  # half of an emoji, as a JSON escape can produce it


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"labels": {"team": HALF}}, "labels"),
        ({"labels": {HALF: "search"}}, "labels"),
        ({"vars": {"glossary": [{"a": HALF}]}}, "vars"),
        ({"prompt": {"user": HALF}}, "prompt"),
        ({"for_each": {"x": [HALF]}}, "for_each"),
        ({"column_prefix": HALF}, "column_prefix"),
        ({"response_format": {"title": HALF}}, "response_format"),
        ({"endpoint": {"base_url": f"https://{HALF}/v1"}}, "endpoint"),
    ],
)
def test_half_a_character_is_refused(changes: dict[str, Any], where: str) -> None:
    """A text that UTF-8 cannot hold is refused with its setting's name, before anything is computed from it."""
    assert _refusal(**changes).startswith(f"`{where}`: holds half of a character")


@settings(max_examples=60)
@given(st.text(string.ascii_letters + string.digits, min_size=12, max_size=40))
def test_values_are_not_repeated_in_refusals(value: str) -> None:
    """A refusal never repeats a text that is in the wrong setting, since it may be private."""
    changes: list[dict[str, Any]] = [
        {"max_output_tokens": "x" + value},
        {"budget": {"run_usd": "x" + value}},
        {"endpoint": {"api_key_env": f"-{value}"}},
        {"endpoint": {"api": value}},
        {"labels": [value]},
        {"parameters": value},
    ]
    for change in changes:
        assert value not in _refusal(**change)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("top-p", "top_p"),
        ("topP", "top_p"),
        ("frequencyPenalty", "frequency_penalty"),
        ("reasoning_efort", "reasoning_effort"),
        ("reasoningEffort", "reasoning_effort"),
        ("tool_choise", "tool_choice"),
    ],
)
def test_a_parameter_that_is_nearly_one(name: str, meant: str) -> None:
    """A parameter with nearly a known name is refused with the right name: the service would ignore or refuse it."""
    assert f"{name!r} is unknown; did you mean {meant!r}?" in _refusal(parameters={name: 1})


@pytest.mark.parametrize("name", [*sorted(KNOWN), "foo", "my_gateways_own_setting", "x", "t"])
def test_other_parameters_are_passed_on(name: str) -> None:
    """A known parameter, and one that resembles none, is passed on."""
    assert near_miss(name) is None
