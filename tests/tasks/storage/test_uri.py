"""An address in a store gives its location, matches globs, and has a local folder for an output."""

from __future__ import annotations

import pyarrow.fs as pafs
import pytest

from parquill.tasks.storage.object_store import find_location, matches, reason
from parquill.tasks.storage.uri import fixed_part, join, local_mirror, redact_uri


@pytest.mark.parametrize(
    ("uri", "kind", "path"),
    [
        ("s3://shop/in/a.parquet?region=eu-west-3", pafs.S3FileSystem, "shop/in/a.parquet"),
        ("gs://shop/in/?anonymous=true", pafs.GcsFileSystem, "shop/in"),
        ("abfs://container@account.dfs.core.windows.net/in/a", pafs.AzureFileSystem, "container/in/a"),
        ("abfss://container@account/in", pafs.AzureFileSystem, "container/in"),
    ],
)
def test_addresses_point_into_their_stores(uri: str, kind: type, path: str) -> None:
    """Each scheme has its filesystem, and a path in it begins with the bucket or container, never with the account."""
    location = find_location(uri)
    assert isinstance(location.files, kind)
    assert location.path == path


def test_accounts_of_azure_are_told_apart() -> None:
    """Two accounts have two filesystems, and one account has one."""
    one, same, other = (
        find_location(f"abfs://{name}/x").files
        for name in ("c@one.dfs.core.windows.net", "d@one.dfs.core.windows.net", "c@other")
    )
    assert one.equals(same)
    assert not one.equals(other)


@pytest.mark.parametrize(
    ("path", "pattern", "does"),
    [
        ("a/b.parquet", "a/*.parquet", True),
        ("a/c/b.parquet", "a/*.parquet", False),
        ("a/c/b.parquet", "a/**/*.parquet", True),
        ("a/b.parquet", "a/**/*.parquet", True),
        ("a/.hidden/b.parquet", "a/**/*.parquet", False),
        ("a/.b.parquet", "a/*.parquet", False),
        ("a/.b.parquet", "a/.b.*", True),
        ("a/dt=3/b.parquet", "a/dt=[1-3]/*", True),
        ("a/dt=4/b.parquet", "a/dt=[1-3]/*", False),
        ("a/B.parquet", "a/b.parquet", False),
    ],
)
def test_globs_are_those_of_files(path: str, pattern: str, *, does: bool) -> None:
    """A wildcard stays within its folder, `**` does not, and neither matches what is hidden."""
    assert matches(path.split("/"), pattern.split("/")) is does


def test_options_stay_at_the_end() -> None:
    """Addresses are joined, cut and shown without letting their options get into a name."""
    uri = "s3://shop/in/dt=*/x?region=eu"
    assert fixed_part(uri) == "s3://shop/in?region=eu"
    assert join("s3://shop/in/?region=eu", "a", "b") == "s3://shop/in/a/b?region=eu"
    assert redact_uri(uri) == "s3://shop/in/dt=*/x"
    assert redact_uri("/data/what?.parquet") == "/data/what?.parquet"


def test_each_output_has_a_folder_of_its_own() -> None:
    """The folder is the same however the address is written.

    Another bucket, another service or another state has another folder.
    """
    same = local_mirror("s3://shop/out")
    assert local_mirror("s3://shop/out/?region=eu-west-3") == same
    others = [
        local_mirror("s3://shop/out2"),
        local_mirror("s3://shop/out?endpoint_override=http%3A%2F%2Fminio%3A9000"),
        local_mirror("gs://shop/out"),
        local_mirror("s3://shop/out", "/srv/state"),
    ]
    assert len({same, *others}) == 5
    assert others[-1].is_relative_to("/srv/state/outputs")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("AWS Error ACCESS_DENIED during GetObject operation: CANARY"), "access denied"),
        (OSError("AWS Error SLOW_DOWN during PutObject operation: CANARY"), "slow down"),
        (OSError("Could not connect to server CANARY"), "the store does not answer"),
        (OSError("403 CANARY"), "access denied"),
        (FileNotFoundError("CANARY"), "it is not there"),
        (OSError("CANARY"), "the store refuses it (OSError)"),
    ],
)
def test_reasons_are_told_in_our_own_words(error: OSError, expected: str) -> None:
    """A store's reply may hold what was sent to it, so the reason has none of its text."""
    assert reason(error) == expected
