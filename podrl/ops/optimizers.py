"""Optimizers and learning-rate schedules, composed from Optax.

Each optimizer clips the gradient by its global norm, then scales it. RMSProp has two forms, which differ where the
second moment is small, as it is in deep RL: with epsilon 0.01 the two train differently, and papers use both.
"""

from collections.abc import Callable

import jax
from jax import numpy as jnp
import numpy as np
import optax

from podrl.types import PyTree

_MOST_STEPS = 2**31 - 1  # Optax stops counting there.


def linear_decay(learning_rate: float, num_updates: int) -> optax.Schedule:
    """Creates a schedule from `learning_rate` at update 0 down to zero at update `num_updates`, and zero after it."""
    return optax.linear_schedule(learning_rate, 0.0, num_updates)


def share_left(step: jax.Array, num_updates: int, ahead: float) -> jax.Array:
    """Computes the fraction of a run's experience that is left after `step` updates.

    The updates left are counted in integers: among millions of updates, float32 cannot distinguish one from the next.

    Args:
        step: [] int32; updates done.
        num_updates: The number of the run's last update.
        ahead: How far the run's experience is ahead of its updates, in updates of the current size; 0 if all updates
            had this size. It is the same at every step.
    """
    return jnp.maximum(num_updates - step, 0) / (num_updates + ahead) if ahead else 1 - step / num_updates


def rate_over_run(
    learning_rate: float,
    *,
    decays: bool,
    num_updates: int,
    steps_per_update: int,
    ahead: float,
    by_updates: bool = False,
) -> Callable[[jax.Array], optax.ScalarOrSchedule]:
    """Returns a function (step) -> the learning rate, or its schedule, for the optimizer steps of that update.

    A rate that decays falls linearly to zero at the run's end, by the optimizer's own count of steps. That count does
    not measure progress if updates had several sizes, or if there are more steps than it can count. Then the rate falls
    by updates, and all steps of one update use the same rate.

    Args:
        learning_rate: The rate at the start of the run.
        decays: Whether the rate decays.
        num_updates: The number of the run's last update.
        steps_per_update: Optimizer steps in each update.
        ahead: How far experience is ahead of updates; see `share_left`.
        by_updates: Whether the rate falls by updates in any case.
    """
    if not decays:
        return lambda step: learning_rate
    num_steps = num_updates * steps_per_update
    if not ahead and not by_updates and num_steps <= _MOST_STEPS:
        schedule = linear_decay(learning_rate, num_steps)
        return lambda step: schedule

    def schedule_at(step: jax.Array) -> optax.Schedule:
        rate = learning_rate * jnp.maximum(share_left(step, num_updates, ahead), 0)
        return lambda count: rate

    return schedule_at


def warm_up(
    rate_at: Callable[[jax.Array], optax.ScalarOrSchedule], num_updates: int
) -> Callable[[jax.Array], optax.ScalarOrSchedule]:
    """Returns a function (step) -> the learning rate or its schedule, as `rate_at` gives it but small at first.

    In update n, counted from 1, the rate is n / `num_updates` of what it would be, up to all of it.
    """
    if not num_updates:
        return rate_at

    def warm_at(step: jax.Array) -> optax.Schedule:
        rate, share = rate_at(step), jnp.minimum((step + 1) / num_updates, 1)
        return lambda count: share * (rate(count) if callable(rate) else rate)

    return warm_at


def rescale_counts(opt_state: optax.OptState, factor: float) -> optax.OptState:
    """Returns an optimizer's state with the step counts of its schedules multiplied by `factor`; the rest stays."""

    def rescale(count: jax.Array) -> jax.Array:
        steps = np.asarray(min(round(int(count) * factor), _MOST_STEPS), count.dtype)
        return jax.make_array_from_callback(steps.shape, count.sharding, lambda index: steps[index])

    def choose(node: PyTree) -> PyTree:
        return jax.tree.map(rescale, node) if isinstance(node, optax.ScaleByScheduleState) else node

    return jax.tree.map(choose, opt_state, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState))


def make_rmsprop(
    learning_rate: optax.ScalarOrSchedule,
    *,
    decay: float = 0.99,
    epsilon: float = 0.01,
    epsilon_inside_root: bool = False,
    max_grad_norm: float = 40.0,
) -> optax.GradientTransformation:
    """RMSProp without momentum, after clipping by global norm.

    v <- decay v + (1 - decay) g^2, from v = 0. The step is g / (sqrt(v) + epsilon), PyTorch's form, or
    g / sqrt(v + epsilon), TensorFlow's, if `epsilon_inside_root`. (TensorFlow 1 also started from v = 1.)

    Args:
        learning_rate: A number, or a schedule over updates.
        decay: The decay of the second moment, per update.
        epsilon: Keeps the step finite.
        epsilon_inside_root: Whether to use TensorFlow's form.
        max_grad_norm: The L2 norm, over all parameters together, that longer gradients are scaled down to.
    """
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.scale_by_rms(decay=decay, eps=epsilon, eps_in_sqrt=epsilon_inside_root),
        optax.scale_by_learning_rate(learning_rate),
    )


def make_adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    max_grad_norm: float = 40.0,
) -> optax.GradientTransformation:
    """Adam with bias correction and `epsilon` outside the root, after clipping by global norm.

    Args:
        learning_rate: A number, or a schedule over updates.
        b1: The decay of the first moment, per update.
        b2: The decay of the second moment, per update.
        epsilon: Keeps the step finite.
        max_grad_norm: The L2 norm, over all parameters together, that longer gradients are scaled down to.

    Source: Kingma and Ba 2014, arXiv:1412.6980, algorithm 1.
    """
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=epsilon),
        optax.scale_by_learning_rate(learning_rate),
    )


def make_adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 1e-4,
    max_grad_norm: float = 40.0,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, after clipping by global norm.

    Each step also takes `weight_decay` times the learning rate of each kernel. Arrays of one axis, which are biases and
    scales, do not decay.

    Args:
        learning_rate: A number, or a schedule over updates.
        b1: The decay of the first moment, per update.
        b2: The decay of the second moment, per update.
        epsilon: Keeps the step finite.
        weight_decay: The share of kernels that a step takes, before the learning rate.
        max_grad_norm: The L2 norm, over all parameters together, that longer gradients are scaled down to.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """

    def is_kernel(params: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=epsilon),
        optax.add_decayed_weights(weight_decay, is_kernel),
        optax.scale_by_learning_rate(learning_rate),
    )


def make_radam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    max_grad_norm: float = 40.0,
) -> optax.GradientTransformation:
    """Rectified Adam, after clipping by global norm.

    Adam's steps are shorter as long as few gradients make up the second moment. The first five are those of momentum
    alone, which does not divide by that moment.

    Args:
        learning_rate: A number, or a schedule over updates.
        b1: The decay of the first moment, per update.
        b2: The decay of the second moment, per update.
        epsilon: Keeps the step finite.
        max_grad_norm: The L2 norm, over all parameters together, that longer gradients are scaled down to.

    Source: Liu et al. 2020, arXiv:1908.03265, algorithm 2.
    """
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.scale_by_radam(b1=b1, b2=b2, eps=epsilon),
        optax.scale_by_learning_rate(learning_rate),
    )
