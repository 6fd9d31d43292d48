"""`--json` prints one object, even if too many rows are bad."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.flows.cli.commands import main


@pytest.mark.parametrize("override", ["name=x", "limits.tokens_per_minute=5"])
def test_json_is_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    """`--json` prints one JSON object on stdout, whatever happens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    texts = [None, None, "a"] if override == "name=x" else ["a"]
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), "in.parquet")
    Path("job.yaml").write_text(
        "name: x\ninput: in.parquet\noutput: out\nprompt: {user: '{{ text }}'}\nmodel: gpt-4o-mini\nmax_output_tokens: 5\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["estimate", "job.yaml", "--json", "--set", override])
    assert ended.value.code == 2
    assert orjson.loads(capsys.readouterr().out)["exit_code"] == 2
