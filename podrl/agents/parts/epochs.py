"""What several passes over one batch learn from: estimated once, dealt to minibatches anew in each pass."""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp

from podrl.agents.parts.interface import UpdateShape
from podrl.config.config import check
from podrl.networks.interface import NetworkFunctions, Output
from podrl.ops.losses import mean_and_deviation
from podrl.ops.minibatches import deal_environments, deal_rows, take_environments, take_rows
from podrl.ops.returns import clip_reward, gae
from podrl.types import LearnerState, Metrics, PyTree, Trajectory


@struct.dataclass(kw_only=True)
class Experience:
    """A trajectory, and what is computed of it before the first optimizer step.

    Attributes:
        trajectory: [T, B].
        values: [T, B] that the advantages were estimated from.
        targets: [T, B] that the values should move to.
        advantages: [T, B]; zero on reset rows.
        rows: [R, B] int32, those of each environment to learn from; None for all.
    """

    trajectory: Trajectory
    values: jax.Array
    targets: jax.Array
    advantages: jax.Array
    rows: jax.Array | None = None

    def map(self, timed: Callable[[Any], Any], untimed: Callable[[Any], Any]) -> "Experience":
        """The same with `timed` of each leaf with a time axis, and `untimed` of each without."""
        return Experience(
            trajectory=self.trajectory.map(timed, untimed),
            values=timed(self.values),
            targets=timed(self.targets),
            advantages=timed(self.advantages),
            rows=jax.tree.map(timed, self.rows),
        )

    def select(self, tree: PyTree) -> PyTree:
        """The rows to learn from, of leaves [T, B, ...]."""
        return tree if self.rows is None else take_rows(tree, self.rows)

    def take(self, share: jax.Array, shape: UpdateShape) -> "Experience":
        """The minibatch of one share of `deal_epoch`."""
        if shape.divides_rows:
            return dataclasses.replace(self, rows=share)
        return take_environments(self, share, shape.minibatches)


def estimate_gae(config: Any, trajectory: Trajectory, values: jax.Array) -> jax.Array:
    """Returns the advantages [T, B] of a trajectory by `podrl.ops.returns.gae`.

    Args:
        config: The agent's config, with `reward_scale`, `max_reward`, `discount` and `lambda_`.
        trajectory: [T, B].
        values: [T+1, B] in the units of the return.
    """
    return gae(
        values,
        clip_reward(trajectory.reward * config.reward_scale, config.max_reward),
        trajectory.discount * config.discount,
        trajectory.is_transition,
        lambda_=config.lambda_,
    )


def deal_epoch(key: jax.Array, trajectory: Trajectory, shape: UpdateShape) -> jax.Array:
    """Deals a trajectory [T, B] to the minibatches of one pass; returns the share of each, with a leading axis."""
    if shape.divides_rows:
        return deal_rows(key, trajectory.env_index, trajectory.reward.shape[0], shape.minibatches)
    return deal_environments(key, trajectory.env_index, shape.minibatches)


def check_shuffle(shuffle: str, network: NetworkFunctions) -> None:
    """Raises `ConfigError` if `agent.shuffle` does not fit the network."""
    check(
        shuffle != "time" or network.rows is not None,
        "agent.shuffle='time' needs a network that can evaluate a row without those before it, which this one cannot. "
        "Use agent.shuffle=environments.",
    )


def take_epochs(
    state: LearnerState,
    experience: Experience,
    sgd_step: Callable[[LearnerState, Experience], tuple[LearnerState, Metrics]],
    shape: UpdateShape,
    *,
    rolled: bool,
) -> tuple[LearnerState, Metrics]:
    """Takes all optimizer steps of an update, in passes over one batch that are each dealt anew.

    Args:
        state: The state, whose key is consumed unless there is only one step.
        experience: The batch.
        sgd_step: (state, minibatch) -> (state, metrics): one optimizer step.
        shape: How the update divides its batch.
        rolled: Whether the steps are a loop of the compiled program, see `Partition.rolls_steps`.

    Returns:
        The state with a new key, and the means of the steps' metrics. A single step takes the batch as it is, and the
        key stays.
    """
    if shape.optimizer_steps == 1:
        return sgd_step(state, experience)
    key, shuffle_key = jax.random.split(state.key)
    epoch_keys = jax.random.split(shuffle_key, shape.epochs)
    shares = jax.vmap(lambda epoch_key: deal_epoch(epoch_key, experience.trajectory, shape))(epoch_keys)
    state, steps = jax.lax.scan(
        lambda state, share: sgd_step(state, experience.take(share, shape)),
        state,
        shares.reshape(-1, *shares.shape[2:]),
        unroll=not rolled or 1,
    )
    return dataclasses.replace(state, key=key), jax.tree.map(jnp.mean, steps)


def evaluate_minibatch(network: NetworkFunctions[Output], params: PyTree, minibatch: Experience) -> Output:
    """Returns the network's outputs [R, B, ...] at the rows to learn from."""
    if minibatch.rows is not None and network.rows is not None:
        return network.rows(params, minibatch.trajectory, minibatch.rows)
    return jax.tree.map(lambda x: x[:-1], network.unroll(params, minibatch.trajectory)[0])


def normalize_advantages(minibatch: Experience, mask: jax.Array) -> Experience:
    """Scales a minibatch's advantages to mean 0 and standard deviation 1 over its real transitions, those of `mask`."""
    mean, deviation = mean_and_deviation(minibatch.select(minibatch.advantages), mask)
    return dataclasses.replace(minibatch, advantages=(minibatch.advantages - mean) / (deviation + 1e-8))


def value_metrics(experience: Experience) -> Metrics:
    """How well the values at the update's start foretold their targets: 1 is perfectly, 0 no better than their mean."""
    mask = experience.trajectory.is_transition
    value, _ = mean_and_deviation(experience.values, mask)
    target, spread = mean_and_deviation(experience.targets, mask)
    _, error = mean_and_deviation(experience.targets - experience.values, mask)
    explained = jnp.where(spread > 0, 1 - jnp.square(error / jnp.where(spread > 0, spread, 1)), 0.0)
    return {"value/mean": value, "value/target": target, "value/explained_variance": explained}
