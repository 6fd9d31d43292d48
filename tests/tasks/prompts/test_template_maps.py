"""A null inside an Arrow map never becomes text."""

from __future__ import annotations

import pytest

from parquill.tasks.errors import RowFault
from parquill.tasks.prompts.template import Templates


@pytest.mark.parametrize("template", ["{{ m }}", "{{ m[0][1] | upper }}", "{{ m[0][1] ~ 'x' }}"])
def test_a_null_in_a_map_never_becomes_text(template: str) -> None:
    """A null that the template does not handle rejects its row, even as a value of a map."""
    with pytest.raises(RowFault):
        Templates(None, template, ["m"], None).render({"m": [("k", None)]})
