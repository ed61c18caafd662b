"""The functions that agents share which learn from sequences: burn-in, and priorities beside a gradient in parts."""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp

from podrl.agents.parts.interface import Partition, SequenceShape
from podrl.networks.interface import NetworkFunctions, Output, QNetwork, QOutput
from podrl.ops.minibatches import accumulate_gradients, take_rows
from podrl.ops.q_values import double_q_value, value_of_action
from podrl.ops.returns import n_step_returns
from podrl.types import Metrics, PyTree, Sample, Trajectory

_PRIORITY = "priority"  # Among the metrics of a part.
# (params, part of the sample) -> (loss, (metrics, priority [B])); loss and metrics are shares of the whole sample's.
SequenceLoss = Callable[[PyTree, Sample], tuple[jax.Array, tuple[Metrics, jax.Array]]]


def resume_network(
    network: NetworkFunctions[Output], sample: Sample, own: Callable[[PyTree], PyTree] = lambda carry: carry
) -> Trajectory:
    """Returns a sample's trajectory with the network's carry before its first row.

    Args:
        network: The network.
        sample: From a ring or a data set, which keep a part of the carry; or rollouts that were not in one, and have it
            whole.
        own: (an agent's whole carry) -> the network's.
    """
    carry = sample.trajectory.carry
    resumed = own(carry) if isinstance(sample.before, tuple) else network.resume(carry, sample.before)
    return dataclasses.replace(sample.trajectory, carry=resumed)


def take_transitions(trajectory: Trajectory, start: int, stop: int) -> Trajectory:
    """Returns transitions `start` to `stop` of a trajectory [T, B], and the row behind; its carry stays the first's."""
    rows = {name: getattr(trajectory, name) for name in ("observation", "first")}
    steps = {
        name: getattr(trajectory, name) for name in ("action", "reward", "discount", "behaviour", "params_version")
    }
    return dataclasses.replace(
        trajectory,
        **jax.tree.map(lambda x: x[start : stop + 1], rows),
        **jax.tree.map(lambda x: x[start:stop], steps),
    )


def unroll_after_burn_in(
    network: NetworkFunctions[Output], params: PyTree, trajectory: Trajectory, burn_in: int
) -> Output:
    """Evaluates a trajectory behind its first rows, which only warm up the carry and get no gradient.

    Args:
        network: The network.
        params: Its parameters.
        trajectory: [T, B], with the network's own carry before row 0.
        burn_in: Rows to leave out, fewer than T.

    Returns:
        The outputs of rows `burn_in` to T.

    Source: Kapturowski et al. 2019, Recurrent experience replay in distributed reinforcement learning, ICLR, section 3.
    """
    if burn_in:
        warm_up = take_transitions(trajectory, 0, burn_in - 1)  # The row behind these is the last one to leave out.
        _, carry = network.unroll(jax.lax.stop_gradient(params), warm_up)
        trajectory = dataclasses.replace(
            take_transitions(trajectory, burn_in, len(trajectory.reward)),
            carry=jax.lax.stop_gradient(network.remember(carry, trajectory.action[burn_in - 1])),
            opening_reward=trajectory.reward[burn_in - 1],
        )
    return network.unroll(params, trajectory)[0]


def rows_to_learn(shape: SequenceShape, length: int) -> tuple[int, int]:
    """Returns the first row that is learned from, and the one behind the last, of sequences or rollouts of some length.

    The burn-in is left out, but of a rollout that is no longer than it; so are rows that are only for targets.
    """
    start = shape.burn_in if shape.burn_in < length else 0
    return start, max(length - shape.extra, start + 1)


def transitions_to_learn(shape: SequenceShape, trajectory: Trajectory) -> jax.Array:
    """Returns which rows of [T, B] behind the burn-in are transitions that are learned from, [T - burn_in, B] bool."""
    start, stop = rows_to_learn(shape, len(trajectory.reward))
    mask = trajectory.is_transition[start:]
    return mask & (jnp.arange(len(mask)) < stop - start)[:, None]


def evaluate_transitions(
    network: NetworkFunctions[Output], params: PyTree, trajectory: Trajectory, start: int = 0, stop: int | None = None
) -> Output:
    """Evaluates only rows that have an action: rows `start` to `stop` of [T, B], `stop` left out; all T by default.

    Rows before them warm up the carry, if there is one.
    """
    length, batch = trajectory.reward.shape
    end = length if stop is None else stop
    if network.rows is None:
        behind = unroll_after_burn_in(network, params, trajectory, start)
        return jax.tree.map(lambda x: x[: end - start], behind)
    rows = jnp.arange(start, end, dtype=jnp.int32)[:, None]
    return network.rows(params, trajectory, jnp.broadcast_to(rows, (end - start, batch)))


def evaluate_rows(
    network: NetworkFunctions[Output], params: PyTree, trajectory: Trajectory, burn_in: int
) -> Callable[[jax.Array], Output]:
    """Returns (rows [R, B] int32) -> output [R, B, ...], for rows `burn_in` to T of [T, B].

    A network that can evaluates those rows alone; another one all of them, once.
    """
    alone = network.rows
    if alone is not None:
        return lambda rows: alone(params, trajectory, rows)
    behind = unroll_after_burn_in(network, params, trajectory, burn_in)
    return lambda rows: take_rows(behind, rows - burn_in)


def double_q_behind(
    network: QNetwork, params: PyTree, target: PyTree, trajectory: Trajectory, burn_in: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the values of the actions behind the burn-in [T, B], and what targets bootstrap from [T+1, B]."""
    online = unroll_after_burn_in(network, params, trajectory, burn_in).q_values
    slow = unroll_after_burn_in(network, jax.lax.stop_gradient(target), trajectory, burn_in).q_values
    taken = value_of_action(online[:-1], trajectory.action[burn_in:])
    return taken, jax.lax.stop_gradient(double_q_value(slow, online))


def double_q_of_first(
    rows: Callable[[PyTree, Trajectory, jax.Array], QOutput], params: PyTree, target: PyTree, trajectory: Trajectory
) -> tuple[jax.Array, jax.Array]:
    """Evaluates of [T, B] only row 0, which is learned from, and the row that its target over T steps bootstraps from.

    Returns:
        The value of the action in row 0 [1, B], and what its target bootstraps from, repeated for all rows [T+1, B].
    """
    length, zeros = len(trajectory.reward), jnp.zeros_like(trajectory.reward)
    numbers = jnp.broadcast_to(jnp.arange(length + 1.0)[:, None], trajectory.first.shape)
    last = n_step_returns(numbers, zeros, zeros + 1, trajectory.is_transition, num_steps=length)[:1].astype(jnp.int32)
    online = rows(jax.lax.stop_gradient(params), trajectory, last).q_values
    slow = rows(jax.lax.stop_gradient(target), trajectory, last).q_values
    taken = value_of_action(rows(params, trajectory, jnp.zeros_like(last)).q_values, trajectory.action[:1])
    return taken, jnp.broadcast_to(double_q_value(slow, online), trajectory.first.shape)


def accumulate_by_sequence(
    loss: SequenceLoss, params: PyTree, sample: Sample, partition: Partition
) -> tuple[Metrics, jax.Array, PyTree]:
    """Sums metrics and gradients over parts of a sample, and joins the priorities of its sequences.

    Args:
        loss: The loss of a part.
        params: The parameters to differentiate by.
        sample: The whole sample, of N sequences.
        partition: Into how many parts.

    Returns:
        Metrics, priorities [N] and gradients.
    """
    num = partition.micro_batches

    def loss_of(params: PyTree, part: _Part) -> tuple[jax.Array, Metrics]:
        total, (metrics, priority) = loss(params, part.sample)
        is_own = part.number[:, None] == jnp.arange(num)
        return total, {**metrics, _PRIORITY: jnp.where(is_own, priority[:, None], 0)}  # A sum over parts joins them.

    whole = _Part(sample=sample, number=jnp.arange(sample.weight.shape[0]) % num)
    (_, summed), grads = accumulate_gradients(loss_of, params, whole, num, rolled=partition.rolls_micro_batches)
    metrics = {name: value for name, value in summed.items() if name != _PRIORITY}
    return metrics, summed[_PRIORITY].reshape(-1), grads


@struct.dataclass(kw_only=True)
class _Part:
    """A sample, and of each of its sequences the number of the part that it belongs to, [B]."""

    sample: Sample
    number: jax.Array

    def map(self, timed: Callable[[Any], Any], untimed: Callable[[Any], Any]) -> "_Part":
        return _Part(sample=self.sample.map(timed, untimed), number=untimed(self.number))
