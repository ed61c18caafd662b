"""How agents augment the images that they learn from, as their config's section says."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp

from podrl.agents.parts.sequences import resume_network, take_transitions
from podrl.config.augment import KINDS, AugmentConfig
from podrl.config.config import check
from podrl.mistakes import shown
from podrl.networks.interface import PolicyNetwork
from podrl.networks.parts import is_image, seen
from podrl.networks.shared_encoder import stack_rows
from podrl.ops.augment import random_cutout, random_intensity, random_noise, random_shift
from podrl.ops.keys import step_keys
from podrl.ops.returns import n_step_returns
from podrl.types import EnvSpec, PyTree, Sample


def check_augmentation(config: AugmentConfig, default: AugmentConfig, spec: EnvSpec) -> None:
    """Checks that augmentation other than the agent's default has images to change.

    Args:
        config: The section `agent.augment`.
        default: The agent's own.
        spec: The environment.

    Raises:
        ConfigError: If there are none.
    """
    check(
        config in (default, AugmentConfig(kinds=())) or any(map(is_image, jax.tree.leaves(seen(spec.observation)))),
        f"agent.augment.kinds={shown(config.kinds)} has no effect: it changes images, and env.id={spec.id!r} gives "
        f"{spec.observed or 'vectors'}. Leave out agent.augment.",
    )


def apply_augmentation(config: AugmentConfig, keys: jax.Array, images: jax.Array) -> jax.Array:
    """Augments images, one kind after the other.

    Args:
        config: Kinds and strengths.
        keys: [K...]; one draw of each kind for each, shared by the images behind it.
        images: [K..., ..., H, W, C].

    Returns:
        The same shape and dtype.
    """
    apply: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
        "shift": functools.partial(random_shift, padding=config.shift),
        "cutout": functools.partial(random_cutout, size=config.cutout),
        "intensity": functools.partial(random_intensity, scale=config.intensity),
        "noise": functools.partial(random_noise, scale=config.noise),
    }
    fold: Callable[..., jax.Array] = jax.random.fold_in
    for _ in range(keys.ndim):
        fold = jax.vmap(fold, in_axes=(0, None))
    for kind in config.kinds:
        images = apply[kind](fold(keys, KINDS.index(kind)), images)
    return images


def augment_images(config: AugmentConfig, keys: jax.Array, observation: PyTree) -> PyTree:
    """Augments the images of observations; vectors stay as they are.

    Args:
        config: Kinds and strengths.
        keys: [K...]; all images of an observation share its key.
        observation: Arrays [K..., *], alone or by name; images are [K..., H, W, C].

    Returns:
        The same with the images augmented.
    """

    def augment(part: jax.Array) -> jax.Array:
        return apply_augmentation(config, keys, part) if part.ndim == keys.ndim + 3 else part

    return jax.tree.map(augment, observation)


def n_step_transitions(config: Any, network: PolicyNetwork, sample: Sample, key: jax.Array) -> Sample:
    """Makes each sequence the transition of its first row over `n_steps` steps, with stacked and augmented images.

    A sequence ends early where an episode does: at a terminal nothing is added, at a truncation its final observation
    is bootstrapped from. Both ends of a transition are augmented by draws of their own.

    Args:
        config: The agent's config, with `augment`, `n_steps`, `discount` and `reward_scale`.
        network: The policy's network.
        sample: [T, B] sequences.
        key: A key; each sequence folds in its own number.

    Returns:
        [1, B]: `reward` is the discounted sum of scaled rewards, and `discount` what the value behind it is multiplied
        by. Its observations need no frame stack any more.
    """
    trajectory = resume_network(network, sample)
    rewards, discounts = trajectory.reward * config.reward_scale, trajectory.discount * config.discount
    zeros = jnp.zeros(trajectory.first.shape)
    numbers = jnp.broadcast_to(jnp.arange(len(zeros), dtype=jnp.float32)[:, None], zeros.shape)

    def fold(values: jax.Array, rewards: jax.Array, discounts: jax.Array) -> jax.Array:
        steps = n_step_returns(values, rewards, discounts, trajectory.is_transition, num_steps=config.n_steps)
        return steps[:1]

    end = fold(numbers, zeros[1:], zeros[1:] + 1).astype(jnp.int32)
    stacked, carry = stack_rows(trajectory, jnp.concatenate([jnp.zeros_like(end), end]))
    by_sequence = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, trajectory.env_index)
    keys = jax.vmap(step_keys, in_axes=(None, 0))(by_sequence, jnp.arange(2))
    folded = dataclasses.replace(
        take_transitions(trajectory, 0, 1),
        observation=augment_images(config.augment, keys, stacked),
        reward=fold(zeros, rewards, discounts),
        discount=fold(zeros + 1, zeros[1:], discounts),
        carry=carry,
    )
    return Sample(trajectory=folded, weight=sample.weight)
