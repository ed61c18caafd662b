"""How agents with two critics learn from transitions: one optimizer step of the critics, one of another part.

The critics' targets bootstrap from the smaller value of two slow copies of them, since the best of noisy values is too
large on average. A ring that draws by priority gets the critics' errors, and weights their loss.

Source: Fujimoto et al. 2018, arXiv:1802.09477, section 4.2 (clipped double Q-learning).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.interface import Partition
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.agents.parts.sequences import accumulate_by_sequence, resume_network
from podrl.agents.parts.twin_critic import TwinCritic
from podrl.ops.keys import step_keys
from podrl.ops.losses import masked_mean, value_loss
from podrl.ops.minibatches import accumulate_gradients
from podrl.ops.q_values import sequence_priority
from podrl.types import LearnerState, Metrics, PyTree, Sample, Trajectory

_NORMS = ("grad/critic_norm", "grad/policy_norm", "grad/state_value_norm")
# (params, part of the trajectory, with the network's carry) -> the loss of each row [T, B], and what to tell the means
# of, [T, B] by name.
RowLoss = Callable[[PyTree, Trajectory], tuple[jax.Array, Mapping[str, jax.Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriticTerm:
    """What critics descend beside their errors, such as a term that keeps them from overrating unknown actions.

    Attributes:
        name: Its metric's name.
        sample: [T, B] that it is the mean over.
        loss: The loss of each row, differentiated by `params["critic"]`.
    """

    name: str
    sample: Sample
    loss: RowLoss


def noise_keys(key: jax.Array, trajectory: Trajectory) -> jax.Array:
    """Returns a key for each row [T, B] of a sample, the same on any number of devices and in any part of it."""
    by_sequence = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, trajectory.env_index)
    return jax.vmap(step_keys, in_axes=(None, 0))(by_sequence, jnp.arange(len(trajectory.reward)))


def bootstrap(config: Any, trajectory: Trajectory, next_value: jax.Array) -> jax.Array:
    """Computes the targets r + discount V(s') of real transitions, zero on reset rows; [T, B] without a gradient.

    Args:
        config: The agent's config, with `reward_scale` and `discount`.
        trajectory: [T, B]. A terminal's discount of 0 leaves out its next value; a truncated episode's does not.
        next_value: [T, B] of rows 1 to T.
    """
    targets = trajectory.reward * config.reward_scale + trajectory.discount * config.discount * next_value
    return jax.lax.stop_gradient(jnp.where(trajectory.is_transition, targets, 0.0))


def take_critic_step(
    networks: TwinCritic,
    optimizer: OptimizerOverRun,
    state: LearnerState,
    sample: Sample,
    targets_of: Callable[[Trajectory], jax.Array],
    partition: Partition,
    term: CriticTerm | None = None,
) -> tuple[LearnerState, Metrics, jax.Array]:
    """Takes one optimizer step of the critics, down the mean of the weighted 0.5 (target - Q)^2, summed over both.

    Args:
        networks: The agent's networks.
        optimizer: The critics' optimizer.
        state: The state.
        sample: [T, B]; reset rows carry no loss.
        targets_of: (part of the trajectory, with the network's carry) -> targets [T, B] in the return's units.
        partition: How the update goes through its batch.
        term: What they descend beside that.

    Returns:
        The state, metrics and the sequences' priorities [B].
    """
    count = jnp.sum(sample.trajectory.is_transition, dtype=jnp.float32)

    def loss_of(params: PyTree, part: Sample) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
        trajectory = resume_network(networks.policy, part)
        targets, mask = targets_of(trajectory)[..., None], trajectory.is_transition
        values = networks.values_at({"critic": params}, trajectory, 0, trajectory.action)
        errors = jnp.mean(jnp.abs(targets - jax.lax.stop_gradient(values)), axis=-1)
        loss = masked_mean(part.weight * jnp.sum(value_loss(values, targets), axis=-1), mask, count=count)
        means = {"taken": jnp.mean(values, axis=-1), "target": targets[..., 0], "error": errors}
        metrics = {f"value/{name}": masked_mean(x, mask, count=count) for name, x in means.items()}
        return loss, ({"loss/value": loss, **metrics}, sequence_priority(errors, mask, share_of_max=1.0))

    metrics, priority, grads = accumulate_by_sequence(loss_of, state.params["critic"], sample, partition)
    if term is not None:
        told, slopes = _descend(networks, state.params, "critic", term.name, term.sample, term.loss, partition)
        metrics, grads = {**metrics, **told}, jax.tree.map(jnp.add, grads, slopes)
    state, norm = _move(optimizer, state, "critic", grads)
    return state, {**metrics, "grad/critic_norm": norm, "loss/weight": jnp.mean(sample.weight)}, priority


def take_step(
    networks: TwinCritic,
    optimizer: OptimizerOverRun,
    state: LearnerState,
    sample: Sample,
    row_loss: RowLoss,
    partition: Partition,
    *,
    part: str,
) -> tuple[LearnerState, Metrics]:
    """Takes one optimizer step of a part of the parameters, down the mean of its weighted loss over real transitions.

    Args:
        networks: The agent's networks.
        optimizer: The part's optimizer.
        state: The state.
        sample: [T, B].
        row_loss: The loss of each row, differentiated by `params[part]`.
        partition: How the update goes through its batch.
        part: The part: `policy`, or `state_value` if the agent has one.

    Returns:
        The state, and metrics.
    """
    metrics, grads = _descend(networks, state.params, part, f"loss/{part}", sample, row_loss, partition)
    state, norm = _move(optimizer, state, part, grads)
    return state, {**metrics, f"grad/{part}_norm": norm}


def total_metrics(metrics: Metrics, others: Sequence[str] = ()) -> Metrics:
    """Returns the metrics with what every agent owes: the sum of the losses, and the norm of the whole gradient.

    Args:
        metrics: The metrics.
        others: Names of losses besides those of values and policy.
    """
    norms = [metrics[name] for name in _NORMS if name in metrics]
    loss = metrics["loss/value"] + metrics["loss/policy"] + sum(metrics[name] for name in others)
    return {**metrics, "loss/total": loss, "grad/norm": jnp.linalg.norm(jnp.stack(norms))}


def _descend(
    networks: TwinCritic,
    params: PyTree,
    part: str,
    name: str,
    sample: Sample,
    row_loss: RowLoss,
    partition: Partition,
) -> tuple[Metrics, PyTree]:
    """Returns the metrics of the weighted mean of a loss over real transitions, and its gradient by a part of `params`.

    The loss's own metric is called `name`.
    """
    count = jnp.sum(sample.trajectory.is_transition, dtype=jnp.float32)

    def loss_of(own: PyTree, taken: Sample) -> tuple[jax.Array, Metrics]:
        trajectory = resume_network(networks.policy, taken)
        losses, told = row_loss({**params, part: own}, trajectory)
        means = {
            label: masked_mean(x, trajectory.is_transition, count=count)
            for label, x in {name: taken.weight * losses, **told}.items()
        }
        return means[name], means

    (_, metrics), grads = accumulate_gradients(
        loss_of, params[part], sample, partition.micro_batches, rolled=partition.rolls_micro_batches
    )
    return metrics, grads


def _move(optimizer: OptimizerOverRun, state: LearnerState, part: str, grads: PyTree) -> tuple[LearnerState, jax.Array]:
    """Takes one step of a part of the parameters; returns the state and the gradient's norm before clipping."""
    own = {part: state.params[part]}
    params, opt_state = optimizer.move(state.step, own, state.opt_state[part], {part: grads})
    moved = dataclasses.replace(
        state, params={**state.params, **params}, opt_state={**state.opt_state, part: opt_state}
    )
    return moved, jnp.asarray(optax.tree.norm(grads))
