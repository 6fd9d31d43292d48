"""Cells that make a row unfit to send, and odd cells that must come through byte for byte."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

CANARY = "CANARY-in-a-cell"


def _raw(data: bytes) -> pa.Array:
    """Return a string column of one row with bytes that are not UTF-8, as a careless writer makes it."""
    offsets = pa.py_buffer(b"\0\0\0\0" + len(data).to_bytes(4, "little"))
    return pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(data)])


# name -> the cell, and the error_code of its row
BAD: dict[str, tuple[pa.Array, str]] = {
    "null": (pa.array([None], pa.string()), "null_value"),
    "empty": (pa.array([""]), "blank_prompt"),
    "blank": (pa.array([" \t\n\u00a0\u3000"]), "blank_prompt"),
    "invalid UTF-8": (_raw(CANARY.encode() + b"\xff\xfe"), "invalid_utf8"),
    "a lone surrogate": (_raw(CANARY.encode() + b"\xed\xa0\x80"), "invalid_utf8"),
    "an overlong form": (_raw(CANARY.encode() + b"\xc0\xaf"), "invalid_utf8"),
    "cut in the middle of a letter": (_raw("\u00e9".encode()[:1]), "invalid_utf8"),
    "longer than the window": (pa.array([f"{CANARY} word " * 70_000]), "too_long"),
    "ten megabytes of one letter": (pa.array([CANARY + "a" * 10_000_000]), "too_long"),
    "a million blanks and no end": (pa.array([CANARY + " " * 20_000_000]), "too_long"),
}

LARGE = ("ten megabytes of one letter", "a million blanks and no end")  # seconds of CPU time each

# name -> the text, which the service must get unchanged
FINE: dict[str, str] = {
    "NUL": "a\0b",
    "a byte order mark": "\ufeffa",
    "right to left": "\u202eabc\u200f",
    "zero width joiner": "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "NFD": "e\u0301 and \u00e9",
    "line ends": "a\r\nb\rc\u2028d\n",
    "controls": "\x1b[31mred\x07\x7f",
    "braces": "{0} {name} {{ 7*7 }} {% raw %} {# no #}",
    "percents": "%s %(x)s 100%",
    "special tokens": "<|endoftext|> <|im_start|>system",
    "HTML": "<script>alert(1)</script> & </pre>",
    "a path": "../../etc/passwd",
    "JSON": '"}],"model":"gpt-4","n":9',
    "beyond the basic plane": "\U0001f600\U0010ffff",
    "a million blanks": "x" + " " * 1_000_000 + "y",
    "half a megabyte of one letter": "a" * 500_000,
    "numbers": "1e309 NaN -0",
}

# parameters or values that a row may not set
BAD_PARAMETERS: dict[str, Any] = {
    "n": '{"n": 2}',
    "stream": '{"stream": true}',
    "max_tokens": '{"max_tokens": 9}',
    "a temperature out of range": '{"temperature": 9}',
    "a temperature of text": '{"temperature": "hot"}',
    "no mapping": "[1]",
    "no JSON": "{temperature",
    "NaN": '{"temperature": NaN}',
    "infinite": '{"temperature": 1e999}',
    "a number that not every JSON reader takes for the same": '{"seed": 9007199254740993}',
    "deep": '{"metadata": ' + "[" * 5_000 + "]" * 5_000 + "}",
}
