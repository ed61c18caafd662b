"""Switches off tensorstore's metrics, which podrl does not read and which leak memory.

Orbax asks for them twice in every save. Up to tensorstore 0.1.86 no value that it turns from JSON into Python is ever
freed: 5 kB of metrics a call. The specs of arrays leak as well, about 5 kB a checkpoint, and Orbax needs them to save.
"""

from typing import Any

import tensorstore


def switch_off() -> None:
    """Makes tensorstore report no metrics in this process; may be called twice."""
    tensorstore.experimental_collect_matching_metrics = _no_metrics


def _no_metrics(*_: Any, **__: Any) -> list[Any]:
    """Returns no metrics; takes any arguments of `tensorstore.experimental_collect_matching_metrics`."""
    return []
