"""What a compiled update takes of each learner device's memory, as its compiler accounts for it."""

import dataclasses
import math

import jax

from podrl.types import PyTree
from podrl.units import describe_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateMemory:
    """Bytes on each learner device. What an update holds at most is close to arguments, outputs and temporaries.

    Attributes:
        state_bytes: parameters, optimizer state and the rest of the learner's state; a part of the arguments.
        argument_bytes: all that goes in: the state and the batch.
        output_bytes: what comes out and does not take the place of an argument, as the new state does.
        temporary_bytes: what lives while it runs: activations, gradients, parameters gathered for use.
    """

    state_bytes: int
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int

    def describe(self) -> str:
        """For people: `state 15.8 MiB, batch 0.4 MiB, temporaries 242.0 MiB`."""
        batch_bytes = self.argument_bytes - self.state_bytes
        return (
            f"state {describe_bytes(self.state_bytes, 1)}, batch {describe_bytes(batch_bytes, 1)}, temporaries "
            f"{describe_bytes(self.temporary_bytes + self.output_bytes, 1)}"
        )


def update_memory(compiled: jax.stages.Compiled, state: PyTree) -> UpdateMemory | None:
    """The memory of a compiled update; None where the backend does not tell.

    Args:
        compiled: the update.
        state: shapes, with shardings, of the state that it takes and returns.
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
    """Bytes of an array on each of its devices."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize
