"""How agents that learn from sequences out of a ring augment their images."""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import jax
from jax import numpy as jnp

from podrl.config.augment import KINDS, AugmentConfig
from podrl.config.config import check
from podrl.mistakes import shown
from podrl.networks.parts import is_image, seen
from podrl.ops.augment import random_cutout, random_intensity, random_noise, random_shift
from podrl.types import EnvSpec, PyTree, Sample


def check_has_images(config: AugmentConfig, spec: EnvSpec) -> None:
    """Raises ConfigError if there is augmentation, and no image to change."""
    check(
        not config.kinds or any(map(is_image, jax.tree.leaves(seen(spec.observation)))),
        f"agent.augment.kinds={shown(config.kinds)} has no effect: it changes images, and env.id={spec.id!r} gives "
        f"{spec.observed or 'vectors'}. Leave out agent.augment.",
    )


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
    apply: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
        "shift": functools.partial(random_shift, padding=config.shift),
        "cutout": functools.partial(random_cutout, size=config.cutout),
        "intensity": functools.partial(random_intensity, scale=config.intensity),
        "noise": functools.partial(random_noise, scale=config.noise),
    }

    def augment(rows: jax.Array) -> jax.Array:
        if rows.ndim != 5:  # Images are [T, B, H, W, C].
            return rows
        images = jnp.swapaxes(rows, 0, 1)
        for kind in config.kinds:
            images = apply[kind](jax.vmap(jax.random.fold_in, (0, None))(keys, KINDS.index(kind)), images)
        return jnp.swapaxes(images, 0, 1)

    def augmented(rows: PyTree) -> PyTree:
        return dataclasses.replace(rows, observation=jax.tree.map(augment, rows.observation))

    before = sample.before if isinstance(sample.before, tuple) else augmented(sample.before)
    return dataclasses.replace(sample, trajectory=augmented(trajectory), before=before)
