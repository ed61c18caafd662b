"""An agent whose rewards are learned beside it: every sample has the reward of the newest model.

The model's state, with its parameters, its optimizer and its labels, lies in the learner's state
(`LearnerState.extra["reward"]`), so checkpoints contain it and actors never get it. Replay keeps what the environment
gave. Rewards are computed where an agent learns from a sample, so a change of the model relabels all of the replay. The
agent never sees the environment's reward.

What changes the model is a *round*: it comes between two updates, at fixed updates, on all processes alike
(`podrl.learning.reward_rounds`), and reads segments of the replay.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax import numpy as jnp

from podrl.agents.parts.interface import Agent, Batch
from podrl.agents.parts.normalization import map_samples
from podrl.ops.losses import masked_mean
from podrl.types import LearnerState, Metrics, PyTree, Sample, Timestep, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModel:
    """A learned reward as pure functions of a state of its own, a pytree.

    Attributes:
        init: (key) -> the model's state.
        rewards: (state, trajectory [T, B]) -> [T, B], the rewards of its rows; the trajectory's own are not read.
        tell: (state) -> metrics, scalars by name.
        refit: (state, segments [L, N], found [N] bool, update [] int32, key) -> state: one round. Segments are raw,
            with the environment's rewards; those that are not `found` are not to be used.
    """

    init: Callable[[jax.Array], PyTree]
    rewards: Callable[[PyTree, Trajectory], jax.Array]
    tell: Callable[[PyTree], Metrics]
    refit: Callable[[PyTree, Trajectory, jax.Array, jax.Array, jax.Array], PyTree]


_NO_AGENT = 2**32 - 3  # Folded into the first key for the model's: no agent splits its own so often.


def learn_rewards(agent: Agent, model: RewardModel) -> Agent:
    """Returns the agent that learns from a model's rewards in place of the environment's.

    It wraps an agent as it acts on raw observations: put it around what normalises them.

    Args:
        agent: The algorithm.
        model: The rewards.
    """

    def init(key: jax.Array) -> LearnerState:
        state = agent.init(key)
        extra = {"agent": state.extra, "reward": model.init(jax.random.fold_in(key, _NO_AGENT))}
        return dataclasses.replace(state, extra=extra)

    def actor_params(state: LearnerState) -> PyTree:
        return agent.actor_params(_inner(state))

    def observe(state: LearnerState, rollouts: Trajectory) -> LearnerState:
        observed = agent.observe(_inner(state), _with_rewards(model, state, rollouts))
        return _outer(observed, state)

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array | None]:
        learned = map_samples(batch, lambda sample: _rewarded(model, state, sample))
        new_state, metrics, priority = agent.learn(_inner(state), learned)
        told = {**model.tell(state.extra["reward"]), **_spread(learned)}
        return _outer(new_state, state), {**metrics, **told}, priority

    return dataclasses.replace(
        agent,
        init=init,
        actor_params=actor_params,
        act=lambda params, timestep, carry, keys: agent.act(params, _unpaid(timestep), carry, keys),
        act_greedy=lambda params, timestep, carry, keys: agent.act_greedy(params, _unpaid(timestep), carry, keys),
        observe=observe,
        learn=learn,
    )


def _unpaid(timestep: Timestep) -> Timestep:
    return dataclasses.replace(timestep, reward=jnp.zeros_like(timestep.reward))


def _with_rewards(model: RewardModel, state: LearnerState, trajectory: Trajectory) -> Trajectory:
    """Returns the trajectory with the model's rewards on real transitions, and none that the environment gave."""
    learned = jax.lax.stop_gradient(model.rewards(state.extra["reward"], trajectory))
    return dataclasses.replace(
        trajectory,
        reward=jnp.where(trajectory.is_transition, learned, 0.0),
        opening_reward=jnp.zeros_like(trajectory.opening_reward),
    )


def _rewarded(model: RewardModel, state: LearnerState, sample: Sample) -> Sample:
    before = sample.before
    if not isinstance(before, tuple):
        before = dataclasses.replace(before, reward=jnp.zeros_like(before.reward))
    return dataclasses.replace(sample, trajectory=_with_rewards(model, state, sample.trajectory), before=before)


def _spread(batch: Batch) -> Metrics:
    """Computes the mean and the deviation of the rewards that an agent learns from."""
    samples = [*([] if batch.rollouts is None else [batch.rollouts]), *batch.recorded.values()]
    trajectory = samples[0].trajectory
    mean = masked_mean(trajectory.reward, trajectory.is_transition)
    mean_square = masked_mean(jnp.square(trajectory.reward), trajectory.is_transition)
    return {"reward/mean": mean, "reward/deviation": jnp.sqrt(jnp.maximum(mean_square - jnp.square(mean), 0.0))}


def _inner(state: LearnerState) -> LearnerState:
    """Returns the state without the model's, as the agent itself uses it."""
    return dataclasses.replace(state, extra=state.extra["agent"])


def _outer(state: LearnerState, before: LearnerState) -> LearnerState:
    """Returns the agent's own state with the model's from `before`."""
    return dataclasses.replace(state, extra={**before.extra, "agent": state.extra})
