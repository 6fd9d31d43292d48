"""OpenAI's rules for a strict schema, checked before anything is sent.

https://platform.openai.com/docs/guides/structured-outputs (supported schemas), and what else the API refuses. This
check refuses only what the API is known to refuse: if it lets a fault through, OpenAI refuses the request, unpaid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from parquill.tasks.errors import BadJob
from parquill.tasks.job.providers import is_azure, is_openai
from parquill.tasks.job.response_format import read_format
from parquill.tasks.job.settings import Job

MAX_PROPERTIES, MAX_LEVELS = 5_000, 10
MAX_CHARACTERS = 120_000  # of all names, definitions, enum values and const values together
MAX_ENUM_VALUES, LARGE_ENUM, MAX_ENUM_CHARACTERS = 1_000, 250, 15_000
FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid".split())
TYPES = frozenset("string number boolean integer object array null".split())
_REFUSED = frozenset(
    (
        "allOf oneOf not if then else dependentRequired dependentSchemas default uniqueItems patternProperties "
        "propertyNames minProperties maxProperties unevaluatedProperties unevaluatedItems contains minContains "
        "maxContains"
    ).split()
)
# refused in addition by fine-tuned models
_REFUSED_BY_TUNED = frozenset("minLength maxLength pattern format minimum maximum multipleOf minItems maxItems".split())
_LOOKAROUND = re.compile(r"(?<!\\)\(\?<?[=!]")
_WAY_OUT = "Change it there, or set `strict: false` (response_format: {type: json_schema, strict: false, schema: ...})"


class _SchemaNode(NamedTuple):
    pointer: str
    schema: Mapping[str, Any]
    level: int  # of objects within objects


class _Fault(NamedTuple):
    pointer: str
    sentence: str


def check_strict(job: Job) -> None:
    """Refuse a schema that OpenAI would refuse for every row. Raises BadJob, which names the place in the schema."""
    asked = read_format(job.response_format)
    at_openai = [
        each for each in job.each_endpoint if is_openai(each.endpoint.base_url) or is_azure(each.endpoint.base_url)
    ]
    if asked is None or asked.schema is None or not asked.strict or not at_openai:
        return
    faults = list(_faults(asked.schema, is_tuned=any("ft:" in each.model for each in at_openai)))
    if faults:
        first, more = faults[0], len({fault.pointer for fault in faults} - {faults[0].pointer})
        others = f" (and {more:,} more in other places)" if more else ""
        raise BadJob(
            f"`response_format`: OpenAI refuses this schema as a strict one: at {first.pointer} {first.sentence}"
            f"{others}. {_WAY_OUT}"
        )


def _faults(schema: Mapping[str, Any], *, is_tuned: bool) -> Iterator[_Fault]:
    if "anyOf" in schema or schema.get("type") != "object":
        yield _Fault("#", "the schema itself must have `type: object` (no anyOf, no $ref)")
    refused = _REFUSED | (_REFUSED_BY_TUNED if is_tuned else frozenset())
    sizes = _Sizes()
    for node in _places(schema):
        yield from _faults_of_place(node, refused)
        yield from sizes.add(node)


def _places(schema: Mapping[str, Any]) -> Iterator[_SchemaNode]:
    """Yield every schema within a schema, each once; a $ref is its own place and is not followed."""
    waiting = [_SchemaNode("#", schema, 0)]
    while waiting:
        node = waiting.pop()
        pointer, found, level = node
        yield node
        level += _is_object(found)
        inner: list[tuple[str, Any, int]] = [("items", found.get("items"), level)]
        inner += [(f"properties/{_escape(name)}", value, level) for name, value in _members(found, "properties")]
        any_of = found.get("anyOf")
        inner += [(f"anyOf/{n}", value, level) for n, value in enumerate(any_of if isinstance(any_of, list) else ())]
        for kind in ("$defs", "definitions"):
            inner += [(f"{kind}/{_escape(name)}", value, 0) for name, value in _members(found, kind)]
        schemas = [(way, value, at) for way, value, at in reversed(inner) if isinstance(value, Mapping)]
        waiting += [_SchemaNode(f"{pointer}/{way}", value, at) for way, value, at in schemas]


def _faults_of_place(node: _SchemaNode, refused: frozenset[str]) -> Iterator[_Fault]:
    pointer, found, level = node
    if "$ref" in found:
        beside = sorted(found.keys() - {"$ref", "$defs", "definitions", "$schema", "$id"})
        if beside:
            yield _Fault(pointer, f"{beside[0]!r} is next to $ref, which must be alone")
        return
    yield from (_Fault(pointer, f"{name!r} is not allowed") for name in found if name in refused)
    kinds = found.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not {"type", "anyOf", "enum", "const"} & found.keys():
        yield _Fault(pointer, "there is no `type`")
    if "array" in kinds and not isinstance(found.get("items"), Mapping):
        yield _Fault(pointer, "the array has no `items`")
    if (form := found.get("format")) is not None and form not in FORMATS:
        yield _Fault(pointer, f"the format is not one of {', '.join(sorted(FORMATS))}")
    if isinstance(pattern := found.get("pattern"), str) and _LOOKAROUND.search(pattern):
        yield _Fault(pointer, "the pattern has a lookahead or lookbehind")
    if _is_object(found):
        yield from _faults_of_object(node)
        if level >= MAX_LEVELS:
            yield _Fault(pointer, f"objects are nested more than {MAX_LEVELS} levels deep")


def _faults_of_object(node: _SchemaNode) -> Iterator[_Fault]:
    pointer, found, _ = node
    if found.get("additionalProperties") is not False:
        yield _Fault(pointer, "the object lacks `additionalProperties: false`")
    required = found.get("required")
    known = required if isinstance(required, list) else []
    missing = [name for name, _ in _members(found, "properties") if name not in known]
    if missing:
        yield _Fault(pointer, f"`required` lacks {missing[0]!r} (list every property; let an optional one be null)")


class _Sizes:
    """Checks the limits over the whole schema; each is reported once."""

    def __init__(self) -> None:
        self._properties = self._values = self._characters = 0

    def add(self, node: _SchemaNode) -> Iterator[_Fault]:
        """Count a place; yields a fault for each limit that is exceeded with it."""
        found = node.schema
        names = [name for kind in ("properties", "$defs", "definitions") for name, _ in _members(found, kind)]
        enum = found.get("enum")
        values: list[Any] = enum if isinstance(enum, list) else []
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) > LARGE_ENUM and sum(map(len, texts)) > MAX_ENUM_CHARACTERS:
            yield _Fault(
                node.pointer, f"the enum of more than {LARGE_ENUM} values has over {MAX_ENUM_CHARACTERS:,} characters"
            )
        const = [found["const"]] if isinstance(found.get("const"), str) else []
        before = (self._properties, self._values, self._characters)
        self._properties += sum(1 for _ in _members(found, "properties"))
        self._values += len(values)
        self._characters += sum(map(len, [*names, *texts, *const]))
        now = (self._properties, self._values, self._characters)
        limits = ("properties", "values of enums", "characters of names and values")
        for old, new, most, what in zip(before, now, _LIMITS, limits, strict=True):
            if old <= most < new:
                yield _Fault(node.pointer, f"the schema has more than {most:,} {what}")


_LIMITS = (MAX_PROPERTIES, MAX_ENUM_VALUES, MAX_CHARACTERS)


def _is_object(found: Mapping[str, Any]) -> bool:
    kind = found.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind) or (kind is None and "properties" in found)


def _members(found: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    inner = found.get(name)
    if isinstance(inner, Mapping):
        yield from inner.items()


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
