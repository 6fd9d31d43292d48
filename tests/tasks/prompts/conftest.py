"""Folders of input, on disk and as a store shows them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs
import pytest

from parquill.tasks.storage import object_store as store


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test's folder as a store shows it."""
    files = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())

    def find_in_shop(uri: str) -> store.StoreLocation:
        return store.StoreLocation(files, uri.removeprefix("s3://shop/").rstrip("/"))

    monkeypatch.setattr(store, "find_location", find_in_shop)
    return "s3://shop"


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path, shop: str) -> str:
    """The test's folder on disk, and as a store shows it."""
    return shop if request.param == "store" else str(tmp_path)
