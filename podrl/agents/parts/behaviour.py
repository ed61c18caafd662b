"""TD3+BC's term: a deterministic policy climbs its critic, and stays near the actions of a data set.

Values have any scale, distances between actions do not. So values are divided by their mean size in the batch, and
`alpha` alone weighs both.

Source: Fujimoto & Gu 2021, arXiv:2106.06860, equations 3 to 5.
"""

from collections.abc import Mapping

import jax
from jax import numpy as jnp

from podrl.agents.parts.critic_steps import RowLoss
from podrl.agents.parts.sequences import resume_network
from podrl.agents.parts.twin_critic import TwinCritic
from podrl.ops.losses import masked_mean
from podrl.types import PyTree, Sample, Trajectory

_LEAST_SIZE = 1e-6  # Values are divided by at least this.


def stay_near_recorded(
    alpha: float, networks: TwinCritic, params: PyTree, sample: Sample, value_loss: RowLoss
) -> RowLoss:
    """Returns the loss lambda `value_loss` + (pi(s) - a)^2 with lambda = alpha / mean |Q(s, pi(s))|.

    The square is a mean over the numbers of the action, the mean in lambda one over all real transitions of the sample,
    without weights. Lambda comes from `params` alone, so it has no gradient by the parameters that the loss is given.

    Args:
        alpha: The weight of values; 0 leaves `value_loss` as it is.
        networks: The agent's networks.
        params: The parameters before the step.
        sample: [T, B]; the whole sample, of which the loss is given parts.
        value_loss: -Q(s, pi(s)), with a metric `value/policy`, the values.
    """
    if not alpha:
        return value_loss
    whole = resume_network(networks.policy, sample)
    values = value_loss(params, whole)[1]["value/policy"]
    size = masked_mean(jnp.abs(values), whole.is_transition)
    weight = alpha / jnp.maximum(size, _LEAST_SIZE)

    def loss(moving: PyTree, trajectory: Trajectory) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        losses, told = value_loss(moving, trajectory)
        action = jnp.tanh(networks.policy_at(moving, trajectory, 0))
        distance = jnp.mean(jnp.square(action - trajectory.action), axis=-1)
        return weight * losses + distance, {**told, "policy/distance": distance}

    return loss
