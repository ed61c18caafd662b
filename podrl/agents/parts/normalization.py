"""Normalisation of observations and rewards by running statistics, for any agent.

`normalize_observations` and `normalize_rewards` take an agent and return one whose learner state holds running
statistics beside the agent's own state (`LearnerState.extra`), so checkpoints contain them, and actors get them with
the parameters. The statistics are over the whole batch, whatever the number of devices.

Observations are shifted by their mean and divided by their standard deviation. An update learns with the statistics of
the updates before it (`acting`), which the actors used too, unless a lag gave them older ones. The rows of its batch
change the statistics of the next update. Rewards are divided by the standard deviation of the discounted sum of an
episode's rewards up to each step, which has the scale of the values. The carry keeps these sums from unroll to unroll.

Source: Engstrom et al. 2020, arXiv:2005.12729, sections 3 and A.2 (what PPO's implementations do).
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from podrl.agents.parts.interface import Agent, Batch, Sample
from podrl.config.config import check
from podrl.ops.statistics import Statistics, initial_statistics, update_statistics
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Timestep, Trajectory

# Normalised observations and rewards are clipped to [-MAX_NORMALIZED, MAX_NORMALIZED].
MAX_NORMALIZED = 10.0

_EPSILON = 1e-8


def normalize(statistics: Statistics, rows: PyTree) -> PyTree:
    """Subtracts the mean from rows [..., *], divides by the standard deviation, and clips.

    A value that is not finite becomes NaN and is not clipped. The update that learns from it is then detected as not
    finite; otherwise the value would stay in the statistics permanently.
    """

    def scale(x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
        scaled = (x - mean) * jax.lax.rsqrt(variance + _EPSILON)
        return jnp.where(jnp.isfinite(x), jnp.clip(scaled, -MAX_NORMALIZED, MAX_NORMALIZED), jnp.nan)

    return jax.tree.map(scale, rows, statistics.mean, statistics.variance)


def normalize_observations(agent: Agent, spec: EnvSpec) -> Agent:
    """Returns the agent with observations normalised to a mean of about zero and a standard deviation of about one.

    A row counts if an action was chosen on it: each observation once, except those that only end an episode. The
    network's frame stack holds frames as they were normalised on arrival. Of an observation of several parts those
    of floats are normalised; encoders scale images of uint8 themselves.

    Args:
        agent: The algorithm.
        spec: The spec of its environment.

    Raises:
        ConfigError: If observations are not floats.
    """
    floats = _floats(spec.observation)
    found = sorted({str(x.dtype) for x in jax.tree.leaves(floats) if not jnp.issubdtype(x.dtype, jnp.floating)})
    check(
        not found and bool(jax.tree.leaves(floats)),
        f"network.normalize_observations=True needs observations of floats; env.id={spec.id!r} gives "
        f"{', '.join(found) or 'uint8'}, which encoders scale themselves. Use network.normalize_observations=False.",
    )

    def init(key: jax.Array) -> LearnerState:
        state = agent.init(key)
        observations, acting = initial_statistics(floats), initial_statistics(floats)
        extra = {"agent": state.extra, "observations": observations, "acting": acting}
        return dataclasses.replace(state, extra=extra)

    def actor_params(state: LearnerState) -> PyTree:
        return {"agent": agent.actor_params(_unwrap(state)), "observations": state.extra["observations"]}

    def normalized(params: PyTree, timestep: Timestep) -> Timestep:
        return dataclasses.replace(timestep, observation=_normalized(params["observations"], timestep.observation))

    def act(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree, PyTree]:
        return agent.act(params["agent"], normalized(params, timestep), carry, keys)

    def act_greedy(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree]:
        return agent.act_greedy(params["agent"], normalized(params, timestep), carry, keys)

    def seen(statistics: Statistics, rows: Any) -> Any:
        return dataclasses.replace(rows, observation=_normalized(statistics, rows.observation))

    def seen_sample(statistics: Statistics, sample: Sample) -> Sample:
        before = sample.before if isinstance(sample.before, tuple) else seen(statistics, sample.before)
        return dataclasses.replace(sample, trajectory=seen(statistics, sample.trajectory), before=before)

    def observe(state: LearnerState, rollouts: Trajectory) -> LearnerState:
        acting = state.extra["observations"]
        observed = agent.observe(_unwrap(state), seen(acting, rollouts))
        acted = jax.tree.map(lambda x: x[:-1], _floats(rollouts.observation))
        newest = update_statistics(acting, acted, rollouts.is_transition)
        extra = {"agent": observed.extra, "observations": newest, "acting": acting}
        return dataclasses.replace(observed, extra=extra)

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array | None]:
        learned = map_samples(batch, lambda sample: seen_sample(state.extra["acting"], sample))
        new_state, metrics, priority = agent.learn(_unwrap(state), learned)
        return _wrap(new_state, state), metrics, priority

    learning = {"policies": _policies_of(agent, "observations", seen), "observe": observe, "learn": learn}
    return dataclasses.replace(agent, init=init, actor_params=actor_params, act=act, act_greedy=act_greedy, **learning)


def _floats(observation: PyTree) -> PyTree:
    """Returns what is normalised of an observation: all of it, or its parts of floats."""
    if not isinstance(observation, Mapping):
        return observation
    return {name: part for name, part in observation.items() if jnp.issubdtype(part.dtype, jnp.floating)}


def _normalized(statistics: Statistics, observation: PyTree) -> PyTree:
    floats = normalize(statistics, _floats(observation))
    return {**observation, **floats} if isinstance(observation, Mapping) else floats


def normalize_rewards(agent: Agent, discount: float) -> Agent:
    """Returns the agent with rewards divided by the standard deviation of discounted returns so far.

    Their mean is not subtracted: a reward of zero stays zero. An update adds its batch to the statistics first, then
    learns. A network that sees its last reward sees the normalised one; while it acts, that is normalised by the
    statistics of the updates before.

    Args:
        agent: The algorithm.
        discount: The discount of past rewards per agent decision, equal to the agent's own.
    """

    def init(key: jax.Array) -> LearnerState:
        state = agent.init(key)
        extra = {"agent": state.extra, "returns": initial_statistics(jax.ShapeDtypeStruct((), jnp.float32))}
        return dataclasses.replace(state, extra=extra)

    def initial_carry(env_index: jax.Array) -> PyTree:
        return {"agent": agent.initial_carry(env_index), "return": jnp.zeros(env_index.shape[0])}

    def actor_params(state: LearnerState) -> PyTree:
        return {"agent": agent.actor_params(_unwrap(state)), "returns": state.extra["returns"]}

    def act(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree, PyTree]:
        timestep, so_far = _before(params, timestep, carry, discount)
        action, behaviour, inner = agent.act(params["agent"], timestep, carry["agent"], keys)
        return action, behaviour, {"agent": inner, "return": so_far}

    def act_greedy(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree]:
        timestep, so_far = _before(params, timestep, carry, discount)
        action, inner = agent.act_greedy(params["agent"], timestep, carry["agent"], keys)
        return action, {"agent": inner, "return": so_far}

    def observe(state: LearnerState, rollouts: Trajectory) -> LearnerState:
        returns = discounted_past(rollouts.carry["return"], rollouts, discount)
        newest = update_statistics(state.extra["returns"], returns, rollouts.is_transition)
        observed = agent.observe(_unwrap(state), _paid(newest, rollouts))
        return dataclasses.replace(observed, extra={"agent": observed.extra, "returns": newest})

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array | None]:
        statistics = state.extra["returns"]
        learned = map_samples(
            batch, lambda sample: dataclasses.replace(sample, trajectory=_paid(statistics, sample.trajectory))
        )
        new_state, metrics, priority = agent.learn(_unwrap(state), learned)
        metrics = {**metrics, "value/return_deviation": jnp.sqrt(statistics.variance)}
        return _wrap(new_state, state), metrics, priority

    return dataclasses.replace(
        agent,
        init=init,
        initial_carry=initial_carry,
        actor_params=actor_params,
        act=act,
        act_greedy=act_greedy,
        observe=observe,
        learn=learn,
        policies=_policies_of(agent, "returns", _paid),
        keep=lambda carry: {"agent": agent.keep(carry["agent"])},
    )


def discounted_past(so_far: jax.Array, trajectory: Trajectory, discount: float) -> jax.Array:
    """Computes the discounted sum of an episode's rewards up to each row: G[t] = reward[t] + discount * G[t - 1].

    Args:
        so_far: [B] the sum before row 0's timestep, whose reward is `trajectory.opening_reward`.
        trajectory: [T, B] trajectories.
        discount: The discount, in [0, 1].

    Returns:
        [T, B] sums, each with the reward of that row's action.
    """

    def step(past: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        past = _add_reward(past, *row, discount)
        return past, past

    opening = _add_reward(so_far, trajectory.first[0], trajectory.opening_reward, discount)
    return jax.lax.scan(step, opening, (trajectory.first[1:], trajectory.reward))[1]


def _add_reward(past: jax.Array, first: jax.Array, reward: jax.Array, discount: float) -> jax.Array:
    """Adds a finite reward to the sum. Any other would stay in it; the update itself detects those."""
    return jnp.where(first, 0.0, discount * past + jnp.where(jnp.isfinite(reward), reward, 0.0))


def _normalize_reward(statistics: Statistics, reward: jax.Array) -> jax.Array:
    scaled = reward * jax.lax.rsqrt(statistics.variance + _EPSILON)
    return jnp.clip(scaled, -MAX_NORMALIZED, MAX_NORMALIZED)


def _before(params: PyTree, timestep: Timestep, carry: PyTree, discount: float) -> tuple[Timestep, jax.Array]:
    """Returns the timestep that the agent sees, and the discounted sum of rewards up to it."""
    so_far = _add_reward(carry["return"], timestep.first, timestep.reward, discount)
    return dataclasses.replace(timestep, reward=_normalize_reward(params["returns"], timestep.reward)), so_far


def _paid(statistics: Statistics, trajectory: Trajectory) -> Trajectory:
    """Returns the trajectory that the agent learns from: with normalised rewards, and the agent's own carry."""
    return dataclasses.replace(
        trajectory,
        reward=_normalize_reward(statistics, trajectory.reward),
        opening_reward=_normalize_reward(statistics, trajectory.opening_reward),
        carry=trajectory.carry["agent"] if isinstance(trajectory.carry, Mapping) else trajectory.carry,
    )


def map_samples(batch: Batch, function: Callable[[Sample], Sample]) -> Batch:
    """Applies `function` to every sample of a batch."""
    return jax.tree.map(function, batch, is_leaf=lambda node: isinstance(node, Sample))


def _policies_of(agent: Agent, name: str, see: Callable[[Statistics, Any], Any]) -> Any:
    """Returns `Agent.policies` of an agent that sees a trajectory by the statistics `name`; None if it has none."""
    own = agent.policies
    return own and (lambda params, trajectory: own(params["agent"], see(params[name], trajectory)))


def _wrap(state: LearnerState, before: LearnerState) -> LearnerState:
    """Returns the agent's own state after learning, together with the statistics from `before`."""
    return dataclasses.replace(state, extra={**before.extra, "agent": state.extra})


def _unwrap(state: LearnerState) -> LearnerState:
    """Returns the state without the statistics, as the agent itself uses it."""
    return dataclasses.replace(state, extra=state.extra["agent"])
