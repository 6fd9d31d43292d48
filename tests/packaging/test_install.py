"""The wheel in fresh environments, away from this tree: with pip, with uv, and with the lowest versions it declares."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from tests.fakes.running import FakeService
from tests.packaging.tree import ROOT, UV, build, copy_tree

pytestmark = pytest.mark.nightly
TIMEOUT_S = 3600


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the project and build its two packages."""
    copied = copy_tree(tmp_path_factory.mktemp("install") / "tree")
    build(copied)
    return copied


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with a home of its own and without the server of the tests."""
    for name in ("PREFECT_API_URL", "PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "away"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _call(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def _wheel(tree: Path) -> Path:
    (found,) = (tree / "dist").glob("*.whl")
    return found


def _try_out(parquill: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check, write a job, estimate it and run it, with a service on this machine."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-tests")
    assert "ok" in _call(parquill, "doctor")
    samples = _samples(parquill)
    _call(parquill, "init", "job.yaml", "--input", samples)
    settings = (
        "--set",
        f"endpoint.base_url={service.url}",
        "--set",
        "endpoint.api_key_env=OPENAI_API_KEY",
        "--output",
        "out",
    )
    estimate = orjson.loads(_call(parquill, "estimate", "job.yaml", *settings, "--json"))
    assert estimate["rows"] > 10
    _call(parquill, "run", "job.yaml", *settings)
    table = pq.read_table("out/results")
    assert table.num_rows == estimate["rows"]
    assert set(table.column("status").to_pylist()) == {"ok"}
    assert service.stats()["billed"] == len(set(table.column("request_key").to_pylist()))


def _samples(parquill: Path) -> Path:
    """Return the sample articles of the installed package, which is not that of this tree."""
    python = parquill.resolve().with_name("python")
    folder = Path(_call(python, "-c", "import parquill.data; print(parquill.data.FOLDER)").strip())
    assert not folder.is_relative_to(ROOT)
    return folder / "samples" / "articles.parquet"


def test_the_wheel_with_pip(tree: Path, away: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh environment of pip, with what is declared and not the lock, each command of a first hour works."""
    _call(sys.executable, "-m", "venv", away / "venv")
    _call(away / "venv" / "bin" / "pip", "install", "--quiet", _wheel(tree))
    _try_out(away / "venv" / "bin" / "parquill", service, monkeypatch)


def test_the_wheel_with_uv(tree: Path, away: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed by `uv tool install`, with its extras, each command of a first hour works."""
    monkeypatch.setenv("UV_TOOL_DIR", str(away / "tools"))
    monkeypatch.setenv("UV_TOOL_BIN_DIR", str(away / "bin"))
    _call(UV, "tool", "install", "--python", sys.executable, f"{_wheel(tree)}[postgres,hf]")
    _try_out(away / "bin" / "parquill", service, monkeypatch)


def test_the_lowest_versions(tree: Path, away: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the lowest version of each package that is declared, each command works and every unit test passes."""
    python = away / "venv" / "bin" / "python"
    _call(UV, "venv", "--python", sys.executable, away / "venv")
    compile_ = (UV, "pip", "compile", "--resolution", "lowest-direct", "--all-extras", "--python-version", "3.11")
    _call(*compile_, "pyproject.toml", "--output-file", "lowest.txt", cwd=tree)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    testers = ("pytest", "pytest-xdist", "hypothesis", "llmock", "moto", "flask", "flask-cors")
    pins = [found[0] for name in testers if (found := re.search(rf"^{name}(\[\w+\])?==\S+", lock, re.MULTILINE))]
    assert len(pins) == len(testers)
    _call(UV, "pip", "install", "--python", python, "--requirements", tree / "lowest.txt", *pins)
    _call(UV, "pip", "install", "--python", python, "--no-deps", _wheel(tree))
    _try_out(away / "venv" / "bin" / "parquill", service, monkeypatch)
    _call(UV, "pip", "install", "--python", python, "--no-deps", "--editable", tree)
    chosen = ("-n", "2", "-m", "not integration and not nightly", "tests/tasks", "tests/flows")
    old_pandas = ("-W", "ignore:pyarrow.feather:FutureWarning")  # a test writes Feather with it
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    _call(python, "-m", "pytest", *old_pandas, *chosen, cwd=tree)


def test_the_packages_can_be_published(tree: Path) -> None:
    """The checker of the package index accepts both packages."""
    assert len(list((tree / "dist").iterdir())) == 2
    out = _call(UV, "tool", "run", "twine@7.0.0", "check", "--strict", *sorted((tree / "dist").iterdir()))
    assert out.count("PASSED") == 2
