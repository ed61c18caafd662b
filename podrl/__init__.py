"""podrl: deep reinforcement learning on TPU pods and GPU clusters.

From Python these are its names; docs/python.md shows them. A command line begins at `podrl.train`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podrl.api.policy import Policy as Policy
    from podrl.api.policy import load_policy as load_policy
    from podrl.api.running import run as run
    from podrl.api.stablehlo import export_policy as export_policy
    from podrl.api.tables import metrics as metrics
    from podrl.loops.interface import Outcome as Outcome
    from podrl.mistakes import ConfigError as ConfigError

_PLACES = {
    "ConfigError": "podrl.mistakes",
    "Outcome": "podrl.loops.interface",
    "Policy": "podrl.api.policy",
    "export_policy": "podrl.api.stablehlo",
    "load_policy": "podrl.api.policy",
    "metrics": "podrl.api.tables",
    "run": "podrl.api.running",
}
__all__ = ["ConfigError", "Outcome", "Policy", "export_policy", "load_policy", "metrics", "run"]


def __getattr__(name: str) -> Any:
    """Imports one of the names once it is asked for: JAX takes seconds, and tools do without."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the names that are imported late, for editors and notebooks."""
    return sorted({*globals(), *__all__})
