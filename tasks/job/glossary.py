"""The glossary of a translation: terms by language, `{fr: {basket: panier}}`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import read_yaml

Terms = dict[str, str] | str  # in a file the terms of a language may also be plain text
SHAPE = "{language: {term: translation}}, for example {fr: {basket: panier}}"
_TYPE = TypeAdapter(dict[str, Terms])


def read_glossary(glossary: dict[str, dict[str, str]] | str, languages: Sequence[str]) -> dict[str, Any]:
    """Return the terms of a glossary, or of the file with that name. Raises BadJob.

    A glossary without any of the languages is refused: every row would be paid for, and no term used.
    """
    where: str = "`glossary`"
    terms: Any = glossary
    if isinstance(glossary, str):
        # promise: presets: a glossary given as an address is refused
        if "://" in glossary:
            raise BadJob(f"`glossary`: {glossary} is an address; it must be a file on the machine that runs the flow")
        where = f"`glossary`: the file {glossary}"
        try:
            # promise: presets: a glossary with the wrong structure is refused
            terms = _TYPE.validate_python(read_yaml(Path(glossary).expanduser(), "`glossary`"))
        except ValidationError:
            terms = ""
    if not isinstance(terms, dict):
        raise BadJob(f"{where} must hold {SHAPE}; all values must be text")
    # promise: presets: a glossary without terms for the job's languages is refused
    if not any(terms.get(language) for language in languages):
        raise BadJob(f"{where} has no terms for {' or '.join(languages)}; it must hold {SHAPE}")
    return terms
