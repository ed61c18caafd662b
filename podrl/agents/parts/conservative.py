"""CQL's term: it lowers the values of actions that a data set does not have.

Critics learn from recorded actions only, and a policy soon finds others that they overrate. The term is
log sum exp Q(s, .) - Q(s, a) for the recorded action a: the soft maximum over all actions less the recorded one's
value. For critics of single actions that are numbers, the integral in it is estimated with N uniform actions and N of
today's policy, each by its density (importance sampling):

    log (1/2N) (sum_uniform exp(Q(s, a)) / 0.5^D + sum_policy exp(Q(s, a)) / pi(a|s)).

It holds the policy to the data set, so it is a mean over the sample that a policy is improved on.

Source: Kumar et al. 2020, arXiv:2006.04779, equation 4 and appendix F.
"""

import math
from typing import Any

import jax
from jax import numpy as jnp

from podrl.agents.parts.critic_steps import CriticTerm, noise_keys
from podrl.agents.parts.interface import Partition
from podrl.agents.parts.sequences import evaluate_transitions, resume_network, rows_to_learn, transitions_to_learn
from podrl.agents.parts.twin_critic import TwinCritic
from podrl.networks.interface import QNetwork
from podrl.ops.losses import masked_mean
from podrl.ops.minibatches import accumulate_gradients
from podrl.ops.q_values import conservative_loss
from podrl.types import Metrics, PyTree, Sample, Trajectory


def conservative_term(
    config: Any, networks: TwinCritic, params: PyTree, sample: Sample, key: jax.Array
) -> CriticTerm | None:
    """Returns what critics descend beside their errors, None if its weight is zero.

    Args:
        config: The agent's config, with `conservative_weight` and `conservative_actions`.
        networks: The agent's networks.
        params: The parameters, whose policy samples actions.
        sample: [T, B].
        key: A key; each row folds in its own number.
    """
    if not config.conservative_weight:
        return None

    def loss(moving: PyTree, trajectory: Trajectory) -> tuple[jax.Array, dict[str, jax.Array]]:
        both = {"policy": params["policy"], "critic": moving["critic"]}
        gaps = conservative_gaps(networks, both, trajectory, key, num=config.conservative_actions)
        return config.conservative_weight * jnp.sum(gaps, axis=-1), {"value/gap": jnp.mean(gaps, axis=-1)}

    return CriticTerm(name="loss/conservative", sample=sample, loss=loss)


def conservative_gaps(
    networks: TwinCritic, params: PyTree, trajectory: Trajectory, key: jax.Array, *, num: int
) -> jax.Array:
    """Computes the soft maximum of each critic's values over all actions, less its value of the recorded action.

    Args:
        networks: The agent's networks.
        params: The parameters of policy and critics.
        trajectory: [T, B], with the network's carry.
        key: A key; each row folds in its own number.
        num: N, actions of each kind.

    Returns:
        [T, B, 2]. No gradient flows through the actions.
    """
    actions, log_densities = jax.lax.stop_gradient(propose_actions(networks, params, trajectory, key, num=num))
    recorded = trajectory.action[:, :, None]
    values = networks.values_of_several(params, trajectory, 0, jnp.concatenate([actions, recorded], axis=2))
    others, own = values[:, :, :-1], values[:, :, -1]
    soft_maximum = jax.nn.logsumexp(others - log_densities[..., None], axis=2) - math.log(actions.shape[2])
    return soft_maximum - own


def propose_actions(
    networks: TwinCritic, params: PyTree, trajectory: Trajectory, key: jax.Array, *, num: int
) -> tuple[jax.Array, jax.Array]:
    """Draws N uniform actions and N of the policy in each row.

    Returns:
        Actions [T, B, 2N, D], the uniform ones first, and the logarithms of their densities [T, B, 2N].
    """
    keys = jax.vmap(jax.vmap(lambda key: jax.random.split(key, 2 * num)))(noise_keys(key, trajectory))
    uniform = jax.vmap(jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (networks.size,), minval=-1.0))))
    output = networks.policy_at(params, trajectory, 0)
    repeated = jnp.broadcast_to(output[:, :, None], (*output.shape[:2], num, output.shape[-1]))
    sample = jax.vmap(jax.vmap(networks.distribution.sample_and_log_prob))
    actions, log_probs = sample(keys[:, :, num:], repeated)
    drawn = uniform(keys[:, :, :num])
    return (
        jnp.concatenate([drawn, actions], axis=2),
        jnp.concatenate([jnp.full(drawn.shape[:3], -networks.size * math.log(2)), log_probs], axis=2),
    )


def conservative_gradient(
    config: Any, network: QNetwork, params: PyTree, sample: Sample, partition: Partition
) -> tuple[Metrics, PyTree]:
    """Computes the term for a network of the values of all actions, and its gradient.

    It is `podrl.ops.q_values.conservative_loss`, summed over each sequence's transitions, times the sequence's
    weight, as a mean over sequences. Where the network learns rescaled values it is of these.

    Args:
        config: The agent's config, with `conservative_weight`, and `sequences`, which says what is learned from.
        network: The network of an agent whose carry is an `ExplorerCarry`.
        params: Its parameters.
        sample: [T, B] sequences.
        partition: How the update goes through its batch.

    Returns:
        Metrics, among them the weighted term, and its gradient.

    Source: Kumar et al. 2020, arXiv:2006.04779, equation 4.
    """
    shape, num_sequences = config.sequences, sample.weight.shape[0]
    count = jnp.sum(transitions_to_learn(shape, sample.trajectory), dtype=jnp.float32)

    def loss_of(params: PyTree, part: Sample) -> tuple[jax.Array, Metrics]:
        trajectory = resume_network(network, part, lambda carry: carry.network)
        start, stop = rows_to_learn(shape, len(trajectory.reward))
        q_values = evaluate_transitions(network, params, trajectory, start, stop).q_values
        mask, gaps = trajectory.is_transition[start:stop], conservative_loss(q_values, trajectory.action[start:stop])
        loss = config.conservative_weight * jnp.sum(jnp.where(mask, part.weight * gaps, 0.0)) / num_sequences
        return loss, {"loss/conservative": loss, "value/gap": masked_mean(gaps, mask, count=count)}

    (_, metrics), grads = accumulate_gradients(
        loss_of, params, sample, partition.micro_batches, rolled=partition.rolls_micro_batches
    )
    return metrics, grads
