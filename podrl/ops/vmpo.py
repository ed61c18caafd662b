"""V-MPO's E-step: which transitions a policy should imitate, and by how much.

All functions take the whole batch [T, B], on however many devices it lies: the better half and the sum that normalises
the weights are the batch's, not a device's or a minibatch's. The same transitions D~ are in the sum of the weights and
in that of the temperature's loss.

Source: Song et al. 2019, arXiv:1909.12238, section 4.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp

from podrl.types import Metrics, Trajectory


@struct.dataclass(kw_only=True)
class Weighted:
    """A trajectory, and how much a policy should imitate each of its actions.

    Attributes:
        trajectory: [T, B].
        advantages: [T, B]; zero on reset rows.
        targets: [T, B] that the network's values should move to, in the network's units.
        selected: [T, B] bool; whether the policy imitates the action.
        weights: [T, B] by which it does; they sum to one over the whole batch.
    """

    trajectory: Trajectory
    advantages: jax.Array
    targets: jax.Array
    selected: jax.Array
    weights: jax.Array

    def map(self, timed: Callable[[Any], Any], untimed: Callable[[Any], Any]) -> "Weighted":
        """The same with `timed` of each leaf with a time axis, and `untimed` of each without."""
        fields = {field.name: timed(getattr(self, field.name)) for field in dataclasses.fields(self)[1:]}
        return Weighted(trajectory=self.trajectory.map(timed, untimed), **fields)


def weigh_trajectory(
    trajectory: Trajectory, advantages: jax.Array, targets: jax.Array, temperature: jax.Array, *, fraction: float
) -> Weighted:
    """Weights the actions of a whole batch by their advantages; see `select_top` and `advantage_weights`."""
    selected = select_top(advantages, trajectory.is_transition, fraction)
    weights = advantage_weights(advantages, selected, temperature)
    return Weighted(trajectory=trajectory, advantages=advantages, targets=targets, selected=selected, weights=weights)


def select_top(advantages: jax.Array, is_transition: jax.Array, fraction: float = 0.5) -> jax.Array:
    """Selects D~, the transitions with the highest advantages.

    Transitions whose advantage equals the lowest selected one are all in, so that the set does not depend on their
    order. Over several devices the advantages are gathered on each, T * B numbers.

    Args:
        advantages: [T, B].
        is_transition: [T, B] bool; false on reset rows, which are never selected.
        fraction: Share of the real transitions to select, rounded up, in (0, 1].

    Returns:
        [T, B] bool; none if there is no real transition.
    """
    # Batch-major: with time as the major axis the sharded batch would be gathered to be merged.
    ranked = jnp.sort(jnp.where(is_transition, advantages, -jnp.inf).T.reshape(-1))
    num = jnp.ceil(fraction * jnp.sum(is_transition, dtype=jnp.float32)).astype(jnp.int32)
    lowest = jax.lax.dynamic_index_in_dim(ranked, ranked.size - num, keepdims=False)
    return is_transition & (advantages >= lowest)


def advantage_weights(advantages: jax.Array, selected: jax.Array, temperature: jax.Array) -> jax.Array:
    """The weights psi = exp(A / eta) / sum over D~ of exp(A / eta), zero outside of D~.

    Args:
        advantages: [T, B].
        selected: [T, B] bool, D~.
        temperature: [] eta, positive: the higher, the more alike are the weights.

    Returns:
        [T, B] weights that sum to one, or zeros if nothing is selected; no gradient flows through them.

    Source: Song et al. 2019, arXiv:1909.12238, equation 3.
    """
    weights, total, _ = _exponentials(advantages, selected, temperature)
    return jax.lax.stop_gradient(weights / total)


def temperature_loss(temperature: jax.Array, advantages: jax.Array, selected: jax.Array, epsilon: float) -> jax.Array:
    """The temperature's dual loss, eta * epsilon + eta * log(mean over D~ of exp(A / eta)).

    Its minimum is the temperature for which the weights' divergence from equal weights on D~ is `epsilon`.

    Args:
        temperature: [] eta; the only argument that gets a gradient.
        advantages: [T, B].
        selected: [T, B] bool, D~.
        epsilon: Largest divergence KL(psi || equal weights), in nats.

    Returns:
        [] loss, without a gradient if nothing is selected.

    Source: Song et al. 2019, arXiv:1909.12238, equation 4.
    """
    _, total, highest = _exponentials(advantages, selected, temperature)
    num = jnp.sum(selected, dtype=jnp.float32)
    loss = highest + temperature * (epsilon + jnp.log(total / jnp.maximum(num, 1)))
    return jnp.where(num > 0, loss, 0.0)


def weight_metrics(weighted: Weighted) -> Metrics:
    """Metrics of a whole batch's weights.

    Returns:
        `policy/selected`, the share of transitions in D~; `policy/largest_weight`; and `policy/weight_kl`, the
        divergence KL(psi || equal weights on D~) in nats, which the temperature's loss takes to its `epsilon`.
    """
    num = jnp.sum(weighted.selected, dtype=jnp.float32)
    num_transitions = jnp.sum(weighted.trajectory.is_transition, dtype=jnp.float32)
    positive = jnp.where(weighted.weights > 0, weighted.weights, 1.0)
    return {
        "policy/selected": num / jnp.maximum(num_transitions, 1),
        "policy/largest_weight": jnp.max(weighted.weights),
        "policy/weight_kl": jnp.sum(weighted.weights * jnp.log(positive * jnp.maximum(num, 1))),
    }


def _exponentials(
    advantages: jax.Array, selected: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns exp((A - max A) / eta) [T, B] on D~ and zero elsewhere, its sum [] (one if D~ is empty), and max A []."""
    advantages = jax.lax.stop_gradient(advantages)
    some = jnp.any(selected)
    highest = jnp.where(some, jnp.max(jnp.where(selected, advantages, -jnp.inf)), 0.0)
    # Masked before the exponential, so that its gradient is finite.
    below = jnp.where(selected, advantages - highest, 0.0)
    exponentials = jnp.where(selected, jnp.exp(below / temperature), 0.0)
    return exponentials, jnp.where(some, jnp.sum(exponentials), 1.0), highest
