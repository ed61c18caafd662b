"""How what an update is given becomes what it learns from: rollouts that are joined, or samples of a data set.

All functions here are parts of the compiled update, in the global view.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from podrl.agents.parts.interface import Agent, Fresh
from podrl.data.gathering import with_initial_carry
from podrl.mesh import trajectory_sharding
from podrl.types import LearnerState, Metrics, PyTree, Sample, Trajectory

_LONGEST_LAG_COUNTED = 16  # Updates; of longer lags there is the mean and the largest.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intake:
    """Functions of what an update is given.

    Attributes:
        shardings: (shapes) -> how it is laid out on the learner's devices, a pytree like them.
        fresh: (given) -> what the agent learns from.
        tell: (state before the update, fresh) -> metrics of the batch.
        hashed: (given) -> what the batch's fingerprint is computed of.
    """

    shardings: Callable[[PyTree], PyTree]
    fresh: Callable[[PyTree], Fresh]
    tell: Callable[[LearnerState, Fresh], Metrics]
    hashed: Callable[[PyTree], PyTree] = lambda given: given


def take_rollouts(mesh: Mesh, max_lag: int) -> Intake:
    """Returns the intake of rollouts, a tuple with one of each actor pool, which are joined.

    Args:
        mesh: The learner's devices.
        max_lag: The largest policy lag that occurs, in updates; see `lag_metrics`.
    """

    def tell(state: LearnerState, fresh: Fresh) -> Metrics:
        rollouts: Any = fresh.rollouts
        transitions = jnp.sum(rollouts.is_transition, dtype=jnp.float32)
        return {**lag_metrics(state.step - rollouts.params_version, max_lag), "data/transitions": transitions}

    return Intake(
        shardings=lambda given: tuple(trajectory_sharding(mesh, rollouts) for rollouts in given),
        fresh=lambda given: Fresh(rollouts=join_environments(mesh, given)),
        tell=tell,
    )


def take_samples(
    mesh: Mesh,
    agent: Agent,
    *,
    shardings: Callable[[PyTree], PyTree] | None = None,
    draw: Callable[[PyTree], Mapping[str, Sample]] = lambda given: given,
) -> Intake:
    """Returns the intake of samples [K, T, B] of a data set, by stream.

    Args:
        mesh: The learner's devices.
        agent: The agent, whose initial carry the samples get.
        shardings: How what is given is laid out, if it is not samples.
        draw: (given) -> samples; by default they are what is given.
    """

    def fresh(given: PyTree) -> Fresh:
        return Fresh(recorded={name: with_initial_carry(sample, agent) for name, sample in draw(given).items()})

    return Intake(
        shardings=shardings or (lambda given: recorded_sharding(mesh, given)),
        fresh=fresh,
        tell=lambda state, fresh: sample_metrics(fresh.recorded),
        hashed=draw,
    )


def recorded_sharding(mesh: Mesh, recorded: Mapping[str, Sample]) -> dict[str, Sample]:
    """Returns shardings of streams of samples [K, T, B] (or of their shapes) that split B over the `data` axis."""
    timed = NamedSharding(mesh, PartitionSpec(None, None, "data"))
    untimed = NamedSharding(mesh, PartitionSpec(None, "data"))
    return {name: sample.map(lambda _: timed, lambda _: untimed) for name, sample in recorded.items()}


def join_environments(mesh: Mesh, rollouts: tuple[Trajectory, ...]) -> Trajectory:
    """Concatenates rollouts along their environments, shard by shard: no data moves between devices."""
    if len(rollouts) == 1:
        return rollouts[0]
    specs = jax.tree.map(lambda sharding: sharding.spec, trajectory_sharding(mesh, rollouts[0]))

    def join(*local: Trajectory) -> Trajectory:
        return jax.tree.map(lambda spec, *xs: jnp.concatenate(xs, axis=len(spec) - 1), specs, *local, is_leaf=_is_spec)

    return jax.shard_map(join, mesh=mesh, in_specs=(specs,) * len(rollouts), out_specs=specs)(*rollouts)


def lag_metrics(lag: jax.Array, max_lag: int) -> Metrics:
    """Computes metrics of a batch's policy lag.

    Args:
        lag: [T, B] int32 updates between the parameters that acted and those that learn.
        max_lag: The largest lag that occurs.

    Returns:
        The mean and largest lag, and as `lag/<n>` the fraction of the batch's steps with each lag from 0 to `max_lag`,
        but none above 16.
    """
    shares = {f"lag/{n}": jnp.mean(lag == n, dtype=jnp.float32) for n in range(min(max_lag, _LONGEST_LAG_COUNTED) + 1)}
    updates = lag.astype(jnp.float32)
    return {"lag/mean": jnp.mean(updates), "lag/max": jnp.max(updates), **shares}


def sample_metrics(recorded: Mapping[str, Sample]) -> Metrics:
    """Computes metrics of an update's samples [K, T, B], by stream.

    Returns:
        The number of transitions of all streams, and for each stream, such as `data`, the mean reward of a transition,
        `data/reward_data`.
    """
    transitions = {name: ~sample.trajectory.first[:, 1:] for name, sample in recorded.items()}
    counts = {name: jnp.sum(real, dtype=jnp.float32) for name, real in transitions.items()}
    earned = {name: jnp.where(real, recorded[name].trajectory.reward, 0.0) for name, real in transitions.items()}
    means = {f"data/reward_{name}": jnp.sum(earned[name]) / jnp.maximum(counts[name], 1) for name in recorded}
    return {"data/transitions": jnp.sum(jnp.stack([*counts.values()])), **means}


def _is_spec(node: object) -> bool:
    return isinstance(node, PartitionSpec)
