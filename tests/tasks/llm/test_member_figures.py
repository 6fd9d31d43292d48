"""What the processes that joined a run have done, as the process that leads it reads it."""

from __future__ import annotations

from pathlib import Path

from parquill.tasks.llm.member_figures import MemberFigures, MemberFile, forget_members, read_members
from parquill.tasks.llm.progress import Progress
from parquill.tasks.storage.folders import RunFolder


def test_the_figures_of_all_processes_add_up(tmp_path: Path) -> None:
    """The leader reads the sums, and each warning once; a process that writes again replaces its own figures."""
    folder = RunFolder(tmp_path)
    assert read_members(folder) == MemberFigures()
    one, two = MemberFile(folder), MemberFile(folder)
    one.write(MemberFigures(5, 1, 2, 700, 30, ("slow",)))
    two.write(MemberFigures(1))
    two.write(MemberFigures(3, 0, 0, 200, 0, ("slow", "down")))
    assert read_members(folder) == MemberFigures(8, 1, 2, 900, 30, ("slow", "down"))
    forget_members(folder)
    assert read_members(folder) == MemberFigures()


def test_files_that_cannot_be_read_or_written_cost_nothing(tmp_path: Path) -> None:
    """A file that a killed process left, and a folder that cannot be written, cost only what is shown."""
    folder = RunFolder(tmp_path)
    MemberFile(folder).write(MemberFigures(4))
    for name, text in {"1-a.json": "{", "2-b.json": '{"unknown": 1}', "3-c.json": "[]"}.items():
        (tmp_path / "members" / name).write_text(text)
    assert read_members(folder) == MemberFigures(4)
    (tmp_path / "file").write_text("")
    MemberFile(RunFolder(tmp_path / "file")).write(MemberFigures(1))


def test_progress_counts_the_rows_of_all_processes() -> None:
    """Rows per second and the time left follow from the rows that this start has completed, in whatever process."""
    progress = Progress(total=100, done=10, done_before=10, started=0.0).with_members(MemberFigures(50, 2, 10))
    assert (progress.done, progress.not_ok, progress.left) == (60, 2, 40)
    assert progress.rate(20.0) == 2.0
    assert progress.eta_s(20.0) == 20.0
