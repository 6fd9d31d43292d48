"""Writes inputs and reads results with other tools: `python readers.py write|read|page FOLDER`, in its own environment.

`make readers` makes the environment (build/readers) from `readers.txt`. Nothing of Parquill is imported here: the tools
must read the files like any others.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

IDS = [7, 3, 9]  # not a range, which pandas would not write as a column
TEXTS = ["Rotes Kleid", "Blaue Jacke", "Grüner Hut"]
TIMES = [*map(datetime.fromisoformat, ("2024-05-01T12:00:00", "9999-12-31T23:59:59", "1900-01-01T00:00:00"))]
STARS = [5, None, 3]
TOOLS = ("spark", "duckdb", "polars", "datasets", "pandas")
INPUTS = (*TOOLS, "pandas with levels", "pandas with an index")


def _spark() -> Any:
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    builder = importlib.import_module("pyspark.sql").SparkSession.builder.master("local[1]")
    for name, value in {
        "spark.ui.enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "INT96",
        "spark.driver.memory": "1g",
    }.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def write(folder: Path) -> None:
    """Write the same three rows with each tool, each into a folder of its name."""
    for name in INPUTS:
        (folder / name / "in").mkdir(parents=True)
    os.environ["TZ"] = "UTC"
    types = importlib.import_module("pyspark.sql.types")
    fields = {
        "id": types.LongType(),
        "text": types.StringType(),
        "at": types.TimestampType(),
        "stars": types.LongType(),
    }
    schema = types.StructType([types.StructField(name, kind) for name, kind in fields.items()])
    rows = list(zip(IDS, TEXTS, TIMES, STARS, strict=True))
    _spark().createDataFrame(rows, schema).coalesce(1).write.mode("overwrite").parquet(str(folder / "spark" / "in"))
    polars = importlib.import_module("polars")
    frame = polars.DataFrame({"id": IDS, "text": TEXTS, "at": TIMES, "stars": STARS})
    frame.write_parquet(folder / "polars" / "in" / "a.parquet")
    path = folder / "duckdb" / "in" / "a.parquet"
    importlib.import_module("duckdb").from_arrow(frame.to_arrow()).write_parquet(str(path))
    columns = {"id": IDS, "text": TEXTS, "at": TIMES, "stars": STARS}
    importlib.import_module("datasets").Dataset.from_dict(columns).to_parquet(
        str(folder / "datasets" / "in" / "a.parquet")
    )
    pandas = importlib.import_module("pandas")
    table = pandas.DataFrame(columns).astype({"at": "datetime64[us]", "stars": "Int64"})
    table.to_parquet(folder / "pandas" / "in" / "a.parquet")
    table.set_index("id").to_parquet(folder / "pandas with an index" / "in" / "a.parquet")
    levels = pandas.MultiIndex.from_tuples([(name, "x") for name in columns])
    table.set_axis(levels, axis=1).to_parquet(folder / "pandas with levels" / "in" / "a.parquet")


def read(folder: Path) -> dict[str, Any]:
    """Return what each tool finds in the results of each input: rows of (id, text, at, stars, completion)."""
    duckdb, polars, pandas, datasets = map(importlib.import_module, ("duckdb", "polars", "pandas", "datasets"))
    spark = _spark()
    found: dict[str, Any] = {}
    for name in INPUTS:
        files = str(folder / name / "out" / "results" / "*.parquet")
        data = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder / "cache"))
        indexed = pandas.read_parquet(str(Path(files).parent))
        tables = {
            "spark": spark.read.parquet(str(Path(files).parent)).toArrow().to_pylist(),
            "duckdb": duckdb.read_parquet(files).to_arrow_table().to_pylist(),
            "polars": polars.read_parquet(files).to_dicts(),
            "datasets": data.to_list(),
            "pandas": indexed.reset_index().to_dict("records"),
        }
        wanted = [*(f"('{c}', 'x')" if "levels" in name else c for c in ("id", "text", "at", "stars")), "completion"]
        found[name] = {
            tool: [[_plain(row[column]) for column in wanted] for row in rows] for tool, rows in tables.items()
        }
        found[name]["index of pandas"] = indexed.index.name
    return found


def run_page(folder: Path) -> list[str]:
    """Run the blocks of docs/how-to/results.md that use another tool than pandas or pyarrow; return the tools."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "results.md").read_text(encoding="utf-8")
    os.chdir(folder)
    _spark()  # with the settings of a small machine; the block uses this session
    found = []
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        tool = re.match(r"(?:import|from) (duckdb|polars|pyspark)", block)
        if tool:
            exec(compile(block, tool[1], "exec"), {})  # noqa: S102 - our own page
            found.append(tool[1])
    return found


def _plain(value: Any) -> Any:
    if value is None or value != value or str(value) == "<NA>":  # noqa: PLR0124 - a NaN
        return None
    return (
        str(value).partition("+")[0] if hasattr(value, "isoformat") else value if isinstance(value, str) else int(value)
    )


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        sys.stdout.write(json.dumps({"read": read, "page": run_page}[sys.argv[1]](Path(sys.argv[2]))) + "\n")
