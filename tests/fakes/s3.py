"""An S3 service as its own process: moto's server on loopback, with its data in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pyarrow.fs as pafs

from tests.fakes.terminate import end

TETHER = Path(__file__).with_name("die_with_parent.py")
START_S = 60.0


@dataclass(frozen=True)
class S3:
    """A running service with an empty bucket `shop`; its addresses include the endpoint."""

    origin: str
    pid: int

    def uri(self, path: str) -> str:
        """Return the address of a path in the bucket."""
        return f"s3://shop/{path}?endpoint_override={quote(self.origin, safe='')}"

    @property
    def files(self) -> pafs.S3FileSystem:
        """Return the store as a file system, for a test to look at."""
        return pafs.S3FileSystem(endpoint_override=self.origin, region="us-east-1")

    @contextmanager
    def denying(self) -> Iterator[None]:
        """Accept no credentials inside the block."""
        httpx.post(f"{self.origin}/moto-api/reset-auth", content="0", trust_env=False).raise_for_status()
        try:
            yield
        finally:
            httpx.post(f"{self.origin}/moto-api/reset-auth", content="inf", trust_env=False).raise_for_status()


def credentials() -> dict[str, str]:
    """Return what the environment must have to use it."""
    return {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "CANARY-secret", "AWS_REGION": "us-east-1"}


@contextmanager
def s3() -> Iterator[S3]:
    """Start the service; it ends with this process, or before."""
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid())]
        command += [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            origin = _origin(process, output)
            # moto asks for no signature
            httpx.put(f"{origin}/shop", trust_env=False, headers={"authorization": _AUTHORIZATION}).raise_for_status()
            yield S3(origin, process.pid)
        finally:
            end(process)


_AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=testing/20261123/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)


def _origin(process: subprocess.Popen[bytes], output: object) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        output.seek(0)  # type: ignore[attr-defined]
        text: str = output.read().decode(errors="replace")  # type: ignore[attr-defined]
        if "Running on http://127.0.0.1:" in text:
            port = text.split("Running on http://127.0.0.1:")[1].split(maxsplit=1)[0]
            return f"http://127.0.0.1:{int(port)}"
        time.sleep(0.1)
    raise RuntimeError("moto's server did not start")
