"""What crosses between the learner's devices in an update, read from its compiled program.

Only what crosses the `data` axis of the learner mesh leaves a process: gradients, the gradient's norm, metrics, and
with `topology.sharding='fsdp'` the parameters, which are gathered for use. None of it grows with the rollout.
"""

from collections import Counter
from collections.abc import Mapping
import math
import re

import jax

_KINDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "collective-broadcast", "reduce-scatter")
_COLLECTIVE = re.compile(rf"= (.*) ((?:ragged-)?(?:{'|'.join(_KINDS)}))(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")


def collective_bytes(compiled: jax.stages.Compiled) -> Mapping[str, int]:
    """Bytes of the results of each kind of collective, on each device, in one execution.

    Args:
        compiled: without a collective inside of a loop; one is counted once.
    """
    found: Counter[str] = Counter()
    for results, kind in _COLLECTIVE.findall(re.sub(r"/\*.*?\*/", "", compiled.as_text() or "")):
        found[kind] += sum(_array_bytes(*array) for array in _ARRAY.findall(results))
    return dict(sorted(found.items()))


def describe_traffic(found: Mapping[str, int]) -> str:
    """For people: `all-reduce 4.18 MiB`."""
    return ", ".join(f"{kind} {size / 2**20:,.2f} MiB" for kind, size in found.items()) or "nothing"


def _array_bytes(kind: str, bits: str, dims: str) -> int:
    """Bytes of `f32[64,8]`, from its parts; a `pred` takes one."""
    size = math.prod(int(n) for n in dims.split(",") if n)
    return size * (1 if kind == "pred" else max(1, int(bits or 0) // 8))
