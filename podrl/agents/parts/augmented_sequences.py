"""How agents that learn from sequences out of a ring augment their images."""

import dataclasses

import jax
from jax import numpy as jnp

from podrl.agents.parts.augmenting import apply_augmentation
from podrl.config.augment import AugmentConfig
from podrl.types import PyTree, Sample


def augment_sequences(config: AugmentConfig, key: jax.Array, sample: Sample) -> Sample:
    """Augments the images of sequences, one kind after the other; all else stays as it is.

    All rows of a sequence, and those before it, share a draw: a frame stack is made of neighbouring rows, and a latent
    is followed from one to the next.

    Args:
        config: Kinds and strengths.
        key: A key; each sequence folds in its own number.
        sample: [T, B], with single frames.
    """
    if not config.kinds:
        return sample
    trajectory = sample.trajectory
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, trajectory.env_index)

    def augment(rows: jax.Array) -> jax.Array:
        if rows.ndim != 5:  # Images are [T, B, H, W, C].
            return rows
        return jnp.swapaxes(apply_augmentation(config, keys, jnp.swapaxes(rows, 0, 1)), 0, 1)

    def augmented(rows: PyTree) -> PyTree:
        return dataclasses.replace(rows, observation=jax.tree.map(augment, rows.observation))

    before = sample.before if isinstance(sample.before, tuple) else augmented(sample.before)
    return dataclasses.replace(sample, trajectory=augmented(trajectory), before=before)
