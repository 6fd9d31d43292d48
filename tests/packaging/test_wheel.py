"""The wheel and the source distribution have what users need, and nothing else."""

from __future__ import annotations

import email.message
import email.parser
import hashlib
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.tree import ROOT, build, copy_tree


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and the wheel from it, as `python -m build` does."""
    return build(copy_tree(tmp_path_factory.mktemp("packages") / "tree"))


def _files(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as packed:
        return {name: hashlib.sha256(packed.read(name)).hexdigest() for name in packed.namelist()}


def _wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def _metadata(dist: Path) -> email.message.Message:
    with zipfile.ZipFile(_wheel(dist)) as packed:
        (name,) = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        return email.parser.Parser().parsestr(packed.read(name).decode())


def test_the_wheel_has_every_module_and_all_data(dist: Path) -> None:
    """Every module is in the wheel, and so are vocabularies, prices, samples, jobs, license and type markers."""
    files = set(_files(_wheel(dist)))
    modules = {
        f"parquill/{path.relative_to(ROOT)}" for top in ("flows", "tasks") for path in (ROOT / top).rglob("*.py")
    }
    # flows/package holds what `parquill` itself is
    modules = {name.replace("parquill/flows/package/", "parquill/") for name in modules}
    assert {name for name in files if name.endswith(".py")} == {*modules, "parquill/data/__init__.py"}
    kept = {
        f"parquill/{path.relative_to(ROOT)}"
        for path in (ROOT / "data").rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc", ".png"}
    }
    assert {name for name in files if name.startswith("parquill/data/")} == {*kept, "parquill/data/__init__.py"}
    assert {"parquill/tasks/py.typed", "parquill/flows/py.typed"} <= files
    assert {name.partition("/")[0] for name in files} == {"parquill", "parquill-0.1.0.dist-info"}
    assert any(name.endswith("/licenses/LICENSE") for name in files)


@pytest.mark.nightly
def test_the_two_packages_agree(dist: Path, tmp_path: Path) -> None:
    """The wheel of the source distribution has the same files as the wheel of the tree."""
    direct = build(copy_tree(tmp_path / "tree"), "--wheel")
    assert _files(_wheel(direct)) == _files(_wheel(dist))


def test_the_source_distribution_is_small(dist: Path) -> None:
    """The source distribution has the sources and the license, and no tests, results or environments."""
    (packed,) = dist.glob("*.tar.gz")
    with tarfile.open(packed) as names:
        tops = {name.split("/")[1] for name in names.getnames() if "/" in name}
    assert tops == {"LICENSE", "PKG-INFO", "README.md", "data", "flows", "parquill.egg-info", "pyproject.toml"} | {
        "setup.cfg",
        "tasks",
    }


def test_the_metadata_is_that_of_the_project(dist: Path) -> None:
    """Name, license, Python and README are named, every dependency has a lower bound, and no URL is made up."""
    found = _metadata(dist)
    assert (found["Name"], found["License-Expression"], found["Requires-Python"]) == (
        "parquill",
        "Apache-2.0",
        ">=3.11",
    )
    assert found["Description-Content-Type"] == "text/markdown"
    assert str(found.get_payload()).lstrip().startswith("# Parquill")
    assert found.get_all("Project-URL") is None
    assert sorted(found.get_all("Provides-Extra") or []) == ["azure", "hf", "local", "postgres"]
    unbound = [each for each in found.get_all("Requires-Dist") or [] if ">=" not in each and "==" not in each]
    assert unbound == []


def test_the_lock_has_what_is_declared() -> None:
    """The lock is within the bounds of pyproject.toml, with all extras and with the tools of the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {
        canonicalize_name(line.split("==")[0].split("[")[0]): line.split("==")[1].split()[0]
        for line in lines
        if "==" in line
    }
    extras = [each for extra in project["project"]["optional-dependencies"].values() for each in extra]
    declared = [*project["project"]["dependencies"], *extras, *project["dependency-groups"]["dev"]]
    for requirement in map(Requirement, declared):
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement
