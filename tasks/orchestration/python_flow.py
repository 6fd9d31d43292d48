"""Flows that are called from Python: what they take besides settings, and what they show meanwhile.

Prefect stores the parameters of a flow run on its server. So before the flow run begins, a table is kept as a file in
the job's state folder, and a job file is read. What Prefect stores are settings and paths.

    run = complete_prompts("job.yaml", input=frame, settings={"budget.run_usd": 5})
    run.to_pandas()
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import date as Date  # noqa: N812 - a parameter below is called `date`
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar, cast

from prefect import Flow
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job, merge, nest, read_job_file
from parquill.tasks.job.settings import Job, Status
from parquill.tasks.job.size import check_size
from parquill.tasks.llm.progress_bar import show_progress_of_python
from parquill.tasks.orchestration.options import flow_options
from parquill.tasks.orchestration.ui import flow_run_name
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.results.completed_run import CompletedRun
from parquill.tasks.results.cost_estimate import CostEstimate
from parquill.tasks.storage.kept_table import is_table, keep_table

if TYPE_CHECKING:
    from parquill.tasks.storage.kept_table import Table

    # the parameter `input` of a ready flow, as Python code gives it
    Input: TypeAlias = Table | str | os.PathLike[str]
else:
    Input = str  # as Prefect sees it

Given = ParamSpec("Given")
Result = TypeVar("Result")
Kind = TypeVar("Kind", bound="PythonFlow[..., Any]")
JobSource: TypeAlias = Job | Mapping[str, Any] | str | os.PathLike[str]
START_TIMEOUT_S = 120  # of Prefect's temporary server, which takes long on a busy machine; Prefect's default is 20
_PLACES = ("output", "state", "timezone")
_ANY: dict[str, Any] = {"name": "any", "input": "any", "prompt": "any", "model": "any", "max_output_tokens": 1}


class PythonFlow(Flow[Given, Result]):
    """A flow that may get a DataFrame or an Arrow table as `input`, and that shows its progress."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Send a process of an engine the name of the flow, since what a flow holds cannot be pickled."""
        return _flow_named, (self.fn.__module__, self.fn.__name__)

    # Prefect can return the state of a flow run instead; here the result is what a caller wants, or the error
    def __call__(self, *args: Given.args, **kwargs: Given.kwargs) -> Result:  # type: ignore[override]
        """Run the flow and return its result. Raises a ParquillError, whose `exit_code` is that of the command."""
        bound = signature(self.fn).bind_partial(*args, **kwargs).arguments
        settings = bound.get("settings")
        if isinstance(settings, Mapping):
            bound["settings"] = nest(settings)
        if "input" in bound:
            places = {**(bound.get("settings") or {}), "output": bound.get("output")}
            bound["input"] = _path_of(bound["input"], places, bound.get("date"))
        return self._run(bound)

    def with_options(self, *args: Any, **kwargs: Any) -> Any:
        """Return a copy of the flow with other options of Prefect."""
        changed: Any = super().with_options(*args, **kwargs)
        # promise: api: a flow with other options sends no table to Prefect either
        changed.__class__ = type(self)
        return changed

    def _run(self, parameters: Mapping[str, Any]) -> Result:
        _refuse_tables(parameters)
        defaults = {
            PREFECT_SERVER_ANALYTICS_ENABLED: False,
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: START_TIMEOUT_S,
        }
        with temporary_settings(set_defaults=defaults), show_progress_of_python():
            result: Result = cast("Any", super()).__call__(**parameters)
        return result


class JobFlow(PythonFlow[..., Result]):
    """A flow of any job: a job file, a mapping of settings, or a Job."""

    def _run_job(
        self,
        job: JobSource,
        input: Table | str | os.PathLike[str] | None,  # noqa: A002 - the setting's name
        settings: Mapping[str, Any] | None,
        date: Date | None,
        **parameters: Any,
    ) -> Result:
        if isinstance(job, str | os.PathLike):
            job = read_job_file(Path(job))
        changes = nest(settings or {})
        if input is not None and "input" in changes:
            raise BadJob("`settings.input` is the parameter `input` of this flow; set it there")
        if isinstance(job, Job) and (changes or input is not None):
            job = job.model_dump(exclude_unset=True)  # it is validated again
        if isinstance(job, Mapping):  # the flow refuses anything else
            job = merge(job, changes)
            if input is not None:
                job["input"] = _path_of(input, job, date)
        _refuse_tables(job)
        _check_size(job)
        return self._run({"job": job, "date": date, **parameters})


class CompletePrompts(JobFlow[CompletedRun]):
    """The flow `complete_prompts`."""

    def __call__(  # type: ignore[override]  # see PythonFlow
        self,
        job: JobSource,
        *,
        input: Table | str | os.PathLike[str] | None = None,  # noqa: A002 - the setting's name
        settings: Mapping[str, Any] | None = None,
        date: Date | None = None,
        limit: int | None = None,
        redo: Sequence[Status] | None = None,
    ) -> CompletedRun:
        """Complete every prompt of a job within its budget, and return the run with its results.

            run = complete_prompts("job.yaml", input=frame, settings={"budget.run_usd": 5})
            run.to_pandas()

        Args:
            job: A job file, or the mapping that such a file holds.
            input: Rows instead of those of the job: a DataFrame, an Arrow table, or a path.
            settings: Settings that override those of the job: {"budget.run_usd": 5} or {"budget": {"run_usd": 5}}.
            date: The day of `{date}` in paths and of prices; default today in the job's time zone.
            limit: Complete only the first rows of the input.
            redo: Statuses of finished rows to complete again.

        Raises:
            ParquillError: With one sentence, and the `exit_code` of the command. Before anything is sent: BadJob,
                BadInput, RefusedByBudget, NotApproved. Later: StoppedByBudget, TooManyNotOk, Interrupted.
        """
        parameters = {"limit": limit, "redo": None if redo is None else list(redo)}
        return self._run_job(job, input, settings, date, **parameters)


class EstimateCost(JobFlow[CostEstimate]):
    """The flow `estimate_cost`."""

    def __call__(  # type: ignore[override]  # see PythonFlow
        self,
        job: JobSource,
        *,
        input: Table | str | os.PathLike[str] | None = None,  # noqa: A002 - the setting's name
        settings: Mapping[str, Any] | None = None,
        date: Date | None = None,
        limit: int | None = None,
        pilot: int | Literal["auto"] | None = None,
    ) -> CostEstimate:
        """Return what a job would cost; it sends nothing but the pilot that is asked for.

            estimate = estimate_cost("job.yaml", input=frame)
            print(estimate.cost_usd_worst, estimate.fits_budget)

        Args:
            job: A job file, or the mapping that such a file holds.
            input: Rows instead of those of the job: a DataFrame, an Arrow table, or a path.
            settings: Settings that override those of the job: {"model": "gpt-6-luna"}.
            date: The day of `{date}` in paths and of prices; default today in the job's time zone.
            limit: Estimate only the first rows of the input.
            pilot: Complete and pay for this many rows first. auto: as many as an estimate within ±5 % needs.

        Raises:
            ParquillError: BadJob, BadInput if the job cannot run. A cost that does not fit is no error: see
                `fits_budget`.
        """
        return self._run_job(job, input, settings, date, limit=limit, pilot=pilot)


def python_flow(name: str) -> Callable[[Callable[Given, Result]], PythonFlow[Given, Result]]:
    """Make a flow of a function whose parameters Python code and Prefect's form share."""

    def make(body: Callable[Given, Result]) -> PythonFlow[Given, Result]:
        return PythonFlow(body, name=name, flow_run_name=flow_run_name(), **flow_options())

    return make


def job_flow(kind: type[Kind], name: str, what: str | None = None) -> Callable[[Callable[..., Any]], Kind]:
    """Make a flow of any job; its run is named after the job and `what` it does."""
    return lambda body: kind(body, name=name, flow_run_name=flow_run_name(what), **flow_options())


def _flow_named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _path_of(given: Any, settings: Mapping[str, Any], day: Date | None) -> Any:
    """Return the path of an input. A table is kept in the state folder that the settings name. Raises BadJob."""
    if not is_table(given):
        return os.fspath(given) if isinstance(given, os.PathLike) else given
    places = {name: settings[name] for name in _PLACES if settings.get(name) is not None}
    resolved, _ = resolve_job(make_job({**_ANY, **places}), day if isinstance(day, Date) else None, None, None)
    # doubled braces: a path of a job may contain dates
    return str(keep_table(given, Path(resolved.state))).replace("{", "{{").replace("}", "}}")


def _refuse_tables(given: Any) -> None:
    # promise: api: a table in a job or in settings is refused before Prefect stores it
    if _holds_table(given):
        raise BadJob("a table is given as the parameter `input` of the flow, not inside a job or its settings")


def _holds_table(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_table, value.values()))
    return any(map(_holds_table, value)) if isinstance(value, list | tuple) else is_table(value)


def _check_size(job: Any) -> None:
    """Refuse a job that Prefect would refuse for its size. Raises BadJob. The flow itself refuses an invalid one."""
    try:
        made = make_job(job)
    except BadJob:
        return
    check_size(made)
