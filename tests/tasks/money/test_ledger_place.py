"""A ledger location that cannot be used is refused by name, and the refusal says what to set."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from parquill.tasks.errors import LedgerFailed
from parquill.tasks.money.ledger import Ledger


def _refused() -> str:
    with pytest.raises(LedgerFailed) as caught:
        Ledger()
    return str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal names the missing folder of PARQUILL_LEDGER_URL."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path}/none/ledger.sqlite")
    assert _refused() == f"the ledger's folder {tmp_path}/none does not exist; create it, or change PARQUILL_LEDGER_URL"
    (tmp_path / "none").mkdir()
    Ledger().close()


def test_a_state_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the user's state folder cannot be created, the refusal names both variables that set another location."""
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("PARQUILL_LEDGER_URL", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    refusal = _refused()
    assert f"{tmp_path}/file/parquill cannot be created" in refusal
    assert "XDG_STATE_HOME" in refusal
    assert "PARQUILL_LEDGER_URL" in refusal


def test_a_folder_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without write permission is named before SQLite fails in its own words."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.sqlite")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path or not mode & os.W_OK)
    assert f"the ledger {tmp_path}/ledger.sqlite cannot be written" in _refused()


def test_a_ledger_of_an_earlier_version(tmp_path: Path) -> None:
    """A ledger that knows no submitted money is refused, and stays as it is."""
    place = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(place)
    connection.execute("create table parquill_meta (name varchar(40) primary key, value varchar(200))")
    connection.execute("insert into parquill_meta values ('version', '4')")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerFailed, match="the ledger has the version 4, and this Parquill knows only version 6"):
        Ledger(f"sqlite:///{place}")
    connection = sqlite3.connect(place)
    assert [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")] == [
        "parquill_meta"
    ]
    connection.close()
