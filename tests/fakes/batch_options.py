"""The options of files and batches; on the command line `--batch='{"rows_per_s": 10}'`.

A batch passes these states in the time of `clock.py`. Options are read when a step happens, so a test can change them
while a batch is open.

    validating   for `validating_s`; then the whole input is checked: failed, or
    in_progress  `rows_per_s` rows are completed and billed, in a random order; after the last one
    finalizing   for `finalizing_s`; then
    completed    with its two files

A batch that is in progress `expire_after_s` after its creation is expired; a batch that is cancelled is `cancelling` for
`cancelling_s` and then cancelled. Both have the rows that are done in the output file, and the others as
`batch_expired` or `batch_cancelled` in the error file. A batch that is cancelled while it is validated has no files.

The dialect `azure` sets other defaults where an option is null: 100,000 rows, 500 files, no expiry, expiry times of
at least 14 days, its wording of the token limit and of a byte order mark; `/chat/completions` is an endpoint and the
batch shows the endpoint of its file; a create with a model that is not deployed answers a failed batch with `errors`;
`request_counts` is null until the input is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .api_faults import ApiRule, read_api_rules
from .option_kinds import BadOptionError, flag, number, one_of, option, or_none, positive, row_rules, text, whole

if TYPE_CHECKING:
    from .faults import Rule

DAY_S = 86_400
MIN_EXPIRY_S = {"openai": 3_600, "azure": 14 * DAY_S}
MAX_EXPIRY_S = 30 * DAY_S
_MAX_ROWS = {"openai": 50_000, "azure": 100_000}
_MAX_FILES = {"openai": None, "azure": 500}


def _token_limits(value: Any) -> dict[str, int]:
    if isinstance(value, dict):
        return {text(model): whole(limit) for model, limit in value.items()}
    return {"*": whole(value)}


def _api_rules(value: Any) -> tuple[ApiRule, ...]:
    try:
        return read_api_rules(value)
    except (TypeError, ValueError) as error:
        raise BadOptionError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How batches run, their limits, and how they misbehave."""

    dialect: str = option("openai", one_of("openai", "azure"), "see the module")
    validating_s: float = option(60.0, number, "how long the input is checked")
    rows_per_s: float = option(100.0, positive, "how fast rows are completed")
    finalizing_s: float = option(60.0, number, "how long the result files are written")
    cancelling_s: float = option(600.0, number, "how long a cancelled batch is still cancelling")
    cancelling_rows: int = option(0, whole, "rows that are still completed, and billed, while it is")
    expire_after_s: float | None = option(None, or_none(number), "null: 24 h, with Azure never")
    poll_advance_s: float = option(0.0, number, "how far each GET of a batch moves the clock, before it is answered")
    shuffle: bool = option(True, flag, "whether rows are completed in a random order")

    max_rows: int | None = option(None, or_none(whole), "rows in an input file; null: as the dialect")
    max_bytes: int = option(200_000_000, whole, "bytes of an input file; a larger upload is a 413")
    max_files: int | None = option(None, or_none(whole), "files of this account; null: as the dialect")
    enqueued_tokens: dict[str, int] | None = option(  # noqa: RUF009 - `option` is a field
        None, or_none(_token_limits), "prompt tokens of all open batches: a number, or {model: number}"
    )
    failed_hold_tokens: bool = option(False, flag, "failed batches count as open for the token limit")

    stuck: str | None = option(
        None, or_none(one_of("validating", "finalizing", "cancelling")), "the state that no batch leaves"
    )
    stall_after_rows: int | None = option(None, or_none(whole), "after these rows no further one is completed")
    fail_after_rows: int | None = option(None, or_none(whole), "after these rows the batch fails; they are paid")
    fail_with: str | None = option(None, or_none(text), "a code with which every batch fails validation")
    request_counts: str = option(
        "true", one_of("true", "null", "lagging", "all_completed", "zero"), "what the batch says about its rows"
    )
    counts_lag_s: float = option(600.0, number, "how old lagging counts are, also at the end")
    usage: str = option("sums", one_of("sums", "missing", "null", "wrong"), "what a batch that has ended says")
    no_errors: str = option(
        "null", one_of("null", "empty_text", "empty_file"), "the error_file_id of a batch without errors"
    )
    withhold_output: bool = option(False, flag, "output_file_id is null although rows were completed")
    errors_in_output: bool = option(False, flag, "lines of failed rows are in the output file")
    list_remainder: bool = option(True, flag, "rows that were not completed are in the error file")
    late_files_s: float = option(0.0, number, "how long the result files are 404 after the end")
    vanish_after_s: float | None = option(None, or_none(number), "age at which a batch is 404 and not listed")
    list_lag_s: float = option(0.0, number, "how long a new batch is not listed")
    long_line_bytes: int = option(80_000_000, whole, "length of the answer of a row with the fault long_line")
    row_faults: tuple[Rule, ...] = option((), row_rules, "rules for single rows, see faults.py")
    api_faults: tuple[ApiRule, ...] = option((), _api_rules, "rules for calls of the API, see api_faults.py")

    @property
    def is_azure(self) -> bool:
        """Return whether this is Azure's variant."""
        return self.dialect == "azure"

    @property
    def most_rows(self) -> int:
        """Return the limit on rows of a file."""
        return _MAX_ROWS[self.dialect] if self.max_rows is None else self.max_rows

    @property
    def most_files(self) -> int | None:
        """Return the limit on files."""
        return _MAX_FILES[self.dialect] if self.max_files is None else self.max_files

    @property
    def expiry_s(self) -> float | None:
        """Return the age at which a batch expires, or None."""
        if self.expire_after_s is None:
            return None if self.is_azure else DAY_S
        return self.expire_after_s

    def token_limit(self, model: str) -> int | None:
        """Return the limit on enqueued tokens of a model, or None."""
        limits = self.enqueued_tokens or {}
        return limits.get(model, limits.get("*"))
