"""Every command on the pages is valid: its name, its options, and its number of arguments."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path

import click
import cyclopts
import pytest
from prefect.cli._app import _app, _normalize_top_level_flags

from parquill.flows.cli.commands import cli
from tests.docs.pages import ROOT, commands, docs, name_of, pages, spans, split

TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
# Options of other programs, vLLM and pip, that appear alone in a sentence.
OTHERS = frozenset({"--api-key", "--require-hashes"})
SOME_ID = "00000000-0000-0000-0000-000000000000"


def parse_parquill(words: list[str]) -> str | None:
    """Parse the words after `parquill` as the command does, without running it; return the error."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if not words or words[0].startswith("-"):
                cli.make_context("parquill", words or ["--help"])
                return None
            if words[0] not in cli.commands:
                return f"no command {words[0]}"
            parent = click.Context(cli, info_name="parquill", **cli.context_settings)
            cli.commands[words[0]].make_context(words[0], words[1:], parent)
    except click.exceptions.Exit:
        return None
    except click.UsageError as error:
        return error.format_message()
    return None


def parse_prefect(words: list[str]) -> str | None:
    """Parse the words after `prefect` as Prefect does, without running it; return the error."""
    words = [word for word in _normalize_top_level_flags(words) if word not in {"--no-prompt", "--prompt"}]
    if words[:1] == ["--profile"]:
        words = words[2:]
    # a placeholder for an id, such as FLOW_RUN_ID
    for tried in (words, [SOME_ID if re.fullmatch(r"[A-Z][A-Z_]+", word) else word for word in words]):
        try:
            _app.parse_args(tried, exit_on_error=False, print_error=False)
        except cyclopts.CycloptsError as error:
            wrong = str(error) or type(error).__name__
        else:
            return None
    return wrong


def wrong_with(words: list[str]) -> str | None:
    """Return the error of a command; None if it has none or is from another program."""
    name, rest = words[0], words[1:]
    if name == "make":
        unknown = [word for word in rest if "=" not in word and not word.startswith("-") and word not in TARGETS]
        return f"no target {unknown[0]}" if unknown else None
    if name == "prefect":
        return parse_prefect(rest)
    if name != "parquill":
        return None
    if "--" in rest and (found := wrong_with(rest[rest.index("--") + 1 :] or ["true"])):
        return found
    return parse_parquill(rest)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_command_is_one(page: Path) -> None:
    """Each parquill, prefect and make command in a console block parses as the program itself parses it."""
    text = page.read_text(encoding="utf-8")
    wrong = {" ".join(words): found for words in commands(text) if (found := wrong_with(words))}
    assert wrong == {}


@functools.cache
def prefect_options() -> frozenset[str]:
    """Return every option of Prefect's commands."""
    return frozenset(_options(_app))


def _options(app: cyclopts.App) -> Iterator[str]:
    if app.default_command is not None:
        yield from (name for each in app.assemble_argument_collection() for name in each.names)
    for name in app:
        if not name.startswith("-"):
            yield from _options(app[name])


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_command_in_a_sentence_is_one(page: Path) -> None:
    """A command in a sentence exists, and so does each of its options."""
    text = page.read_text(encoding="utf-8")
    shown = {word for words in commands(text) for word in words if word.startswith("--")}
    own = {name for command in cli.commands.values() for option in command.params for name in option.opts}
    known = own | shown | {"--help", "--version"}
    wrong = []
    for span in spans(text):
        name, *rest = span.split()
        options = {word.partition("=")[0] for word in rest if re.match(r"--[a-z]", word)}
        if name == "make":
            wrong += [span for word in rest[:1] if word not in TARGETS and word.islower()]
        elif name == "prefect":
            wrong += [span for word in rest[:1] if word not in list(_app) and re.match(r"[a-z]", word)]
        elif name == "parquill":
            given = [word for word in rest if not word.startswith("-")][:1]
            wrong += [span for word in given if word not in cli.commands and word.islower()]
            wrong += [span] * bool(options - known)
        elif name in cli.commands:
            wrong += [span] * bool(options - known)
        elif re.match(r"--[a-z]", name):
            wrong += [span] * bool((options | {name.partition("=")[0]}) - known - prefect_options() - OTHERS)
    assert wrong == []


def test_every_command_is_told() -> None:
    """The page of commands has a section for each command, in the order of `parquill --help`."""
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^## parquill (.+)$", page, re.MULTILINE) == list(cli.commands)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("parquill rum job.yaml", "no command rum"),
        ("parquill run job.yaml --rendo failed", "--rendo"),
        ("parquill run", "Missing argument"),
        ("parquill run a.yaml b.yaml", "unexpected extra argument"),
        ("parquill run job.yaml --limit ten", "whole number"),
        ("parquill serve-model -- parquill run", "Missing argument"),
        ("KEY=x .venv/bin/parquill rum > out.txt", "no command rum"),
        ("parquill schema > job.schema.json && parquill rum", "no command rum"),
        ("docker compose exec worker parquill rum", "no command rum"),
        ("make nonsense", "no target nonsense"),
        ("prefect nonsense", "nonsense"),
        ("prefect work-pool create --kind process x", "--kind"),
        ("prefect --no-prompt deploy --everything", "--everything"),
    ],
)
def test_a_wrong_command_is_found(line: str, word: str) -> None:
    """A command, an option, a value or an argument that does not exist is found, and so is a missing argument."""
    found = [error for words in split(line) if (error := wrong_with(words))]
    assert len(found) == 1
    assert word in found[0]


def test_a_right_command_is_not_found() -> None:
    """Variables, redirections, comments, placeholders for ids and commands of other programs are accepted."""
    lines = (
        "A=b parquill run job.yaml --set a.b=1 --redo failed,ok > out.txt  # again",
        "parquill --version",
        "nohup parquill run job.yaml > run.log 2>&1 &",
        "parquill estimate --help",
        "until curl -sf http://127.0.0.1/; do sleep 1; done",
        "prefect --no-prompt deploy --all",
        "prefect flow-run delete FLOW_RUN_ID",
        "prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api",
        "parquill serve-model -- parquill run job.yaml --set endpoint.base_url={url}",
    )
    assert [line for line in lines for words in split(line) if wrong_with(words)] == []


def test_there_are_pages() -> None:
    """The pages of docs/ are among the tested pages."""
    assert len(docs()) >= 10
    assert set(docs()) <= set(pages())
