"""Every error that Parquill raises on purpose, split by what the operator does next.

    ParquillError                exit 1    read the sentence
    ├── BadJob                   exit 2    correct the job file or the environment; nothing was sent
    ├── BadInput                 exit 2    correct the input; nothing was sent
    │   └── OtherRows            exit 2    name another output, or run without --redo and --limit; nothing was sent
    ├── FolderInUse              exit 2    wait for the run that is named, or choose another folder
    ├── RefusedByBudget          exit 3    raise the budget or make the job smaller; nothing was sent
    │   └── NotApproved          exit 3    have it approved, or raise `budget.approval_usd`; nothing was sent
    ├── StoppedByBudget          exit 4    raise the budget and run again: it goes on where it stopped
    ├── TooManyNotOk             exit 5    look at the rows that are not ok, run again
    ├── Interrupted              exit 130  run again: it goes on where it stopped
    ├── ServiceStopped           exit 1    settle it with the service (key, quota, endless 429), run again
    ├── DamagedJournal           exit 1    restore the journal from a backup; nothing is skipped, that would pay twice
    ├── LedgerFailed             exit 1    see that the ledger's database answers, run again
    │   └── RunTakenOver         exit 1    leave the run to the process that has it now
    ├── DiskFailed               exit 1    make room or repair the disk, run again
    └── Unforeseen               exit 1    report its kind and place

A RowFault is none of them: it makes one row `rejected`, and the run goes on.

A message is one sentence for a person. It never holds a key, a prompt or an answer: states, logs and events of
Prefect carry it.
"""

from __future__ import annotations


class ParquillError(Exception):
    """Something that Parquill refuses or could not do, in one sentence."""

    exit_code = 1


class BadJob(ParquillError):
    """The job's settings cannot be run as they stand."""

    exit_code = 2


class BadInput(ParquillError):
    """The input cannot be read, or too many of its rows cannot be sent."""

    exit_code = 2


class OtherRows(BadInput):
    """The input is not the one that the results were made from, so their rows cannot be kept."""


class FolderInUse(ParquillError):
    """Another run holds the output or the state folder."""

    exit_code = 2


class RefusedByBudget(ParquillError):
    """The expected cost does not fit; nothing was sent."""

    exit_code = 3


class NotApproved(RefusedByBudget):
    """A person declined, or nobody answered; nothing was sent."""


class StoppedByBudget(ParquillError):
    """On the way, nothing more fitted into the budget."""

    exit_code = 4


class TooManyNotOk(ParquillError):
    """The run is finished, but more rows than tolerated are not ok."""

    exit_code = 5


class Interrupted(ParquillError):
    """A person or the system asked the run to stop; what was answered is kept."""

    exit_code = 130


class ServiceStopped(ParquillError):
    """The service refuses every further request (key, quota, endless throttling)."""


class DamagedJournal(ParquillError):
    """A journal is damaged in the middle: skipping it would pay for its rows again."""


class LedgerFailed(ParquillError):
    """The ledger's database does not answer, so nobody knows what may be spent."""


class RunTakenOver(LedgerFailed):
    """Another process opened the run anew, so this one may not spend for it any more."""


class DiskFailed(ParquillError):
    """Writing or syncing failed, so no further request may be sent."""


class Unforeseen(ParquillError):
    """Something that nobody foresaw, told by its kind and place only."""


class RowFault(Exception):
    """What makes one row unfit to be sent: a code from the closed set, and a sentence without its values."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def error_of(exit_code: int, message: str) -> ParquillError | None:
    """The error that a summary tells of, None for none; which of those with exit code 1 it was, is lost."""
    if not exit_code:
        return None
    kinds = {kind.exit_code: kind for kind in (StoppedByBudget, TooManyNotOk, Interrupted)}
    return kinds.get(exit_code, ParquillError)(message)
