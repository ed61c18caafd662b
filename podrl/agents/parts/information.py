"""How critics are held down where a data set has no actions: the gap of a lower bound of the mutual information.

See `podrl.ops.mutual_information` for the bounds, and for what the gap is.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from podrl.agents.parts.critic_steps import CriticTerm, noise_keys
from podrl.agents.parts.sequences import resume_network
from podrl.agents.parts.twin_critic import TwinCritic
from podrl.ops.mutual_information import (
    donsker_varadhan_gap,
    donsker_varadhan_normalizer,
    information_rows,
    tilted_gap,
)
from podrl.types import PyTree, Sample, Trajectory

BOUNDS = ("ba", "dv", "tilted")


def information_term(
    config: Any, networks: TwinCritic, params: PyTree, sample: Sample, key: jax.Array
) -> CriticTerm | None:
    """Returns the weighted gap of both critics, which they descend beside their errors; None if there is none.

    Args:
        config: The agent's config, with `bound`, `critic_information_cost`, `action_samples` and `max_action`.
        networks: The agent's networks.
        params: The parameters of policy and critics before the step; the policy's give the actions of the gap.
        sample: [T, B]. The bound `dv` evaluates all of it at once, for the normalizer.
        key: A key; each row folds in its own number.
    """
    if config.bound == "ba" or not config.critic_information_cost:
        return None

    def values_of(critic: PyTree, trajectory: Trajectory) -> tuple[jax.Array, jax.Array, jax.Array]:
        output = networks.policy_at(params, trajectory, 0)
        actions = sample_actions(networks, output, noise_keys(key, trajectory), config.action_samples)
        joined = jnp.concatenate([actions, trajectory.action[:, :, None]], axis=2)
        values = networks.values_of_several({"critic": critic}, trajectory, 0, joined)
        return output, values[:, :, -1], jnp.moveaxis(values[:, :, :-1], -2, -1)

    gap_of = tilted_gap if config.bound == "tilted" else _gap_over_states(params, sample, networks, values_of)

    def loss(moving: PyTree, trajectory: Trajectory) -> tuple[jax.Array, dict[str, jax.Array]]:
        output, values, sampled = values_of(moving["critic"], trajectory)
        gaps = gap_of(values, sampled)
        action = jnp.clip(trajectory.action, -config.max_action, config.max_action)
        mean = jnp.mean(gaps, axis=-1)
        information = information_rows(networks.distribution.log_prob(output, action), mean)
        told = {"value/gap": mean, "value/information": information}
        return config.critic_information_cost * jnp.sum(gaps, axis=-1), told

    return CriticTerm(name="loss/information", sample=sample, loss=loss)


def sample_actions(networks: TwinCritic, output: jax.Array, keys: jax.Array, num: int) -> jax.Array:
    """Samples S actions in each row, [T, B, S, D], of what the policy puts out [T, B, P] with keys [T, B]."""

    def sample(key: jax.Array, row: jax.Array) -> jax.Array:
        rows = jnp.broadcast_to(row, (num, *row.shape))
        return networks.distribution.sample(jax.random.split(key, num), rows)

    return jax.vmap(jax.vmap(sample))(keys, output)


def _gap_over_states(
    params: PyTree,
    sample: Sample,
    networks: TwinCritic,
    values_of: Callable[[PyTree, Trajectory], tuple[jax.Array, jax.Array, jax.Array]],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns Donsker and Varadhan's gap, (values [T, B, 2], sampled [T, B, 2, S]) -> [T, B, 2]."""
    trajectory = resume_network(networks.policy, sample)
    weight = jnp.where(trajectory.is_transition, sample.weight, 0.0)
    _, _, sampled = values_of(params["critic"], trajectory)
    normalizers = jax.vmap(donsker_varadhan_normalizer, in_axes=(2, None))(sampled, weight)
    return lambda values, sampled: donsker_varadhan_gap(values, sampled, normalizers)
