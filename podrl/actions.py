"""What agents can do in an environment: its space of actions."""

import dataclasses
import math

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class DiscreteActions:
    """One of `num` actions: an int32 in [0, num).

    Attributes:
        num: Number of actions.
    """

    num: int

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one environment's action."""
        return jax.ShapeDtypeStruct((), np.int32)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Random actions [*shape]."""
        return rng.integers(self.num, size=shape, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class MultiDiscreteActions:
    """Several choices at once: [D] int32, entry d in [0, nums[d]).

    Attributes:
        nums: Number of options of each choice.
    """

    nums: tuple[int, ...]

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one environment's action."""
        return jax.ShapeDtypeStruct((len(self.nums),), np.int32)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Random actions [*shape, D]."""
        return rng.integers(self.nums, size=(*shape, len(self.nums)), dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class ContinuousActions:
    """[D] float32, of which [-1, 1] spans the range of the environment's own units.

    What lies outside is clipped by the environment's source; a policy may well put out such actions.

    Attributes:
        size: D.
    """

    size: int

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one environment's action."""
        return jax.ShapeDtypeStruct((self.size,), np.float32)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Random actions [*shape, D], uniform in [-1, 1]."""
        return rng.uniform(-1, 1, (*shape, self.size)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class HybridActions:
    """Choices and numbers at once: [D + size] float32, first the choices as whole numbers, then the numbers.

    Attributes:
        nums: Number of options of each of the D choices.
        size: How many numbers there are, each as in `ContinuousActions`.
    """

    nums: tuple[int, ...]
    size: int

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one environment's action."""
        return jax.ShapeDtypeStruct((len(self.nums) + self.size,), np.float32)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Random actions [*shape, D + size]."""
        parts = MultiDiscreteActions(self.nums), ContinuousActions(self.size)
        return np.concatenate([part.sample(rng, shape).astype(np.float32) for part in parts], axis=-1)


ActionSpace = DiscreteActions | MultiDiscreteActions | ContinuousActions | HybridActions


def options_of(actions: ActionSpace) -> tuple[int, ...]:
    """Returns the number of options of each choice; empty without choices."""
    if isinstance(actions, ContinuousActions):
        return ()
    return (actions.num,) if isinstance(actions, DiscreteActions) else actions.nums


def num_logits(actions: ActionSpace) -> int:
    """Returns how many options an action mask has, those of all choices one after the other; 0 without choices."""
    return sum(options_of(actions))


def mask_sizes(actions: ActionSpace) -> set[int]:
    """Returns how many entries an environment's mask may have: one for each option, or for each combination of them."""
    sizes = {num_logits(actions)}
    return sizes | {math.prod(actions.nums)} if isinstance(actions, MultiDiscreteActions) else sizes - {0}


def sample_allowed(actions: ActionSpace, rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Random actions [B, ...] of the options that a mask [B, L] allows."""
    drawn = np.where(mask, rng.random(mask.shape), -1.0)
    choices = [np.argmax(part, axis=1) for part in np.split(drawn, np.cumsum(options_of(actions))[:-1], axis=1)]
    if isinstance(actions, DiscreteActions):
        return choices[0].astype(np.int32)
    sampled = actions.sample(rng, mask.shape[:1])
    sampled[:, : len(choices)] = np.stack(choices, axis=1)
    return sampled
