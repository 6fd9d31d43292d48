"""A template can make any text that a prompt can hold, and no longer text."""

from __future__ import annotations

import tracemalloc

import pytest

from parquill.tasks.errors import RowFault
from parquill.tasks.prompts.template import Templates

MAX_PEAK_BYTES = 128 << 20  # enough to make and join the longest prompt
TOO_MUCH = [
    "{{ 'x' * 10**10 }}",
    "{{ 10**10 * text }}",
    "{{ ['x'] * 10**10 }}",
    "{{ 7 ** (10**10) }}",
    "{{ '%010000000000d' % 1 }}",
    "{{ '%*d' % (10**10, 1) }}",
    "{{ '%10000000000s' | format(text) }}",
    "{{ '{:10000000000}'.format(1) }}",
    "{{ text | center(10**10) }}",
    "{{ text | indent(10**10, first=true) }}",
    "{{ text | indent(width=10**10, first=true) }}",
    "{{ [text] | tojson(indent=10**10) }}",
    "{{ text.ljust(10**10) }}",
    "{{ text.zfill(10**10) }}",
    "{{ '\\t'.expandtabs(10**10) }}",
    "{{ ('a' * 90000) | replace('a', 'b' * 90000) }}",
    "{{ ('a' * 90000).replace('a', 'b' * 90000) }}",
    "{{ range(100000) | join('x' * 100000) }}",
    "{{ ('x' * 100000).join(['a'] * 100000) }}",
    "{% for i in range(100000) %}{{ 'x' * 10000 }}{% endfor %}",
]
FINE = [
    ("{{ '-' * 3 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ 3 * 4 }}", "---1024312"),
    ("{{ '%s and %3d' | format('a', 5) }} {{ '%s' % text }} {{ '{:>3}'.format(7) }}", "a and   5 T  x   7"),
    ("{{ text | replace('T', 'b') | upper }}|{{ text.replace('x', '') }}", "B  X|T  "),
    ("{{ [1, 2] | join(', ') }} {{ ', '.join(['a', 'b']) }}", "1, 2 a, b"),
    ("{{ 'a' | center(3) }}|{{ 'a'.ljust(3) }}|{{ 'a\\nb' | indent(2) }}", " a |a  |a\n  b"),
    ("{{ [{'a': 1}] | map(attribute='a') | sum }} {{ [3, 1] | sort | first }} {{ {'a': 1} | tojson }}", '1 1 {"a": 1}'),
    ("{% for word in text.split() %}{{ loop.index }}{{ word }}{% endfor %}", "1T2x"),
]


@pytest.mark.parametrize("template", TOO_MUCH)
def test_too_much_text_rejects_the_row(template: str) -> None:
    """A step that would use up the machine's memory rejects its row with a message before it uses any."""
    templates = Templates(None, template, ["text"], None)
    tracemalloc.start()
    try:
        with pytest.raises(RowFault, match="makes more text than any prompt can hold") as caught:
            templates.render({"text": "T  x"})
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "template_error"
    assert peak_bytes < MAX_PEAK_BYTES


@pytest.mark.parametrize(("template", "text"), FINE)
def test_what_templates_do_is_done(template: str, text: str) -> None:
    """Operators, filters and methods work as Jinja2 documents them."""
    assert Templates(None, template, ["text"], None).render({"text": "T  x"})[0]["content"] == text
