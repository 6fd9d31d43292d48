"""YAML, overrides and dates become a job."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import load_job, make_job, nest, parse_yaml
from parquill.tasks.job.presets import preset_job
from parquill.tasks.job.resolved import expand_dates, resolve
from parquill.tasks.job.settings import Job, PromptSettings
from parquill.tasks.job.validation import EXAMPLES

FILE = """\
name: translate
input: in.parquet
output: out
prompt: {user: "{{ text }}"}
model: gpt-4o-mini
max_output_tokens: 100
"""
DAY = date(2026, 11, 23)


def _write(folder: Path, text: str = FILE) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _load(folder: Path, *overrides: str) -> Job:
    return load_job(_write(folder), overrides)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("NO", "NO"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("12:30:45", "12:30:45"),
        ("~", None),
        ("null", None),
        ("", None),
        ("1e3", 1000.0),
        ("'007'", "007"),
    ],
)
def test_yaml_is_read_by_the_rules_of_1_2(text: str, value: object) -> None:
    """By YAML 1.2, `no` is Norwegian, `on` is a word, 010 is ten and 12:30:45 is not a number of seconds."""
    found = parse_yaml(f"key: {text}", "here")["key"]
    assert found == value
    assert type(found) is type(value)


def test_languages_stay_languages(tmp_path: Path) -> None:
    """A list of languages that contains Norwegian stays a list of languages in the job."""
    job = load_job(_write(tmp_path, FILE + "for_each: {language: [fr, no, on, y]}\n"))
    assert job.for_each == {"language": ["fr", "no", "on", "y"]}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\nname: b\n", 2),
        ("name: a\n  input: b: c\n", 2),
        ("name: [a\nb: c", 2),
        ("name: *nobody\n", 1),
        ("name: !!python/object:os.system ls\n", 1),
        ("\tname: a\n", 1),
        ("--- a\n--- b\n", 2),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    """A mistake, a duplicate key or a Python object in a job file is refused with the file and the line."""
    path = _write(tmp_path, text)
    with pytest.raises(BadJob) as caught:
        load_job(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")


@pytest.mark.parametrize(
    "text", ["a\0b: 1", "[" * 1000, "a: 2026-13-45", "a: " + "1" * 5000, 'a: !!int ""', "a: !!bool x"]
)
def test_yaml_that_cannot_be_built_is_refused(text: str) -> None:
    """A NUL, endless nesting, an impossible date or number and a tag that does not fit its value are refused, without a
    traceback.
    """
    with pytest.raises(BadJob, match=r"here.*is not YAML"):
        parse_yaml(text, "here")


@settings(max_examples=100)
@given(st.text("abc:-[]{}\"'#&*?|>%@ \n\t0123.~<=,\\", max_size=40))
def test_any_text_is_yaml_or_refused(text: str) -> None:
    """Any text in a job file is either read or refused with a clear message."""
    try:
        parse_yaml(text, "here")
    except BadJob as error:
        assert str(error).startswith("here")  # noqa: PT017 - both results are valid


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "5"])
def test_a_job_file_is_a_mapping(tmp_path: Path, text: str) -> None:
    """A file without settings is refused, and the refusal says how to create a job file."""
    with pytest.raises(BadJob, match="parquill init"):
        load_job(_write(tmp_path, text))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A job file that is missing, is a folder or is not text is refused with its path."""
    (tmp_path / "latin.yaml").write_bytes("name: caf\u00e9".encode("latin-1"))
    with pytest.raises(BadJob, match=r"cannot read the job file .*missing\.yaml: No such file"):
        load_job(tmp_path / "missing.yaml")
    with pytest.raises(BadJob, match="cannot read the job file"):
        load_job(tmp_path)
    with pytest.raises(BadJob, match=r"latin\.yaml is not UTF-8"):
        load_job(tmp_path / "latin.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_setting(tmp_path: Path) -> None:
    """A job file that begins with a byte order mark is read like any other."""
    path = tmp_path / "job.yaml"
    path.write_text(FILE, encoding="utf-8-sig")
    assert load_job(path).name == "translate"


def test_set_overrides_nested_values(tmp_path: Path) -> None:
    """`--set a.b=VALUE` sets any setting by YAML's rules, also in a group that the file does not have."""
    job = _load(
        tmp_path,
        "budget.run_usd=5.25",
        "limits.max_at_once=8",
        "parameters.temperature=0.5",
        "parameters.stop=[a, b]",
        "prompt.user=no",
        "for_each={language: [no, fr]}",
        "model=gpt-4o",
        "labels.team=search=and=find",
    )
    assert str(job.budget.run_usd) == "5.25"
    assert job.limits.max_at_once == 8
    assert job.parameters == {"temperature": 0.5, "stop": ["a", "b"]}
    assert job.prompt is not None
    assert job.prompt.user == "no"
    assert job.for_each == {"language": ["no", "fr"]}
    assert (job.model, job.labels) == ("gpt-4o", {"team": "search=and=find"})


def test_the_last_override_counts(tmp_path: Path) -> None:
    """Overrides are applied in order, and an empty value resets a setting to its default."""
    assert _load(tmp_path, "limits.max_at_once=8", "limits.max_at_once=9").limits.max_at_once == 9
    assert _load(tmp_path, "budget.run_usd=5", "budget.run_usd=").budget.run_usd is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("budget.run_usd", "NAME=VALUE"),
        ("=5", "NAME=VALUE"),
        (" =5", "NAME=VALUE"),
        ("name.inner=5", "`name` is not a group"),
        ("model.a.b=5", "`model` is not a group"),
        ("budget.run_us=5", "did you mean `budget.run_usd`"),
        ("run_usd=5", "did you mean `budget.run_usd`"),
        ("budget.run_usd=ten", "`budget.run_usd`"),
        ("parameters.n=2", "'n'"),
        ("for_each={language: [no", "--set for_each"),
    ],
)
def test_impossible_overrides_are_refused(tmp_path: Path, override: str, expected: str) -> None:
    """An override that breaks the rules of the file is refused."""
    with pytest.raises(BadJob) as caught:
        _load(tmp_path, override)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "day", "expanded"),
    [
        ("{date}", "2026-11-23", "2026-11-23"),
        ("{date-1}", "2026-11-23", "2026-11-22"),
        ("{date-1}", "2027-01-01", "2026-12-31"),
        ("{date-1}", "2028-03-01", "2028-02-29"),
        ("{date+1}", "2026-12-31", "2027-01-01"),
        ("{date-365}", "2026-11-23", "2025-11-23"),
        ("{month}", "2026-11-23", "2026-11"),
        ("{month-1}", "2026-11-23", "2026-10"),
        ("{month-1}", "2026-01-31", "2025-12"),
        ("{month-1}", "2026-03-31", "2026-02"),
        ("{month+1}", "2026-12-01", "2027-01"),
        ("{month-12}", "2026-12-31", "2025-12"),
        ("{month-13}", "2026-01-15", "2024-12"),
        ("dt={date-1}/m={month}/{date}", "2026-01-01", "dt=2025-12-31/m=2026-01/2026-01-01"),
        ("plain/*.parquet", "2026-01-01", "plain/*.parquet"),
        ("{{x}}/in", "2026-01-01", "{x}/in"),
        ("{{date}}/{date}", "2026-01-01", "{date}/2026-01-01"),
        ("{{{date}}}", "2026-01-01", "{2026-01-01}"),
        ("{{}}/{{a b}}", "2026-01-01", "{}/{a b}"),
        ("a{b/c", "2026-01-01", "a{b/c"),
        ("a}b/{date}}}", "2026-01-01", "a}b/2026-01-01}"),
    ],
)
def test_dates_in_paths(text: str, day: str, expanded: str) -> None:
    """{date} and {month}, with or without an offset, are right across the ends of months and years.

    Doubled braces become the single braces of a name.
    """
    assert expand_dates(text, date.fromisoformat(day)) == expanded


@settings(max_examples=60)
@given(st.dates(date(1990, 1, 1), date(2090, 1, 1)), st.integers(0, 999))
def test_date_arithmetic_agrees_with_the_calendar(day: date, offset: int) -> None:
    """{date-N} is N days earlier, and {month-N} is N calendar months earlier."""
    assert expand_dates(f"{{date-{offset}}}", day) == (day - timedelta(days=offset)).isoformat()
    month = day.replace(day=1)
    for _ in range(offset % 30):
        month = (month - timedelta(days=1)).replace(day=1)
    assert expand_dates(f"{{month-{offset % 30}}}", day) == f"{month:%Y-%m}"


@pytest.mark.parametrize(
    "text", ["{day}", "{Date}", "{date -1}", "{}", "x/{year}/y", "{date-1d}", "{date--1}", "{month.1}"]
)
def test_unknown_braces_are_refused(text: str) -> None:
    """Unknown braces in a path are refused, and the refusal shows how to write a name that has braces."""
    with pytest.raises(BadJob, match="in a path is unknown") as caught:
        expand_dates(text, DAY)
    assert expand_dates(str(caught.value).rpartition(" write ")[2], DAY) in text


@given(st.text(st.sampled_from("{}datemonth-1x/")))
def test_any_name_can_be_written(name: str) -> None:
    """A path with its braces doubled becomes the path itself, for any names in it."""
    assert expand_dates(name.replace("{", "{{").replace("}", "}}"), DAY) == name


@pytest.mark.parametrize("setting", ["input", "output", "state"])
def test_a_folder_with_braces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """Input, output and state can be in a folder whose name has braces."""
    assert getattr(_resolved(tmp_path, monkeypatch, **{setting: "{{x}}/a"}), setting) == str(tmp_path / "{x}/a")


def _resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Job:
    monkeypatch.chdir(tmp_path)
    return resolve(make_job({**parse_yaml(FILE, "here"), **changes}), DAY)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths begin at the working directory, and the default state folder is in the output."""
    job = _resolved(tmp_path, monkeypatch, input="dt={date-1}/*.parquet", output="runs/{date}")
    assert job.input == str(tmp_path / "dt=2026-11-22/*.parquet")
    assert job.output == str(tmp_path / "runs/2026-11-23")
    assert job.state == str(tmp_path / "runs/2026-11-23/.parquill")
    assert _resolved(tmp_path, monkeypatch, state="state/{month}").state == str(tmp_path / "state/2026-11")


@pytest.mark.parametrize("setting", ["input", "output", "state"])
def test_unknown_braces_in_any_path_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """Input, output and state accept only dates in braces."""
    with pytest.raises(BadJob, match=r"\{day\} in a path is unknown"):
        _resolved(tmp_path, monkeypatch, **{setting: "x/{day}"})


def test_vars_and_schema_may_be_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`vars` and `response_format` can name a file in YAML or JSON, and then hold the mapping in it."""
    (tmp_path / "words.yaml").write_text("no: Norwegian\n", encoding="utf-8")
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": 'tab\t and "quotes"'}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema, indent="\t"), encoding="utf-8")
    job = _resolved(tmp_path, monkeypatch, vars="words.yaml", response_format="schema.json")
    assert job.vars == {"no": "Norwegian"}
    assert job.response_format == schema


@pytest.mark.parametrize("setting", ["vars", "response_format"])
def test_files_that_a_job_names_are_there_and_hold_a_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """A named file that is missing, is not YAML or is not a mapping is refused with the setting or the path."""
    (tmp_path / "list.yaml").write_text("- a\n", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("{", encoding="utf-8")
    for name, expected in (("missing.yaml", f"`{setting}`"), ("list.yaml", "mapping"), ("broken.yaml", "broken.yaml")):
        with pytest.raises(BadJob) as caught:
            _resolved(tmp_path, monkeypatch, **{setting: name})
        assert expected in str(caught.value)
        assert name in str(caught.value)


def test_a_value_of_vars_may_name_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`vars: {glossary: glossary.yaml}` holds the content of the file; other texts stay texts."""
    (tmp_path / "glossary.yaml").write_text("fr: Bonjour\n", encoding="utf-8")
    (tmp_path / "list.json").write_text('["\\ud83d\\ude00"]', encoding="utf-8")
    values = {"glossary": "glossary.yaml", "list": "list.json", "tone": "formal", "year": 2026}
    job = _resolved(tmp_path, monkeypatch, vars=values)
    assert job.vars == {"glossary": {"fr": "Bonjour"}, "list": ["\U0001f600"], "tone": "formal", "year": 2026}
    with pytest.raises(BadJob, match=r"`vars\.glossary` missing\.yaml"):
        _resolved(tmp_path, monkeypatch, vars={"glossary": "missing.yaml"})


@pytest.mark.parametrize(
    ("text", "day"),
    [("{date-1}", date.min), ("{date+1}", date.max), ("{month-1}", date.min), ("{month+1}", date.max)],
)
def test_days_beyond_the_calendar_are_refused(text: str, day: date) -> None:
    """A day or month that no calendar has is refused; the first and the last one that it has are accepted."""
    with pytest.raises(BadJob, match="no calendar"):
        expand_dates(text, day)
    assert expand_dates("{date}", day) == day.isoformat()
    assert expand_dates("{month}", day) == day.isoformat()[:7]


@pytest.mark.parametrize("setting", ["input", "output", "state"])
def test_the_home_of_nobody_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """`~name` of a user who does not exist is refused; `~` is the user's own home folder."""
    with pytest.raises(BadJob, match="a user who does not exist"):
        _resolved(tmp_path, monkeypatch, **{setting: "~nobody-of-that-name/x"})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert getattr(_resolved(tmp_path, monkeypatch, **{setting: "~/x"}), setting) == str(tmp_path / "home" / "x")


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d\ude42", "\U0001f642"),
        (r"a\uD83D\uDE42b\ud83d\ude43", "a\U0001f642b\U0001f643"),
        (r"\u00e9\ud834\udd1e", "\u00e9\U0001d11e"),
        (r"\ud7ff\ue000", "\ud7ff\ue000"),
    ],
)
@pytest.mark.parametrize("name", ["job.yaml", "job.json"])
def test_characters_that_json_escapes_in_two_halves(tmp_path: Path, name: str, escaped: str, text: str) -> None:
    """A job file in JSON is read as JSON, whatever its name is.

    The two escaped halves of a character are joined, in values and in names.
    """
    whole = json.dumps({**parse_yaml(FILE, "here"), "labels": {"HERE": "HERE"}, "vars": {"v": ["HERE"]}})
    path = tmp_path / name
    path.write_text(whole.replace("HERE", escaped))
    job = load_job(path)
    assert (job.labels, job.vars) == ({text: text}, {"v": [text]})
    assert _load(tmp_path, f'labels.a="{escaped}"').labels == {"a": text}


@pytest.mark.parametrize("half", [r"\ud83d", r"\ude42\ud83d", r"x\udc00", r"\ud83d \ude42"])
@pytest.mark.parametrize("name", ["v.yaml", "v.json"])
def test_half_of_a_character_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, half: str) -> None:
    """A job file, or a file that it names, is refused by its name if it holds half of a character."""
    path = tmp_path / name
    path.write_text(f'{{"a": {{"{half}": 1}}}}')
    with pytest.raises(BadJob, match=rf"{name}.* holds half of a character"):
        _resolved(tmp_path, monkeypatch, vars=str(path))
    path.write_text(f'{{"a": ["{half}"]}}')
    with pytest.raises(BadJob, match=rf"{name}.* holds half of a character"):
        load_job(path)


@pytest.mark.parametrize(
    "text",
    [
        "name: a\nprompt:\n  user: {{ text }}\n",
        "prompt: {user: {{ text }}}\n",
        "prompt:\n  user: {{ title }} in {{ language }}\n",
        "prompt:\n  user: Translate: {{ text }}\n",
        "prompt:\n  user: {% if a %}x{% endif %}\n",
    ],
)
def test_a_template_without_quotes_is_told(tmp_path: Path, text: str) -> None:
    """A template without quotes, which YAML reads as a mapping, is refused with its line and the correct form."""
    with pytest.raises(BadJob, match=r'line \d: .*a template needs quotes: user: "\{\{ text \}\}"'):
        load_job(_write(tmp_path, text))
    with pytest.raises(BadJob, match="a template needs quotes"):
        load_job(_write(tmp_path, FILE), ["prompt.user={{ title }}"])


@pytest.mark.parametrize("text", ["name: a\n---\nname: b\n", "---\nname: a\n---\nname: b\n", "--- a\n--- b\n"])
def test_a_second_document_is_told(tmp_path: Path, text: str) -> None:
    """A file with two documents is refused, and the refusal says what to remove."""
    with pytest.raises(BadJob, match="remove everything from the second `---` on"):
        load_job(_write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("in.parquet", b"PAR1...", "Parquet data"),
        ("in.bin", b"PAR1\xff\xfe", "Parquet data"),
        ("in.csv", b"id,text\n1,a\n", "CSV data"),
        ("in.JSONL", b'{"id": 1}\n{"id": 2}\n', "JSON lines"),
        ("in.csv.gz", b"\x1f\x8b...", "CSV data"),
    ],
)
def test_data_in_the_place_of_a_job_file(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    """A data file in place of a job file is refused, and the refusal says to name it in a job's `input`."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadJob, match=f"{name} is {kind}, not a job file. .*name the data in its `input`"):
        load_job(tmp_path / name)


def test_a_prompt_of_one_text(tmp_path: Path) -> None:
    """A plain text in place of a prompt becomes `prompt.user`: in a file, in --set, and in a job that a flow gets."""
    job = load_job(_write(tmp_path, FILE), ['prompt="Hello {{ title }}"'])
    assert job.prompt == PromptSettings(user="Hello {{ title }}", system=None)
    assert make_job({**job.model_dump(mode="json"), "prompt": "x"}).prompt == PromptSettings(user="x", system=None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": 5}, "`budget` is a group of settings; write for example `budget: {run_usd: 5}`"),
        ({"limits": 5}, "`limits: {max_at_once: 64}`"),
        ({"retry": 5}, "`retry: {attempts: 6}`"),
        ({"tolerate": 0.5}, "`tolerate: {not_ok: 0.01}`"),
        ({"price": 0.15}, "`price: {usd_per_mtok_input: "),
        ({"endpoint": "https://x/v1"}, "`endpoint: {base_url: "),
        ({"prompt": 5}, "`prompt: {user: "),
        ({"budget": {"run_usd": "$5"}}, "`budget.run_usd`: a number is needed, in digits"),
    ],
)
def test_a_value_in_the_place_of_a_group(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """A value in place of a group of settings is refused with a valid example, and without pydantic's words."""
    mapping = load_job(_write(tmp_path, FILE)).model_dump(mode="json")
    with pytest.raises(BadJob) as caught:
        make_job({**mapping, **changes})
    assert words in str(caught.value)
    assert "instance of" not in str(caught.value)


@pytest.mark.parametrize("group", EXAMPLES)
def test_the_examples_are_settings(tmp_path: Path, group: str) -> None:
    """Each example that a refusal shows is a valid setting."""
    mapping = load_job(_write(tmp_path, FILE)).model_dump(mode="json")
    del mapping["endpoint"]  # a job has either `endpoint` or `endpoints`
    make_job({**mapping, group: parse_yaml(EXAMPLES[group], "the example")})


def test_dotted_names_are_groups() -> None:
    """Settings from Python may name a setting with dots or be nested, also both for one group; a later one counts."""
    assert nest({"budget.run_usd": 5, "budget": {"monthly_usd": 9}, "budget.when_short": "partial"}) == {
        "budget": {"run_usd": 5, "monthly_usd": 9, "when_short": "partial"}
    }
    assert nest({"a.b.c": 1, "a.b": {"c": 2, "d.e": 3}}) == {"a": {"b": {"c": 2, "d.e": 3}}}
    base = parse_yaml(FILE, "the job")
    assert preset_job({**base, "budget": {"run_usd": 1}}, {"budget.monthly_usd": 9}, {}).budget.monthly_usd == 9
    with pytest.raises(BadJob, match=r"`settings\.budget\.run_usd` is the parameter `run_usd`"):
        preset_job(base, {"budget.run_usd": 5}, {})
