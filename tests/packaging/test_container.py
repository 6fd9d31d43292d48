"""The Dockerfile and the compose file follow the rules, without Docker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.packaging.dockerfile import environment_of, read_steps, sent_files, words_of
from tests.packaging.tree import ROOT, copy_tree

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = read_steps(DOCKERFILE)
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = YAML(typ="safe").load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
PINNED = re.compile(r"[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z]+)*( AS \w+)?")
SECRET = re.compile(r"(?i)password|token|key|secret")


@pytest.mark.skipif(sys.platform != "linux", reason="the package that carries hadolint is locked for Linux only")
def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    """Hadolint, the linter of Dockerfiles and of the shell in them, finds nothing."""
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_base_images_are_pinned() -> None:
    """Each image is named by its version, and all stages have the same Python as the lock."""
    images = [step.argument for step in STEPS if step.name == "FROM"]
    assert {image.partition(":")[0] for image in images} == {"python"}
    assert {image.split()[0] for image in images} == {images[0].split()[0]}
    assert images[0].startswith("python:3.11.")
    named = [service["image"] for service in SERVICES.values()]
    assert [image for image in (*images, *named) if not PINNED.fullmatch(image)] == []
    assert SERVICES["worker"]["image"] == SERVICES["server"]["image"] == f"parquill:{VERSION}"


def test_the_image_is_for_an_ordinary_user() -> None:
    """The image runs as a user with a fixed number that is not root, in UTC and UTF-8, with volumes it may write."""
    last = STEPS[max(number for number, step in enumerate(STEPS) if step.name == "FROM") :]
    (user,) = [step.argument for step in last if step.name == "USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    (volumes,) = [words_of(step.argument) for step in last if step.name == "VOLUME"]
    (owned,) = [
        step.argument.partition(f"chown {user}")[2].split() for step in last if f"chown {user}" in step.argument
    ]
    assert set(volumes) == set(owned)
    environment = environment_of(STEPS)
    assert (environment["TZ"], environment["LANG"]) == ("UTC", "C.UTF-8")
    assert all(environment[name].startswith(tuple(volumes)) for name in ("HOME", "PREFECT_HOME", "XDG_STATE_HOME"))
    assert [name for name in environment if SECRET.search(name)] == []


def test_only_the_product_is_sent_to_the_build(tmp_path: Path) -> None:
    """A build gets the files that the Dockerfile copies: no key, no result, no history, no test."""
    tree = copy_tree(tmp_path / "tree")
    for name in (".env", ".git/config", "runs/a.parquet", "jobs/a.yaml", "data/__pycache__/a.pyc", "flows/cli/a.py"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x", encoding="utf-8")
    sent = {path.relative_to(tree).as_posix() for path in sent_files(tree)}
    assert {name.partition("/")[0] for name in sent} == {
        *("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "prefect.yaml", "flows", "tasks", "data")
    }
    assert "flows/cli/a.py" in sent
    assert [name for name in sent if "__pycache__" in name or name.endswith(".png")] == []
    copied = {
        word
        for step in STEPS
        if step.name == "COPY" and "--from" not in step.argument
        for word in step.argument.split()[:-1]
    }
    assert copied == {name.partition("/")[0] for name in sent}


@pytest.mark.skipif(sys.platform != "linux", reason="the package that reads compose files is locked for Linux only")
def test_the_compose_file_is_one() -> None:
    """The compose file is as the specification says, and what it refers to is in it."""
    from compose_spec import PyCompose

    PyCompose.from_json(json.dumps(COMPOSE)).validate()


def test_every_service_is_healthy_before_it_is_used() -> None:
    """Each service has a check of its health, starts again after a failure, and waits until what it needs is healthy."""
    assert set(SERVICES) == {"database", "server", "worker"}
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
        assert {each["condition"] for each in service.get("depends_on", {}).values()} <= {"service_healthy"}
    assert list(SERVICES["server"]["depends_on"]) == ["database"]
    assert list(SERVICES["worker"]["depends_on"]) == ["server"]


def test_what_was_paid_for_is_on_volumes() -> None:
    """PostgreSQL's data, outputs with `state`, and the folders of the ledger and of Prefect are named volumes."""
    mounted = {volume.split(":")[0]: volume.split(":")[1] for each in SERVICES.values() for volume in each["volumes"]}
    assert {name for name in mounted if not name.startswith(".")} == set(COMPOSE["volumes"])
    (volumes,) = [words_of(step.argument) for step in STEPS if step.name == "VOLUME"]
    assert {mounted["runs"], mounted["worker"]} == set(volumes)
    assert mounted["server"] in volumes
    assert SERVICES["worker"]["environment"]["PARQUILL_LEDGER_URL"].startswith("postgresql://")


def test_no_secret_is_written_down() -> None:
    """Passwords and keys come from the environment, and only this machine reaches the server."""
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if value is not None and (SECRET.search(name) or "://parquill:" in value):
                assert "${DATABASE_PASSWORD:?" in value, name
    assert [
        port for each in SERVICES.values() for port in each.get("ports", []) if not port.startswith("127.0.0.1:")
    ] == []
    assert SERVICES["worker"]["environment"]["OPENAI_API_KEY"] is None


def test_the_command_of_the_image_exists() -> None:
    """The image's own command, and those of the services, are programs of the environment."""
    (command,) = [words_of(step.argument) for step in STEPS if step.name == "CMD"]
    assert command[0] == "parquill"
    for name in ("server", "worker"):
        assert SERVICES[name]["command"][0] == "prefect"
