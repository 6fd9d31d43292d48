"""The glossary of a translation: terms by language, `{fr: {basket: panier}}`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import read_yaml

Terms = dict[str, str] | str  # in a file the terms of a language may also be a text
SHAPE = "{language: {term: translation}}, for example {fr: {basket: panier}}"
_TYPE = TypeAdapter(dict[str, Terms])


def read_glossary(glossary: dict[str, dict[str, str]] | str, languages: Sequence[str]) -> dict[str, Any]:
    """The terms of a glossary, or of the file of that name. Raises BadJob, also if it has none of the languages.

    Every row would be paid for with no term used: nobody means that.
    """
    where: str = "`glossary`"
    terms: Any = glossary
    if isinstance(glossary, str):
        if "://" in glossary:
            raise BadJob(f"`glossary`: {glossary} is an address; it must be a file of the machine that runs this")
        where = f"`glossary`: the file {glossary}"
        try:
            terms = _TYPE.validate_python(read_yaml(Path(glossary).expanduser(), "`glossary`"))
        except ValidationError:
            terms = ""
    if not isinstance(terms, dict):
        raise BadJob(f"{where} must hold {SHAPE}, all of it text")
    if not any(terms.get(language) for language in languages):
        raise BadJob(f"{where} has no terms for {' or '.join(languages)}; it must hold {SHAPE}")
    return terms
