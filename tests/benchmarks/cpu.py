"""CPU time of a whole run for each row: plan, complete, write, with the start-up taken off.

    python -m tests.benchmarks.cpu [--rows 20000] [--at-once 64,512] [--repeat 3] [--against OTHER/.venv/bin/parquill]

Rows have about 45 tokens. Each figure is the CPU time (user and system) of `parquill run` with its embedded server for
all rows, minus that of a run of FEW_ROWS rows, divided by the other rows; it is the least of the repetitions, since
other work on the machine only adds to it. With `--against`, the commands of two checkouts take turns, each of them first
in every second repetition, so that both meet the same machine; trust their ratio. The service is the fast fake one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.measured_run import PARQUILL, measure_run
from tests.fakes.running import fake_openai

FEW_ROWS = 200
WORDS_OF_45_TOKENS = 38


def ms_per_row(command: str, url: str, rows: int, at_once: int) -> float:
    """Return the CPU milliseconds for each row of a run."""
    seconds = []
    for count in (FEW_ROWS, rows):
        with tempfile.TemporaryDirectory() as folder:
            run = measure_run(Path(folder), url, count, at_once, words=WORDS_OF_45_TOKENS, parquill=command)
            seconds.append(run.cpu_s)
    return (seconds[1] - seconds[0]) / (rows - FEW_ROWS) * 1_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each number of requests at once and each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--at-once", default="64,512")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--against", help="the `parquill` of another checkout")
    options = parser.parse_args(arguments)
    commands = {"this": PARQUILL}
    if options.against:
        commands["other"] = options.against
    for at_once in map(int, options.at_once.split(",")):
        found: dict[str, list[float]] = {name: [] for name in commands}
        for repetition in range(options.repeat):
            for name, command in list(commands.items())[:: -1 if repetition % 2 else 1]:
                with fake_openai(remember=False) as service:
                    found[name].append(ms_per_row(command, service.url, options.rows, at_once))
        least = {name: min(figures) for name, figures in found.items()}
        line = ", ".join(f"{name} {figure:.3f} ms" for name, figure in least.items())
        ratio = f", this to other {least['this'] / least['other']:.2f}" if options.against else ""
        sys.stdout.write(f"{options.rows:,} rows, {at_once} at once: {line} of CPU a row{ratio}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
