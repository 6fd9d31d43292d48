"""The Python API: four flows, which are called like functions, and the types of what they return.

    from parquill.flows import complete_prompts

    run = complete_prompts("job.yaml", input=frame, settings={"budget.run_usd": 5})
    print(run.cost_usd, run.to_pandas())

Each flow is the order of its steps: no arithmetic, no loop over rows.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parquill.flows.complete_prompts import complete_prompts
    from parquill.flows.estimate_cost import estimate_cost
    from parquill.flows.summarize import summarize
    from parquill.flows.translate import translate
    from parquill.tasks.results.completed_run import CompletedRun
    from parquill.tasks.results.cost_estimate import CostEstimate

__all__ = ["CompletedRun", "CostEstimate", "complete_prompts", "estimate_cost", "summarize", "translate"]
_FLOWS = frozenset({"complete_prompts", "estimate_cost", "summarize", "translate"})
_TYPES = {
    "CompletedRun": "parquill.tasks.results.completed_run",
    "CostEstimate": "parquill.tasks.results.cost_estimate",
}


class _FlowsModule(ModuleType):
    """Keeps the name of each flow bound to the flow, although its file is a submodule of the same name.

    When Python imports a submodule, it binds the module to its name in the package. Here that binds the flow.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        is_file = name in _FLOWS and isinstance(value, ModuleType)
        # promise: api: the name of a flow is the flow, whichever file is imported first
        super().__setattr__(name, getattr(value, name) if is_file else value)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a flow or a type when it is first used: Prefect takes a second, and `parquill --help` does without."""
        if name in _FLOWS:
            importlib.import_module(f"{__name__}.{name}")
            return vars(sys.modules[__name__])[name]
        if name in _TYPES:
            return getattr(importlib.import_module(_TYPES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _FlowsModule
