"""The settings of a job, validated once when they come in; the code behind relies on their types.

The same mapping is the YAML job file, the `job` parameter of the flows and the form that Prefect's UI draws. A secret
is never a setting, only the name of the environment variable or Prefect Secret block that holds it. `load` turns a file
into this model (YAML 1.2, `--set`, dates, one-sentence errors).
"""

from __future__ import annotations

import functools
import math
import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, ValidationError, WithJsonSchema, field_validator, model_validator

from parquill.tasks.job.base import Number, OneLine, Settings, refuse_surrogates
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.engine_settings import EngineSettings
from parquill.tasks.job.finish_by import PATTERN as FINISH_BY
from parquill.tasks.job.finish_by import check_finish_by
from parquill.tasks.job.lanes import LANES_OF_API, LaneSetting
from parquill.tasks.job.limit_settings import LimitSettings
from parquill.tasks.job.parameters import own_parameters, refuse_unwritable
from parquill.tasks.job.price_settings import PriceSettings
from parquill.tasks.job.response_format import one_form
from parquill.tasks.job.weighted_endpoint import MAX_ENDPOINTS, WeightedEndpoint, check_endpoints, labels_of
from parquill.tasks.storage.uri import check_uri, is_uri

MAX_PATIENCE_S = 604_800.0  # a week
# Rows that `for_each` makes of one input row: they are in memory together.
MAX_FOR_EACH_ROWS = 10_000


# it reads a folder of 600 files, and one run checks its job several times
_zones = functools.cache(available_timezones)

# in the schema that pydantic writes, the text branch has no pattern, so a form would accept "ten"
_POSITIVE = {"type": "string", "pattern": r"^(?=.*[1-9])\d{1,7}(\.\d{1,9})?$"}
_USD = {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 10_000_000}, _POSITIVE]}
Usd = Annotated[
    Decimal,
    Field(gt=0, le=Decimal(10_000_000), allow_inf_nan=False, decimal_places=9),
    Number,
    WithJsonSchema(_USD),
]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Number]
Status = Literal[
    "ok",
    "truncated",
    "invalid",
    "refused",
    "failed",
    "rejected",
    "not_sent",
]
Scalar = str | int | float | bool
MAX_ROWS = 10**12  # of an input; `limit` is part of a plan's digest, which holds no larger numbers
JobName = Annotated[str, Field(min_length=1, max_length=80, pattern=r"\S"), OneLine]
RowLimit = Annotated[int, Field(ge=1, le=MAX_ROWS), Number]


class PromptSettings(Settings, title="Prompt"):
    """Jinja2 templates over the columns, the `for_each` values and `vars`."""

    system: str | None = Field(
        None, description="Template of the system message, which goes before the text of every row"
    )
    user: str = Field(description="Template of the row's own text, for example {{ text }}")


class BudgetSettings(Settings, title="Budget"):
    """What a run may cost; left out means no limit."""

    run_usd: Usd | None = Field(None, description="The most that one run may cost, in dollars")
    soft_fraction: Annotated[float, Field(gt=0, le=1), Number] = Field(
        0.8, description="A warning, an artifact and an event once more than this fraction of a budget is spent"
    )
    monthly_usd: Usd | None = Field(None, description="The most that all jobs may cost in a month (UTC), in dollars")
    approval_usd: Usd | None = Field(None, description="Above this expected cost, in dollars, a person must approve")
    when_short: Literal["refuse", "partial"] = Field(
        "refuse", description="At the gate: refuse the run, or complete what fits"
    )
    pilot: Literal["auto", "never"] = Field(
        "auto",
        description="auto: a first run whose worst case does not fit completes a pilot, for at most 1 % of the budget, "
        "and the gate decides on what it cost; never: such a run is refused. With when_short: partial there is no "
        "pilot, since what fits is completed anyway",
    )


class RetrySettings(Settings, title="Retry"):
    """What happens to a request that fails."""

    attempts: Annotated[int, Field(ge=1, le=100), Number] = Field(
        6, description="Requests for one row in total, across restarts"
    )
    timeout_s: Annotated[float, Field(gt=0, le=3600), Number] = Field(
        120, description="Seconds for one request; the default with lane: flex is 900"
    )
    in_doubt: Literal["resend", "hold"] = Field(
        "resend", description="A request that may have been billed: send it again, or hold the row as failed"
    )
    patience_s: Annotated[float, Field(gt=0, le=MAX_PATIENCE_S), Number] = Field(
        1800,
        description="Seconds that a run continues while every request fails or gets 429; then it stops. The default "
        "with lane: flex is 21600",
    )


class ToleranceSettings(Settings, title="Tolerate"):
    """Fractions of the rows."""

    rejected: Fraction = Field(0.01, description="If more rows than this are bad, the run stops before any payment")
    not_ok: Fraction = Field(0.0, description="The run succeeds if at most this fraction of the rows is not ok")


class Job(Settings):
    """One job: prompts in Parquet, completions in Parquet, within a budget."""

    name: JobName = Field(description="Names the job in the UI and in the ledger")
    input: str = Field(
        min_length=1,
        description="Parquet, CSV or JSONL: file, folder, glob or URI; {date}, {date-1}, {month}: the scheduled day",
    )
    output: str = Field(min_length=1, description="Folder or URI of results, summary and report; {date} as in input")
    state: str | None = Field(
        None,
        min_length=1,
        description="Local folder of journals and paid answers; default OUTPUT/.parquill. Jobs "
        "that share it reuse each other's answers",
    )
    timezone: str = Field("UTC", description="Time zone of {date} in paths, for example Europe/Paris")
    id_column: str | None = Field(None, description="Column that identifies a row; unique and never null")
    for_each: dict[str, Annotated[list[Scalar], Field(min_length=1)]] | None = Field(
        None, description="One row of output for each value, for example {language: [fr, de]}"
    )
    vars: dict[str, Any] | str | None = Field(
        None,
        description="A mapping for the templates, or a file that holds one; a value that ends in .yaml, .yml or .json "
        "is replaced by the content of that file",
    )
    prompt: PromptSettings | None = Field(
        None, description="Templates of the request; a plain text means `prompt.user`"
    )
    messages_column: str | None = Field(
        None, description="Column of chat messages, instead of `prompt`: lists of structs, or JSON text"
    )
    model: Annotated[str, OneLine] = Field(min_length=1, description="The model's name, as the service knows it")
    lane: LaneSetting = Field(
        "live",
        description="How completions are bought. live: at the standard price; flex: at about half of it, slower, where "
        "the service sells flex processing for the model; batch: at half of it, within 24 hours, by the Batch API; "
        "auto: flex, or batch where there is no flex, and live for what would not be done by `finish_by`",
    )
    finish_by: Annotated[str, WithJsonSchema({"type": "string", "pattern": FINISH_BY})] | None = Field(
        None,
        description="With lane: auto, when the run is to be done: a time of day in `timezone`, such as 06:00, or a "
        "duration from the start of the run, such as 8h or 1h30m. Default: the run stays in the cheaper lane",
    )
    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000), Number] = Field(
        description="The longest answer in tokens; it bounds what a row can cost"
    )
    response_format: dict[str, Any] | str | None = Field(
        None,
        description="JSON schema, or a file that holds one; {type: json_schema, strict: false, schema: ...}; or "
        "{type: json_object}",
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Sent with every request as they are, for example {reasoning_effort: none}"
    )
    parameters_column: str | None = Field(
        None, description="Column of parameters that override `parameters` row by row"
    )
    endpoint: Endpoint = Field(
        default_factory=lambda: Endpoint.model_validate({}), description="Where requests go; default OpenAI"
    )
    endpoints: Annotated[list[WeightedEndpoint], Field(min_length=1, max_length=MAX_ENDPOINTS)] | None = Field(
        None,
        description="Instead of `endpoint`: several that share the rows, each with its own `weight`, `limits`, `model` "
        "and `price`",
    )
    price: PriceSettings | None = Field(None, description="For models without a public price; 0 if there is no charge")
    price_as: str | None = Field(None, description="A model at whose price the summary also shows the usage")
    tokenizer: str | None = Field(
        None, min_length=1, description="Name of an encoding, for a model whose own tokenizer is not public"
    )
    budget: BudgetSettings = Field(
        default_factory=lambda: BudgetSettings.model_validate({}),
        description="What a run and a month may cost; default: no limit",
    )
    limits: LimitSettings = Field(
        default_factory=lambda: LimitSettings.model_validate({}), description="How fast requests may be sent"
    )
    engine: EngineSettings = Field(
        default_factory=lambda: EngineSettings.model_validate({}), description="Where the run is completed"
    )
    retry: RetrySettings = Field(
        default_factory=lambda: RetrySettings.model_validate({}), description="What happens to a request that fails"
    )
    dedupe: bool = Field(True, description="Send identical requests once, and pay for them once; false to sample")
    tolerate: ToleranceSettings = Field(
        default_factory=lambda: ToleranceSettings.model_validate({}),
        description="How many bad or failed rows are tolerated",
    )
    column_prefix: str = Field("", description="Put before the result columns when an input column has their name")
    labels: dict[Annotated[str, OneLine], Annotated[str, OneLine]] = Field(
        default_factory=dict, description="Kept in the ledger and shown, for example {team: search}"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        # promise: input: a setting with an unpaired surrogate is refused
        return refuse_surrogates(value)

    @field_validator("prompt", mode="before", json_schema_input_type=PromptSettings | str | None)
    @classmethod
    def _user_alone(cls, value: Any) -> Any:
        # a plain text is the template of the user's message
        return {"user": value} if isinstance(value, str) else value

    @field_validator("input", "output", "state")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("holds a NUL character, which no path can have")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in _zones():
            raise ValueError(f"{value!r} is not a time zone; write for example Europe/Paris or UTC")
        return value

    @field_validator("finish_by")
    @classmethod
    def _finish_by(cls, value: str | None) -> str | None:
        if value is not None:
            check_finish_by(value)
        return value

    @field_validator("parameters")
    @classmethod
    def _own_parameters(cls, value: dict[str, Any]) -> dict[str, Any]:
        kept = own_parameters(value)
        refuse_unwritable(kept)
        return kept

    @field_validator("response_format")
    @classmethod
    def _one_form(cls, value: dict[str, Any] | str | None) -> dict[str, Any] | str | None:
        refuse_unwritable(value)
        return one_form(value) if isinstance(value, dict) else value

    @field_validator("for_each")
    @classmethod
    def _distinct(cls, value: dict[str, list[Scalar]] | None) -> dict[str, list[Scalar]] | None:
        for name, values in (value or {}).items():
            if not re.fullmatch(r"[^\W\d]\w*", name):
                raise ValueError(f"{name!r} cannot be the name of a column and of a template variable")
            if len({(type(v), v) for v in values}) != len(values):
                raise ValueError(f"{name!r} has a value twice, which would be paid for twice")
            if any(isinstance(v, int) and not -(2**63) <= v < 2**63 for v in values):
                raise ValueError(f"{name!r} has a number that no 64-bit column holds")
            if any(isinstance(v, float) and not math.isfinite(v) for v in values):
                raise ValueError(f"{name!r} has a value that is not a finite number")
            if len({type(v) for v in values}) != 1:
                raise ValueError(f"{name!r} mixes types; a column has one (quote the values to make them text)")
        rows = math.prod(len(values) for values in (value or {}).values())
        if rows > MAX_FOR_EACH_ROWS:
            raise ValueError(f"makes {rows:,} rows of each input row; at most {MAX_FOR_EACH_ROWS:,} are allowed")
        return value

    @model_validator(mode="after")
    def _several(self) -> Self:
        if self.endpoints is None:
            return self
        check_endpoints(self.endpoints)
        if self.lane in {"batch", "auto"}:
            raise ValueError(f"`lane: {self.lane}` takes one `endpoint`: with `endpoints`, use `lane: live` or flex")
        for number, each in enumerate(self.endpoints):
            try:
                _ = each.limits and each.limits.over(self.limits)
            except ValidationError as error:
                text = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"`endpoints.{number}.limits`: {text}") from None
        first = self.endpoints[0].alone
        # a job that was stored has both
        if "endpoint" in self.model_fields_set and self.endpoint != first:
            raise ValueError("set either `endpoint` or `endpoints`")
        # its name or address is in request keys, and its API in requests; the model is frozen for everyone else
        self.__dict__["endpoint"] = first
        return self

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.prompt is None) == (self.messages_column is None):
            raise ValueError("set either `prompt` or `messages_column`")
        if self.endpoint.api == "completions":
            if self.prompt is None or self.prompt.system is not None:
                raise ValueError("`api: completions` takes one text: use `prompt.user` alone")
            if self.response_format is not None:
                raise ValueError("`api: completions` does not support `response_format`")
        for name in ("input", "output"):
            if is_uri(value := getattr(self, name)):
                try:
                    check_uri(value, is_written=name == "output")
                except ValueError as error:
                    raise ValueError(f"`{name}` {error}") from None
        if self.state and is_uri(self.state):
            raise ValueError("`state` must be a local folder: journals are synced and locked, which no store can do")
        return self

    @model_validator(mode="after")
    def _one_lane(self) -> Self:
        if self.lane in {"batch", "auto"} and self.engine.kind != "threads":
            raise ValueError(f"`lane: {self.lane}` is planned in one process: leave `engine` out")
        if self.lane == "auto":
            if self.price is not None:
                raise ValueError("`lane: auto` compares public prices: with `price`, name the lane that it is for")
            return self
        if self.finish_by is not None:
            raise ValueError("`finish_by` needs `lane: auto`, which moves rows to a faster lane in time")
        if self.lane not in LANES_OF_API[self.endpoint.api]:
            raise ValueError(f"`api: {self.endpoint.api}` has no {self.lane} processing: use `lane: live`")
        return self

    @property
    def each_endpoint(self) -> list[Self]:
        """The job as it is sent to each of its endpoints: the same job, with one endpoint, its model and its limits."""
        if self.endpoints is None:
            return [self]
        return [
            self.model_copy(
                update={
                    "endpoint": each.alone,
                    "endpoints": None,
                    "model": each.model or self.model,
                    # the job's own price is that of its model
                    "price": each.price or (self.price if each.model in {None, self.model} else None),
                    "limits": self.limits if each.limits is None else each.limits.over(self.limits),
                }
            )
            for each in self.endpoints
        ]

    @property
    def parts(self) -> int:
        """In how many processes the run is completed at the same time."""
        return self.engine.parts(min(each.limits.max_at_once for each in self.each_endpoint))

    @property
    def labels_of_endpoints(self) -> list[str]:
        """What people call each endpoint, in the order of `each_endpoint`."""
        return [self.endpoint.label] if self.endpoints is None else labels_of(self.endpoints)

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of `{date}` and of schedules."""
        return ZoneInfo(self.timezone)
