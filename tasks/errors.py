"""Every error that Parquill raises on purpose, grouped by what the operator does next.

    ParquillError                exit 1    read the sentence
    ├── BadJob                   exit 2    correct the job file or the environment; nothing was sent
    ├── BadInput                 exit 2    correct the input; nothing was sent
    │   └── OtherRows            exit 2    name another output, or run without --redo and --limit; nothing was sent
    ├── FolderInUse              exit 2    wait for the run that is named, or choose another folder
    ├── RefusedByBudget          exit 3    raise the budget or make the job smaller; nothing was sent
    │   └── NotApproved          exit 3    have it approved, or raise `budget.approval_usd`; nothing was sent
    ├── StoppedByBudget          exit 4    raise the budget and run again: the run resumes where it stopped
    ├── TooManyNotOk             exit 5    look at the rows that are not ok, run again
    ├── Interrupted              exit 130  run again: the run resumes where it stopped
    ├── ServiceStopped           exit 1    settle it with the service (key, quota, endless 429), run again
    ├── DamagedJournal           exit 1    restore the journal from a backup; skipping the damage would pay twice
    ├── LedgerFailed             exit 1    check that the ledger's database answers, run again
    │   └── RunTakenOver         exit 1    leave the run to the process that has it now
    ├── DiskFailed               exit 1    make room or repair the disk, run again
    └── Unforeseen               exit 1    report its kind and place

Two are not among them: a RowFault makes one row `rejected`, and the run continues. WaitsForBatch ends the process of a
deployed run that is started again later.

A message is one sentence for a person. It never holds a key, a prompt or an answer, because it appears in Prefect's
states, logs and events.
"""

from __future__ import annotations

# What each exit code of the command means, and what to do next.
EXIT_CODES = {
    0: ("done", "nothing"),
    1: ("another error", "read the sentence"),
    2: ("the job or the input is bad; nothing was sent", "correct the job file, the environment or the input"),
    3: ("the budget refused the run, or it was not approved; nothing was sent", "raise the budget or approve the run"),
    4: ("the budget stopped the run on the way", "raise the budget, then run the same command: it resumes"),
    5: ("finished, but more rows are not ok than `tolerate.not_ok` allows", "look at these rows, then run again"),
    130: ("interrupted by Ctrl-C, a signal or a cancellation", "run the same command: it resumes"),
}


class ParquillError(Exception):
    """What Parquill refuses or could not do, in one sentence."""

    exit_code = 1


class BadJob(ParquillError):
    """The job's settings cannot be run as they stand."""

    exit_code = 2


class BadInput(ParquillError):
    """The input cannot be read, or too many of its rows cannot be sent."""

    exit_code = 2


class OtherRows(BadInput):
    """The input is not the one that the results were made from, so rows of those results cannot be kept."""


class FolderInUse(ParquillError):
    """Another run holds the output or the state folder."""

    exit_code = 2


class RefusedByBudget(ParquillError):
    """The expected cost does not fit; nothing was sent."""

    exit_code = 3


class NotApproved(RefusedByBudget):
    """A person declined, or no one answered; nothing was sent."""


class StoppedByBudget(ParquillError):
    """No further request fits the budget; the run stopped before its end."""

    exit_code = 4


class TooManyNotOk(ParquillError):
    """The run is finished, but more rows than tolerated are not ok."""

    exit_code = 5


class Interrupted(ParquillError):
    """A person or the system asked the run to stop; the answers so far are kept."""

    exit_code = 130


class ServiceStopped(ParquillError):
    """The service refuses every further request (key, quota, endless throttling)."""


class DamagedJournal(ParquillError):
    """A journal is damaged in the middle: skipping it would pay for its rows again."""


class LedgerFailed(ParquillError):
    """The ledger's database does not answer, so it is unknown what may be spent."""


class RunTakenOver(LedgerFailed):
    """Another process has opened the run since, so this one may no longer spend for it."""


class DiskFailed(ParquillError):
    """Writing or syncing failed, so no further request may be sent."""


class Unforeseen(ParquillError):
    """An unexpected error, reported by its kind and place only."""


class WaitsForBatch(Exception):
    """The batches of a deployed run take longer than its process stays. The message says what it waits for."""

    def __init__(self, message: str, due_at: float | None = None) -> None:
        """`due_at` is when to look again at the latest, in seconds since 1970."""
        super().__init__(message)
        self.due_at = due_at


class RowFault(Exception):
    """Why one row cannot be sent: an error code from the closed set, and a sentence without the row's values."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def error_of(exit_code: int, message: str) -> ParquillError | None:
    """Return the error that a summary records, or None; errors with exit code 1 all become ParquillError."""
    if not exit_code:
        return None
    kinds = {kind.exit_code: kind for kind in (StoppedByBudget, TooManyNotOk, Interrupted)}
    return kinds.get(exit_code, ParquillError)(message)
