"""Parquill: bulk LLM completions from Parquet to Parquet, on budget, run by Prefect.

The Python API is in `parquill.flows`:

    from parquill.flows import complete_prompts, estimate_cost

This file is `parquill/__init__.py` in an installed package (see `package-dir` in pyproject.toml).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["__version__"]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Return the installed version as `__version__`; it is looked up late, since that takes 20 ms."""
        if name == "__version__":
            from importlib.metadata import version

            return version("parquill")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
