"""Double Q-learning over several steps with values that are distributions over atoms."""

from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from podrl.agents.parts.sequences import evaluate_rows, rows_to_learn, transitions_to_learn
from podrl.networks.interface import AtomNetwork, AtomOutput
from podrl.ops.atoms import Support, divergence_of_atoms, mean_of_atoms, project_on_atoms
from podrl.ops.losses import cross_entropy_loss, masked_mean
from podrl.ops.q_values import greedy_action, sequence_priority
from podrl.ops.returns import Bootstrap, clip_reward, n_step_bootstrap
from podrl.types import Metrics, PyTree, Sample


def atom_loss(
    config: Any,
    network: AtomNetwork,
    params: PyTree,
    target: PyTree,
    sample: Sample,
    num_sequences: int,
    num_learned: jax.Array,
) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
    """The cross entropy with distributional targets, summed over each sequence's transitions, times its weight.

    It is these sequences' share of the mean over the whole batch.

    Args:
        config: The hyper-parameters of an agent such as `podrl.agents.rainbow`.
        network: The network of distributions.
        params: Its parameters, with noise; the loss is differentiated with respect to them.
        target: The target network's parameters, with noise of their own.
        sample: [T, B] sequences, with the network's carry; reset rows carry no loss, and end the targets' rewards.
        num_sequences: Sequences in the whole batch.
        num_learned: [] transitions in the whole batch that are learned from, by which metrics are divided.

    Returns:
        The loss, and metrics that add up to the batch's when summed over its parts, with the sequences' priorities [B]:
        of the divergences of its transitions.

    Source: Hessel et al. 2018, arXiv:1710.02298, sections "Distributional RL" and "The integrated agent".
    """
    trajectory, support = sample.trajectory, config.values.support
    start, stop = rows_to_learn(config.sequences, len(trajectory.reward))
    bootstrap = n_step_bootstrap(
        clip_reward(trajectory.reward * config.reward_scale, config.max_reward),
        trajectory.discount * config.discount,
        trajectory.is_transition,
        num_steps=config.n_steps,
    )
    learned: Bootstrap = jax.tree.map(lambda x: x[start:stop], bootstrap)
    online, slow = (evaluate_rows(network, which, trajectory, start) for which in (params, target))
    targets = atom_targets(online, slow, learned, support)
    rows = jnp.broadcast_to(jnp.arange(start, stop, dtype=jnp.int32)[:, None], learned.row.shape)
    logits = logits_of_action(online(rows).logits, trajectory.action[start:stop])
    mask = transitions_to_learn(config.sequences, trajectory)[: stop - start]
    loss = jnp.sum(jnp.where(mask, sample.weight * cross_entropy_loss(targets, logits), 0.0)) / num_sequences
    divergence = jax.lax.stop_gradient(divergence_of_atoms(targets, logits))

    def mean(x: jax.Array) -> jax.Array:
        return masked_mean(x, mask, count=num_learned)

    return loss, (
        {
            "loss/total": loss,
            "value/taken": mean(mean_of_atoms(logits, support)),
            "value/target": mean(jnp.sum(targets * support.atoms, axis=-1)),
            "value/error": mean(divergence),
        },
        sequence_priority(divergence, mask, share_of_max=config.share_of_max),
    )


def atom_targets(
    online: Callable[[jax.Array], AtomOutput],
    slow: Callable[[jax.Array], AtomOutput],
    bootstrap: Bootstrap,
    support: Support,
) -> jax.Array:
    """Returns the distributions that the values of actions are to move to.

    Each is the target network's of the action that the online network values most in the row that it bootstraps from,
    shrunk by the discounts on the way there, shifted by the rewards, and projected back onto the atoms.

    Args:
        online: (rows [R, B]) -> the outputs of the network that learns.
        slow: The same of the target network.
        bootstrap: [R, B]; the row of each target, with its rewards and discounts.
        support: The atoms.

    Returns:
        [R, B, N] probabilities, through which no gradient flows.
    """
    best = greedy_action(online(bootstrap.row).q_values)
    probabilities = jax.nn.softmax(logits_of_action(slow(bootstrap.row).logits, best), axis=-1)
    return project_on_atoms(probabilities, bootstrap.rewards, bootstrap.discounts, support)


def logits_of_action(logits: jax.Array, action: jax.Array) -> jax.Array:
    """Returns the logits [..., N] of one action [...] of each row, of logits [..., A, N]."""
    is_taken = jax.nn.one_hot(action, logits.shape[-2], dtype=logits.dtype)
    return jnp.sum(is_taken[..., None] * logits, axis=-2)
