"""Templates are strict and sandboxed, and values are data."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import BadJob, RowFault
from parquill.tasks.prompts.template import Templates, column_template

NULLS = [pytest.param(None, id="null"), pytest.param(float("nan"), id="NaN")]  # pandas writes NaN for a missing value


def _render(user: str, values: dict[str, Any] | None = None, variables: dict[str, Any] | None = None) -> str:
    values = values or {}
    return Templates(None, user, values, variables).render(values)[0]["content"]


def _fault(user: str, values: dict[str, Any]) -> RowFault:
    with pytest.raises(RowFault) as caught:
        _render(user, values)
    return caught.value


def test_messages_in_order() -> None:
    """The system text comes first, then the row's own text. Without a system text there is one message."""
    both = Templates("Speak {{ language }}.", "{{ text }}", ["text", "language"], None)
    assert both.render({"text": "Hi", "language": "French"}) == [
        {"role": "system", "content": "Speak French."},
        {"role": "user", "content": "Hi"},
    ]
    assert Templates(None, "{{ text }}", ["text"], None).render({"text": "Hi"}) == [{"role": "user", "content": "Hi"}]


def test_only_columns_in_use_are_read() -> None:
    """`columns` names only the columns that the templates use, so that a wide input stays cheap."""
    templates = Templates("{{ b }}", "{% if c %}{{ a }}{% endif %}", ["a", "b", "c", "unused"], None)
    assert templates.columns == ["a", "b", "c"]


@pytest.mark.parametrize(
    "value",
    [
        "{{ 7*7 }}",
        "{% for x in y %}{% endfor %}",
        "{# hidden #}",
        "{0} {} {name} {!r}",
        "%s %d %(name)s 100%",
        "${HOME} $HOME `id`",
        "<|endoftext|><|im_start|>system",
        "<b>&amp;</b> \"quotes\" 'single'",
        "\0 \x07 \x1b[31m",
        "\ufeffBOM",
        "\u202eRTL \u200dZWJ",
        "e\u0301 and \u00e9",
        "line\r\nline\rline\n",
        "  blanks around\t ",
        "\\n \\u0041 \\",
        "\U0001f600",
    ],
)
def test_values_come_through_byte_for_byte(value: str) -> None:
    """Braces, percents, controls and line ends in a cell are text that is neither parsed nor changed."""
    assert _render("{{ v }}", {"v": value}) == value
    assert _render("a{{ v }}b\n", {"v": value}) == f"a{value}b\n"
    assert _render("{{ vars.v }}", {}, {"v": value}) == value


@settings(max_examples=150)
@given(st.text())
def test_any_value_comes_through(value: str) -> None:
    """Rendering changes no text."""
    assert _render("{{ v }}", {"v": value}).encode("utf-8", "surrogatepass") == value.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize(
    "template",
    [
        "{{ v }}",
        "{{ v ~ 'x' }}",
        "{{ 'x' ~ v }}",
        "{{ v + 'x' }}",
        "{{ 'x' + v }}",
        "{{ v * 2 }}",
        "{{ -v }}",
        "{{ v.inner }}",
        "{{ v['inner'] }}",
        "{{ v[0] }}",
        "{{ v() }}",
        "{{ v | upper }}",
        "{{ v | trim }}",
        "{{ v | string }}",
        "{{ v | length }}",
        "{{ v | int }}",
        "{{ v | float }}",
        "{{ v | list }}",
        "{{ v | join }}",
        "{{ v | first }}",
        "{{ v | replace('a', 'b') }}",
        "{{ 'abc' | replace('b', v) }}",
        "{{ v | escape }}",
        "{{ v | urlencode }}",
        "{{ v | tojson }}",
        "{{ '%s' | format(v) }}",
        "{{ '%s' % v }}",
        "{{ '{}'.format(v) }}",
        "{{ [v] | join }}",
        "{{ [v, 'a'] | first }}",
        "{{ 'a' in v }}",
        "{{ v > 3 }}",
        "{% for x in v %}{% endfor %}",
        "{% for x in [v] %}{{ x }}{% endfor %}",
        "{% set copy = v %}{{ copy }}",
        "{% macro say(x) %}{{ x }}{% endmacro %}{{ say(v) }}",
        "{{ v if other else 'x' }}",
        "{{ none }}",
        "{{ v | default(none) }}",
    ],
)
def test_a_null_that_is_not_handled_rejects_its_row(template: str, null: Any) -> None:
    """If a null would become text, the row is rejected: "None" is never sent to a model."""
    fault = _fault(template, {"v": null, "other": "yes"})
    assert fault.code in {"null_value", "template_error"}


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("template", ["{{ v }}", "{{ v ~ 'x' }}", "{{ v | upper }}", "{{ v | trim }}", "{{ v.inner }}"])
def test_a_null_is_named(template: str, null: Any) -> None:
    """The fault says which column is null, or where, and how to handle it."""
    fault = _fault(template, {"v": null})
    assert fault.code == "null_value"
    assert "default('', true)" in fault.message


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("<{{ v | default('', true) }}>", "<>"),
        ("<{{ v | default('x') }}>", "<x>"),
        ("<{{ v | d }}>", "<>"),
        ("{{ v or 'x' }}", "x"),
        ("{% if v %}a{% else %}b{% endif %}", "b"),
        ("{% if not v %}a{% endif %}", "a"),
        ("{{ 'x' if v is none else v }}", "x"),
        ("{% if v == none %}a{% endif %}", "a"),
        ("{% if v != none %}a{% else %}b{% endif %}", "b"),
        ("{% if v == 'x' %}a{% else %}b{% endif %}", "b"),
        ("{% if v is defined %}a{% endif %}", "a"),
        ("{% if v is undefined %}a{% else %}b{% endif %}", "b"),
        ("{% if v != 'x' %}a{% else %}b{% endif %}", "a"),
        ("{% if w is defined %}a{% else %}b{% endif %}", "a"),
        ("{% if s.missing is defined %}a{% else %}b{% endif %}", "b"),
        ("{% if s.missing is undefined %}a{% else %}b{% endif %}", "a"),
        ("{% if w is undefined %}a{% else %}b{% endif %}", "b"),
        ("{{ v | default(w, true) }}", "else"),
        ("{{ 'a' if s.inner is none else 'b' }}", "a"),
        ("{{ 'a' if s.inner is defined else 'b' }}", "a"),
        ("{{ 'a' if w is none else 'b' }}", "b"),
    ],
)
def test_a_null_can_be_handled(template: str, text: str, null: Any) -> None:
    """`default`, `if`, `or` and the tests for none handle a null as expected."""
    assert _render(template, {"v": null, "w": "else", "s": {"inner": null}}) == text


@pytest.mark.parametrize("null", NULLS)
def test_nulls_inside_a_struct(null: Any) -> None:
    """A null field that is shown rejects the row, and one that is handled does not."""
    assert _fault("{{ s.a }}", {"s": {"a": null}}).code == "null_value"
    assert _render("{{ s.a | default('x', true) }}", {"s": {"a": null}}) == "x"
    assert _fault("{% for x in l %}{{ x }}{% endfor %}", {"l": ["a", null]}).code == "null_value"


def test_what_is_not_there_rejects_the_row() -> None:
    """A field or key that a row does not have rejects the row and is not empty text."""
    assert _fault("{{ s.missing }}", {"s": {"a": 1}}).code == "template_error"
    fault = _fault("{{ s.missing | default(1 // 0) }}", {"s": {"a": 1}})
    assert (fault.code, fault.message) == ("template_error", "prompt.user: ZeroDivisionError for this row")


@pytest.mark.parametrize(
    "template",
    [
        "{{ v.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ v['__class__'] }}",
        "{{ v | attr('__class__') }}",
        "{{ ().__class__.__base__ }}",
        "{{ '{0.__class__}'.format(v) }}",
        "{{ '{0.__class__.__init__}' | format(v) ~ v.__class__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ range.__self__ }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ l.append(1) }}",
        "{{ l.clear() }}",
        "{{ s.update({'a': 1}) }}",
        "{{ s.pop('a') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% for x in range(1000000000) %}x{% endfor %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template: str) -> None:
    """A template can only read its values: it reaches no class, file or module, and changes nothing."""
    values: dict[str, Any] = {"v": "text", "l": [1, 2], "s": {"a": 1}}
    assert _fault(template, values).code == "template_error"
    assert values == {"v": "text", "l": [1, 2], "s": {"a": 1}}


def test_faults_never_repeat_values() -> None:
    """The message of a fault is logged, so it holds no cell."""
    for template in (
        "{{ v | int + w }}",
        "{{ d[v] }}",
        "{{ v.missing }}",
        "{{ v.upper().x }}",
        "{{ 1 // (v | length - 6) }}",
    ):
        fault = _fault(template, {"v": "SECRET", "w": "SECRET", "d": {}})
        assert "SECRET" not in fault.message
        assert "SECRET" not in str(fault)


def test_one_row_does_not_spoil_the_next() -> None:
    """A row that fails does not change the rows after it."""
    templates = Templates(None, "{% set x = v %}{{ x }}", ["v"], None)
    with pytest.raises(RowFault):
        templates.render({"v": None})
    assert templates.render({"v": "a"})[0]["content"] == "a"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ text", "`prompt.user`, line 1: "),
        ("a\n{% if %}", "`prompt.user`, line 2: "),
        ("{% for x in y %}", "`prompt.user`, line 1: "),
        ("{{ text | nosuchfilter }}", "nosuchfilter"),
        ("{{ text is nosuchtest }}", "nosuchtest"),
    ],
)
def test_a_mistake_in_a_template_is_found_before_the_first_row(template: str, message: str) -> None:
    """A job with a syntax error or an unknown filter is refused at its start, with the line or the name."""
    with pytest.raises(BadJob) as caught:
        Templates(None, template, ["text"], None)
    assert message in str(caught.value)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    """A name that is not a column is refused at the job's start, with a hint about case and spelling."""
    columns = ["Title", "description", "price"]
    for template, message in (
        ("{{ title }}", "`prompt.user` uses 'title', but the column is written 'Title'"),
        ("{{ descripton }}", "did you mean 'description'?"),
        ("{{ zzz }}", "the columns are Title, description, price"),
        ("{{ vars.x }}", "`prompt.user` uses 'vars'"),
        ("{{ lipsum() }}", "`prompt.user` uses 'lipsum'"),
    ):
        with pytest.raises(BadJob) as caught:
            Templates(None, template, columns, None)
        assert message in str(caught.value)
    with pytest.raises(BadJob, match=r"`prompt\.system` uses 'nothing'"):
        Templates("{{ nothing }}", "{{ price }}", columns, None)


def test_many_columns_are_not_all_told() -> None:
    """The refusal stays short even if the table has a thousand columns."""
    with pytest.raises(BadJob) as caught:
        Templates(None, "{{ zzz }}", [f"column_{number}" for number in range(1000)], None)
    assert len(str(caught.value)) < 400


def test_names_of_the_template_itself_are_no_columns() -> None:
    """Loop variables, macros and `vars` need no column."""
    text = _render(
        "{% for word in v.split() %}{{ loop.index }}{{ word }}{{ vars.end }}{% endfor %}", {"v": "a b"}, {"end": ";"}
    )
    assert text == "1a;2b;"


def test_vars_of_a_job_are_no_column() -> None:
    """If a job sets `vars`, the name means them, even if a column has that name; `row` still reads the column."""
    values = {"v": "text", "vars": "the column's"}
    templates = Templates(None, "{{ vars.tone }} {{ v }}", list(values), {"tone": "plain"})
    assert templates.columns == ["v"]
    assert templates.render({"v": "text"})[0]["content"] == "plain text"
    assert _render("{{ vars.tone }} {{ row['vars'] }}", values, {"tone": "plain"}) == "plain the column's"
    with pytest.raises(BadJob, match="'vars' is a reserved name in templates"):
        Templates(None, "{{ vars.tone }}", list(values), None)


def test_vars_are_looked_up() -> None:
    """`vars.glossary[language]` gives the text for the row's language, and a missing text rejects the row."""
    variables = {"glossary": {"fr": "Bonjour", "no": "Hei"}}
    template = "{{ vars.glossary[language] }}"
    assert _render(template, {"language": "no"}, variables) == "Hei"
    with pytest.raises(RowFault) as caught:
        _render(template, {"language": "xx"}, variables)
    assert caught.value.code == "template_error"


def test_line_ends_of_a_template_are_kept() -> None:
    """The newline at the end of a template is sent."""
    assert _render("a\n\n") == "a\n\n"


@pytest.mark.parametrize(
    ("value", "text"), [(5, "5"), (1.5, "1.5"), (True, "True"), (0, "0"), (False, "False"), ("", "")]
)
def test_numbers_become_text(value: Any, text: str) -> None:
    """Numbers and truth values are shown as in Python, and 0 and false are not nulls."""
    assert _render("{{ v }}", {"v": value}) == text


NAMES = [
    "text",
    "product title",
    "2nd",
    "title-fr",
    "none",
    "True",
    "not",
    "vars",
    "self",
    'a"b',
    "a'b",
    "a\\n",
    "}}{{",
    "é",
    "{%",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_column_can_be_shown(name: str) -> None:
    """Any column has a template that uses only that column, and a null in it rejects the row as `null_value`."""
    names = [*NAMES, "0_of_row"]
    templates = Templates(None, column_template(name), names, None)
    assert templates.columns == [name]
    assert templates.render({name: "V {{ 1 }}"})[0]["content"] == "V {{ 1 }}"
    with pytest.raises(RowFault) as caught:
        templates.render({name: None})
    assert caught.value.code == "null_value"


@given(st.text(max_size=12))
def test_any_name_can_be_shown(name: str) -> None:
    """A column may have any text as its name."""
    assert Templates(None, column_template(name), [name], None).render({name: "x"}) == [
        {"role": "user", "content": "x"}
    ]


def test_columns_are_looked_up() -> None:
    """`row` gives columns by name in both templates, also in conditions and filters."""
    columns = ["product title", "b"]
    templates = Templates(
        '{{ row["product title"] | upper }}', '{% if row["b"] %}{{ row["b"] }}{% endif %}', columns, None
    )
    assert templates.columns == columns
    shown = templates.render({"product title": "x", "b": None})
    assert [each["content"] for each in shown] == ["X", ""]
    with pytest.raises(
        BadJob, match=r"`prompt\.user` looks up 'product titel' in `row`, did you mean 'product title'\?"
    ):
        Templates(None, '{{ row["product titel"] }}', columns, None)
    assert Templates(None, "{{ row.b }}", columns, None).columns == ["b"]
    for dynamic in ("{{ row[b] }}", "{{ row }}", "{% for c in 'ab' %}{{ row[c] }}{% endfor %}"):
        with pytest.raises(BadJob, match=r"`prompt\.user` uses 'row', which takes the name of a column in quotes"):
            Templates(None, dynamic, columns, None)
    with pytest.raises(BadJob, match=r"the column 'product title' is written \{\{ row\[\"product title\"\] \}\}"):
        Templates(None, "{{ product title }}", columns, None)


def test_a_row_of_ones_own_is_no_lookup() -> None:
    """If a column or a template variable is called `row`, the name means that."""
    assert _render('{{ row["a"] }}', {"row": {"a": "x"}, "a": "y"}) == "x"
    assert _render("{{ row.a }}", {"row": {"a": "x"}, "a": "y"}) == "x"
    assert _render('{{ row["a b"] }}{{ row["c d"] }}', {"row": {"c d": "x"}, "a b": "y"}) == "yx"
    assert _render('{% for row in rows %}{{ row["a"] }}{% endfor %}', {"rows": [{"a": "x"}], "a": "y"}) == "x"


@pytest.mark.parametrize(
    ("template", "fields", "shown"),
    [
        ('{{ row["a"] }}', None, "of the column"),  # its fields are not known
        ('{{ row["a"] }}', {"a"}, "of the column"),
        ('{{ row["a"] }}', {"b"}, "y"),
        ("{{ row.a }}", {"b"}, "y"),
        ('{{ row["b"] }}', {"b"}, "of b"),
        ('{{ row["a"] }}', (), "y"),
    ],
)
def test_a_column_called_row_beside_a_lookup(template: str, fields: Any, shown: str) -> None:
    """If a column `row` has no field of a name, `row[...]` looks up the column of that name."""
    values = {"row": {"a": "of the column", "b": "of b"}, "a": "y"}
    assert Templates(None, template, values, None, fields).render(values)[0]["content"] == shown


def test_letters_that_python_takes_for_others() -> None:
    """Columns whose names are equal in Unicode's compatibility form are kept apart, however they are written."""
    columns = {"\N{LATIN SMALL LIGATURE FI}": "A", "fi": "B"}
    assert _render("{{ \N{LATIN SMALL LIGATURE FI} }}|{{ fi }}", columns) == "A|B"
    assert [_render(column_template(name), columns) for name in columns] == ["A", "B"]


_UUID = "0189d2f4-5c8a-7b3e-9f10-2a4b6c8d0e1f"
_NS = 1_700_000_000_000_000_005


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (date(2024, 2, 29), '"2024-02-29"'),
        (datetime(2024, 2, 29, 23, 59, 1), '"2024-02-29T23:59:01"'),  # noqa: DTZ001 - a column without a time zone
        (datetime(2024, 2, 29, 23, 59, 1, 5, tzinfo=UTC), '"2024-02-29T23:59:01.000005+00:00"'),
        (pa.scalar(_NS, pa.timestamp("ns", "UTC")).as_py(), '"2023-11-14T22:13:20.000000005+00:00"'),
        (time(7, 5), '"07:05:00"'),
        (time(7, 5, 1, 250_000), '"07:05:01.250000"'),
        (timedelta(0), '"PT0S"'),
        (timedelta(days=2, hours=3, microseconds=500_000), '"P2DT3H0.5S"'),
        (timedelta(days=400), '"P400D"'),
        (timedelta(minutes=61), '"PT1H1M"'),
        (-timedelta(seconds=3), '"-PT3S"'),
        (pa.scalar(3_000_000_005, pa.duration("ns")).as_py(), '"PT3.000000005S"'),
        (Decimal("1.50"), "1.50"),
        (Decimal("-0.000000001"), "-0.000000001"),
        (Decimal("1E+5"), "100000"),
        (Decimal("12345678901234567890123456789.123456789"), "12345678901234567890123456789.123456789"),
        (uuid.UUID(_UUID), f'"{_UUID}"'),
    ],
)
def test_json_of_dates_and_decimals(value: Any, text: str) -> None:
    """`tojson` writes dates, times and durations as ISO 8601, a UUID as text, and a decimal with all its digits.

    This holds alone, in a list and in a struct.
    """
    assert _render("{{ v | tojson }}", {"v": value}) == text
    assert _render("{{ v | tojson }}", {"v": [value, value]}) == f"[{text}, {text}]"
    assert _render("{{ v | tojson }}", {"v": {"b": [value], "a": None}}) == f'{{"a": null, "b": [{text}]}}'
    assert json.loads(_render("{{ v | tojson(indent=2) }}", {"v": [value]})) == [json.loads(text)]


def test_json_of_many_decimals() -> None:
    """Each decimal of a document keeps its own position, and a text that looks like one stays text."""
    values = [Decimal(number).scaleb(-2) for number in range(2_000)]
    text = _render("{{ v | tojson }}", {"v": [*values, "0.01", "<b>"]})
    assert json.loads(text, parse_float=Decimal) == [*values, "0.01", "<b>"]
    assert text.endswith('"0.01", "\\u003cb\\u003e"]')


def test_json_of_arrow_columns() -> None:
    """`tojson` accepts pyarrow's Python value of each of these column types."""
    moment = datetime(2024, 2, 29, 12, tzinfo=UTC)
    columns = {
        pa.date32(): moment.date(),
        pa.date64(): moment.date(),
        pa.timestamp("s"): moment.replace(tzinfo=None),
        pa.timestamp("ns", "Europe/Paris"): moment,
        pa.time32("s"): time(1, 2, 3),
        pa.time64("ns"): time(1, 2, 3),
        pa.duration("ms"): timedelta(seconds=1),
        pa.decimal128(38, 10): Decimal("1.5"),
        pa.decimal256(60, 30): Decimal("1.5"),
        pa.uuid(): uuid.UUID(_UUID).bytes,
    }
    for kind, value in columns.items():
        (cell,) = pa.array([value], kind).to_pylist()
        assert json.loads(_render("{{ v | tojson }}", {"v": {"x": cell}}))["x"] not in {None, ""}, kind


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"\xff", "invalid_utf8"),
        ({"a": b"\xff"}, "invalid_utf8"),
        (None, "null_value"),
        (complex(1, 2), "type complex"),
        (Decimal("NaN"), "type Decimal"),
    ],
)
def test_what_json_cannot_hold_rejects_its_row(value: Any, fault: str) -> None:
    """Bytes that are not text, a null cell and other types reject the row, and the fault says which it was."""
    found = _fault("{{ v | tojson }}", {"v": value})
    assert fault in f"{found.code}: {found}"
    assert "TypeError" not in str(found)


@pytest.mark.parametrize(
    ("text", "found", "written"),
    [
        ("Summarize: {text}", "{text}", "{{ text }}"),
        ("{ text }", "{ text }", "{{ text }}"),
        ("${text}", "${text}", "{{ text }}"),
        ("{text!r}", "{text!r}", "{{ text }}"),
        ("{text:>20}", "{text:>20}", "{{ text }}"),
        ("%(text)s", "%(text)s", "{{ text }}"),
        ("{product title}", "{product title}", '{{ row["product title"] }}'),
        ("{other} {text}", "{text}", "{{ text }}"),
        ("{{ vars.x }} {text}", "{text}", "{{ text }}"),
    ],
)
def test_a_column_in_the_braces_of_another_language(text: str, found: str, written: str) -> None:
    """If a prompt names columns only in the syntax of Python or a shell, the refusal shows how to write them."""
    with pytest.raises(BadJob) as caught:
        Templates(None, text, ["text", "product title"], {"x": 1})
    assert f"`prompt.user` has {found}, which is plain text: did you mean {written}?" in str(caught.value)
    escaped = f'{{{{ "{found}" }}}}'
    assert escaped in str(caught.value)
    assert Templates(None, escaped, ["text"], {}).render({})[0]["content"] == found


@pytest.mark.parametrize(
    "text",
    ["{other}", "{}", "{0}", '{"text": 1}', "{{ text }} and {title}", "{# {text} #}x", "text", "{text", "[text]"],
)
def test_braces_that_are_no_column(text: str) -> None:
    """Braces around anything else, or in a prompt that uses a column, are text."""
    Templates(None, text, ["text", "title"], None)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 'a'.b ~ 'c' }}", "'str object' has no attribute 'b'"),
        ("{{ '{{' . text ~ text }}", "'str object' has no attribute 'text'"),
    ],
)
def test_a_constant_that_cannot_be_computed_is_refused(template: str, reason: str) -> None:
    """Jinja computes constants while it compiles; what fails there is refused with its reason, before any row is read."""
    with pytest.raises(BadJob, match=re.escape(f"`prompt.user` has an expression that cannot be computed: {reason}")):
        Templates(None, template, ["text"], None)
