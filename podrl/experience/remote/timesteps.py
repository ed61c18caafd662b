"""Timesteps and actions as arrays of messages; a pool's observations may be nested."""

from collections.abc import Mapping
import json
from typing import Any

import jax
import numpy as np

from podrl.envs.info import Numbers
from podrl.experience.remote.arrays import ArrayLayout, ArraySpec
from podrl.experience.remote.messages import HEAD_BYTES, Head
from podrl.runtime.job.wire import parse_message
from podrl.types import EnvSpec, Timestep

LONGEST_NUMBERS_BYTES = 1 << 20


class TimestepCodec:
    """Timesteps of `B` environments as messages.

    Attributes:
        layout: where their arrays lie.
    """

    def __init__(self, expected: Timestep):
        """Takes the shapes and dtypes of a timestep [B, ...]."""
        leaves, tree = jax.tree_util.tree_flatten_with_path(expected)
        self._tree: Any = tree
        specs = tuple(ArraySpec(_name(path), leaf.dtype.name, tuple(leaf.shape)) for path, leaf in leaves)
        self.layout = ArrayLayout(specs, HEAD_BYTES)

    def encode(self, head: Head, timestep: Timestep, numbers: Numbers) -> bytes:
        """Returns a message with a timestep, and the numbers of `info` of the episodes that ended with it.

        Raises:
            ValueError: if the timestep is not as expected.
        """
        if jax.tree.structure(timestep) != self._tree:
            raise ValueError(f"Found {jax.tree.structure(timestep)}; expected {self._tree}.")
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(timestep)]
        return self.layout.encode(head.pack(), leaves, _write_numbers(numbers) if numbers else b"")

    def decode(self, message: bytes) -> tuple[Timestep, Numbers]:
        """Returns a message's timestep, whose arrays are views of it, and its numbers.

        Raises:
            ValueError: if the message is another.
        """
        leaves, more = self.layout.decode(message)
        return jax.tree.unflatten(self._tree, leaves), _read_numbers(more) if more else {}


def timestep_shape(spec: EnvSpec, num_envs: int) -> Timestep:
    """Returns shapes and dtypes of timesteps of `num_envs` environments."""

    def rows(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((num_envs, *shape), dtype)

    return Timestep(
        observation=jax.tree.map(lambda leaf: rows(leaf.dtype, *leaf.shape), spec.observation),
        reward=rows(np.float32),
        discount=rows(np.float32),
        first=rows(np.bool_),
    )


def action_layout(spec: EnvSpec, num_envs: int) -> ArrayLayout:
    """Returns where the actions [B, ...] of `num_envs` environments lie in a message."""
    action = spec.actions.struct
    return ArrayLayout((ArraySpec("action", action.dtype.name, (num_envs, *action.shape)),), HEAD_BYTES)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _write_numbers(numbers: Numbers) -> bytes:
    """Returns numbers as JSON of texts: those of Python restore every float, also those that JSON lacks."""
    texts = {env: {name: repr(float(number)) for name, number in own.items()} for env, own in numbers.items()}
    return json.dumps(texts).encode()


def _read_numbers(more: bytes) -> Numbers:
    if len(more) > LONGEST_NUMBERS_BYTES:
        raise ValueError(f"numbers of info of more than {LONGEST_NUMBERS_BYTES} bytes")
    found: Mapping[str, Any] = parse_message(more)
    if not all(isinstance(own, dict) and all(isinstance(text, str) for text in own.values()) for own in found.values()):
        raise ValueError("numbers of info of another form")
    return {int(env): {name: float(text) for name, text in own.items()} for env, own in found.items()}
