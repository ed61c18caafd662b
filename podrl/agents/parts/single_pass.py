"""One pass over a batch: an optimizer step on each minibatch of its environments, one after the other."""

from collections.abc import Callable

import jax
from jax import numpy as jnp

from podrl.agents.parts.interface import Partition
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.ops.minibatches import accumulate_gradients, split_environments
from podrl.types import LearnerState, Metrics, PyTree, Trajectory

Loss = Callable[[LearnerState, PyTree, Trajectory, jax.Array], tuple[jax.Array, Metrics]]


def make_single_pass(
    optimizer: OptimizerOverRun, loss: Loss, minibatches: int, partition: Partition
) -> Callable[[LearnerState, Trajectory], tuple[LearnerState, Metrics]]:
    """Returns (state, trajectory [T, B]) -> (state, metrics), the metrics means over the optimizer steps.

    Args:
        optimizer: The optimizer.
        loss: (state before the step, params, part of a minibatch, real transitions [] of the whole minibatch) -> (loss,
            metrics), both as the part's share of the minibatch's mean. It is differentiated by `params`.
        minibatches: Optimizer steps, each on its share of the environments.
        partition: How the update goes through its batch.
    """

    @jax.jit
    def sgd_step(state: LearnerState, trajectory: Trajectory) -> tuple[LearnerState, Metrics]:
        num_transitions = jnp.sum(trajectory.is_transition, dtype=jnp.float32)

        def loss_fn(params: PyTree, part: Trajectory) -> tuple[jax.Array, Metrics]:
            return loss(state, params, part, num_transitions)

        (_, metrics), grads = accumulate_gradients(
            loss_fn, state.params, trajectory, partition.micro_batches, rolled=partition.rolls_micro_batches
        )
        state, norm = optimizer.apply(state, grads)
        return state, {**metrics, "grad/norm": norm}

    def take_steps(state: LearnerState, trajectory: Trajectory) -> tuple[LearnerState, Metrics]:
        steps = []
        for minibatch in split_environments(trajectory, minibatches):
            state, metrics = sgd_step(state, minibatch)
            steps.append(metrics)
        return state, jax.tree.map(lambda *values: sum(values) / len(values), *steps)

    return take_steps
