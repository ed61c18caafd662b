"""V-MPO's E-step: which transitions a policy should imitate, and by how much.

All functions take the whole batch [T, B] of an optimizer step, on however many devices it lies: the better half and the
sum that normalises the weights are the batch's, not a device's. The same transitions D~ are in the sum of the weights
and in that of the temperature's loss.

Source: Song et al. 2019, arXiv:1909.12238, section 4.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic

from flax import struct
import jax
from jax import numpy as jnp

from podrl.ops.duals import dual_loss
from podrl.ops.minibatches import AnyBatch
from podrl.types import Metrics, PyTree


@struct.dataclass(kw_only=True)
class Weighted(Generic[AnyBatch]):
    """A batch, and how much a policy should imitate each of its actions.

    Attributes:
        batch: The batch, or a minibatch.
        advantages: [T, B] of its transitions; zero on reset rows.
        selected: [T, B] bool; whether the policy imitates the action.
        weights: [T, B] by which it does; they sum to one over the whole batch.
    """

    batch: AnyBatch
    advantages: jax.Array
    selected: jax.Array
    weights: jax.Array

    def map(self, timed: Callable[[Any], Any], untimed: Callable[[Any], Any]) -> "Weighted[AnyBatch]":
        """The same with `timed` of each leaf with a time axis, and `untimed` of each without."""
        return Weighted(
            batch=self.batch.map(timed, untimed),
            advantages=timed(self.advantages),
            selected=timed(self.selected),
            weights=timed(self.weights),
        )


def weigh(
    batch: AnyBatch, advantages: jax.Array, is_transition: jax.Array, temperature: jax.Array, *, fraction: float
) -> Weighted[AnyBatch]:
    """Weights the actions of a whole batch by their advantages; see `select_top` and `advantage_weights`."""
    selected = select_top(advantages, is_transition, fraction)
    weights = advantage_weights(advantages, selected, temperature)
    return Weighted(batch=batch, advantages=advantages, selected=selected, weights=weights)


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


def vmpo_dual_loss(
    duals: PyTree, weighted: Weighted[AnyBatch], divergences: Mapping[str, tuple[jax.Array, float]], epsilon: float
) -> tuple[jax.Array, Metrics]:
    """The loss of the temperature and of the divergences' multipliers.

    Args:
        duals: `temperature` [] and `kl_cost`, a multiplier [] for each divergence, by its name.
        weighted: The whole batch.
        divergences: Each divergence [] and its bound, by name.
        epsilon: The bound on the weights' divergence from equal ones.

    Returns:
        The loss [], and metrics: its two terms, and the duals.

    Source: Song et al. 2019, arXiv:1909.12238, equations 4 and 5.
    """
    temperature = temperature_loss(duals["temperature"], weighted.advantages, weighted.selected, epsilon)
    multipliers = jnp.asarray(sum(dual_loss(cost, *divergences[name]) for name, cost in duals["kl_cost"].items()))
    return temperature + multipliers, {
        "loss/temperature": temperature,
        "loss/multipliers": multipliers,
        "policy/temperature": duals["temperature"],
        **{f"policy/kl_cost_{name}": cost for name, cost in duals["kl_cost"].items()},
    }


def weight_metrics(weighted: Weighted[AnyBatch], num_transitions: jax.Array) -> Metrics:
    """Metrics of the weights of a whole batch, which has `num_transitions` [] real transitions.

    Returns:
        `policy/selected`, the share of transitions in D~; `policy/largest_weight`; and `policy/weight_kl`, the
        divergence KL(psi || equal weights on D~) in nats, which the temperature's loss takes to its `epsilon`.
    """
    num = jnp.sum(weighted.selected, dtype=jnp.float32)
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
