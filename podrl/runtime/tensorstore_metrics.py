"""Tensorstore's metrics, which nothing here reads, and a leak that comes with them.

Orbax asks for them twice in every save. Up to tensorstore 0.1.86 whatever it turns from JSON into Python is never
freed: 5 kB of metrics a call. The specs of arrays leak as well, about 5 kB a checkpoint, which Orbax cannot save
without.
"""

from typing import Any

import tensorstore


def switch_off() -> None:
    """Has tensorstore tell no metrics to anybody in this process; may be called twice."""
    tensorstore.experimental_collect_matching_metrics = _no_metrics


def _no_metrics(*_: Any, **__: Any) -> list[Any]:
    """Takes what `tensorstore.experimental_collect_matching_metrics` takes."""
    return []
