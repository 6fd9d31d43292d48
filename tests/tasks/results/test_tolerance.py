"""Rows that are not ok are reported with the setting that limits them."""

from __future__ import annotations

from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.job.settings import ToleranceSettings
from parquill.tasks.results.report_plan import ReportPlan
from parquill.tasks.results.result_batch import ResultBatch
from parquill.tasks.results.tolerance import check_not_ok, warn_of_not_ok
from tests.tasks.results.result_rows import failed_row, table_of

ROWS = {"total": 275, "ok": 200, "failed": 75}


def _job(not_ok: float) -> ResolvedJob:
    return ResolvedJob.model_construct(output="out", tolerate=ToleranceSettings(rejected=0, not_ok=not_ok))


def test_what_is_tolerated_is_told_with_the_whole() -> None:
    """Tolerated failed rows are reported with the total and the setting that allows them.

    Beyond that they are an error.
    """
    warning = warn_of_not_ok(_job(0.9), ROWS, {"bad_request": 75})
    assert warning == "warning: 75 of 275 rows are not ok (bad_request 75), which tolerate.not_ok = 0.9 allows"
    assert check_not_ok(_job(0.9), ROWS, {"bad_request": 75}) is None
    assert "more than tolerate.not_ok = 0.2 allows" in str(check_not_ok(_job(0.2), ROWS, {"bad_request": 75}))


def test_the_first_row_that_is_not_ok_shows_its_reason() -> None:
    """The error for too many failed rows names one of them, with the service's own reason."""
    row = failed_row(1204, error_message="the service refused the request")
    first = ResultBatch(table_of([row]).to_batches()[0], ReportPlan()).row(0)
    error = check_not_ok(_job(0.2), ROWS, {"bad_request": 75}, first)
    assert str(error).endswith("lists them. The first is row 1,204 of in.parquet: the service refused the request")
