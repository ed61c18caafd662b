"""The cost of a compiled update: memory on each learner device, and traffic between devices.

Only traffic along the `data` axis of the learner mesh leaves a process: gradients, the gradient's norm, metrics, and
with `topology.sharding='fsdp'` the parameters, which are gathered for use. It does not grow with the rollout. Traffic
along the `model` axis, such as activations, stays between the devices that share a layer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
import math
import re

import jax
import numpy as np

from podrl.config.units import describe_bytes
from podrl.types import PyTree

_KINDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "collective-broadcast", "reduce-scatter")
_COLLECTIVE = re.compile(rf"= (.*) ((?:ragged-)?(?:{'|'.join(_KINDS)}))(?:-start)?\((.*)")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
# HLO writes groups of devices in three ways: as lists of members, as `[groups,members]` of an order of all devices, and
# as axes of a mesh of devices. For a permutation, a pair of source and target stands for its group.
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}")
_ORDER = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_TILED = re.compile(rf"replica_groups=\[([\d,]+)\]<={_ORDER}")
_ON_AXES = re.compile(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_ORDER}\))? \{{([^}}]*)\}}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateMemory:
    """Bytes on each learner device. The peak of an update is close to arguments, outputs and temporaries together.

    Attributes:
        state_bytes: Parameters, optimizer state and the rest of the learner's state; a part of the arguments.
        argument_bytes: All inputs: the state and the batch.
        output_bytes: Outputs that do not reuse the memory of an argument, as the new state does.
        temporary_bytes: What lives while the update runs: activations, gradients, parameters gathered for use.
    """

    state_bytes: int
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int

    def describe(self) -> str:
        """Describes the memory in one line: `state 15.8 MiB, batch 0.4 MiB, temporaries 242.0 MiB`."""
        batch_bytes = self.argument_bytes - self.state_bytes
        return (
            f"state {describe_bytes(self.state_bytes, 1)}, batch {describe_bytes(batch_bytes, 1)}, temporaries "
            f"{describe_bytes(self.temporary_bytes + self.output_bytes, 1)}"
        )


def update_memory(compiled: jax.stages.Compiled, state: PyTree) -> UpdateMemory | None:
    """Returns the memory of a compiled update; None where the backend does not report it.

    Args:
        compiled: The compiled update.
        state: Shapes, with shardings, of the state that it takes and returns.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return UpdateMemory(
        state_bytes=sum(map(shard_bytes, jax.tree.leaves(state))),
        argument_bytes=analysis.argument_size_in_bytes,
        output_bytes=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporary_bytes=analysis.temp_size_in_bytes,
    )


def shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Returns the bytes of an array on each of its devices."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def tree_bytes(tree: PyTree) -> int:
    """Returns the bytes of all arrays of a tree, or of the shapes that stand for them, each counted whole."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """The collectives of one kind along one axis, together.

    Attributes:
        kind: The operation's name in HLO.
        axis: The axis of the learner mesh that it crosses: `data`, `model`, or `all` for both.
        size_bytes: The bytes of its results, on each device.
    """

    kind: str
    axis: str
    size_bytes: float


def find_collectives(compiled: jax.stages.Compiled, model_devices: int = 1) -> list[Collective]:
    """Returns the collectives of one execution, added up by kind and axis.

    Args:
        compiled: A program without collectives inside loops: each is counted once.
        model_devices: The size of the mesh's `model` axis; if it is 1, all collectives cross `data`.
    """
    found: Counter[tuple[str, str]] = Counter()
    for results, kind, rest in _COLLECTIVE.findall(re.sub(r"/\*.*?\*/", "", compiled.as_text() or "")):
        size_bytes = sum(_array_bytes(*array) for array in _ARRAY.findall(results))
        found[kind, _axis(_first_group(rest), model_devices)] += size_bytes
    return [Collective(kind=kind, axis=axis, size_bytes=size) for (kind, axis), size in sorted(found.items())]


def collective_bytes(compiled: jax.stages.Compiled) -> Mapping[str, int]:
    """Returns the bytes of each kind of collective's results, per device and execution; see `find_collectives`."""
    return {each.kind: int(each.size_bytes) for each in find_collectives(compiled)}


def describe_traffic(found: Mapping[str, int]) -> str:
    """Describes the traffic in one line: `all-reduce 4.18 MiB`."""
    return ", ".join(f"{kind} {describe_bytes(size)}" for kind, size in found.items()) or "nothing"


def _axis(group: Sequence[int], model_devices: int) -> str:
    """Returns which axes of a mesh (data, model) a group crosses; devices are numbered along `model` first."""
    if model_devices == 1:
        return "data"
    if not group:
        return "all"
    if len({member // model_devices for member in group}) == 1:
        return "model"
    return "data" if len({member % model_devices for member in group}) == 1 else "all"


def _first_group(text: str) -> Sequence[int]:
    """Returns the devices of a collective's first group; empty for a single group of all, or an unknown notation."""
    if match := _LISTED.search(text):
        return _numbers(match[1])
    if match := _TILED.search(text):
        return _ordered(match[2], match[3]).reshape(_numbers(match[1]))[0].tolist()
    if match := _ON_AXES.search(text):
        axes = dict(axis.replace("'", "").split("=") for axis in match[1].split(","))
        sizes = [int(size) for size in axes.values()]
        chosen = match[4].replace("'", "").replace(" ", "").split(",")
        if not set(chosen) <= axes.keys():
            return ()
        devices = _ordered(match[2] or str(math.prod(sizes)), match[3]).reshape(sizes)
        return devices[tuple(slice(None) if axis in chosen else 0 for axis in axes)].ravel().tolist()
    return ()


def _ordered(dims: str, permutation: str | None) -> np.ndarray:
    """Returns all devices, in the order of an array of these dimensions with its axes permuted."""
    shape = _numbers(dims)
    devices = np.arange(math.prod(shape)).reshape(shape)
    return (devices.transpose(_numbers(permutation)) if permutation else devices).ravel()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _array_bytes(kind: str, bits: str, dims: str) -> int:
    """Returns the bytes of an array such as `f32[64,8]`, from its parts; an element of `pred` takes one."""
    size = math.prod(int(n) for n in dims.split(",") if n)
    return size * (1 if kind == "pred" else max(1, int(bits or 0) // 8))
