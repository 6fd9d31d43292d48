"""`parquill serve-model`: serve the small local model, alone or while a command runs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from parquill.flows.cli.console import print_line
from parquill.flows.cli.local_model import running_model


def serve_while(port: int, slots: int, command: Sequence[str]) -> int:
    """Serve the model while `command` runs, or until Ctrl-C without one; return the exit code. Raises ParquillError."""
    print_line("starting the local model")
    with running_model(port=port, slots=slots) as url:
        print_line(f"the local model answers at {url}; it summarizes passably and translates badly")
        if command:
            return subprocess.run([word.replace("{url}", url) for word in command], check=False).returncode  # noqa: S603
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0
