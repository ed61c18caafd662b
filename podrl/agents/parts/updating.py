"""How an update is made of what an agent learns and observes, and of what a replay keeps."""

from collections.abc import Callable
import dataclasses

import jax
from jax import numpy as jnp

from podrl.agents.parts.interface import Agent, Batch, Fresh, Sample
from podrl.replay.interface import Draws, Replay
from podrl.types import LearnerState, Metrics, PyTree, Trajectory


def make_update(
    agent: Agent, replay: Replay | None = None, *, rolls_draws: bool = True
) -> Callable[[LearnerState, Fresh], tuple[LearnerState, Metrics]]:
    """The update of a run: (state, fresh) -> (state, metrics).

    With rollouts the agent observes them, and learns from them once. With replay they are inserted first, as they came;
    the agent then learns from each draw in place of them. With recorded data alone it learns K times, from one sample
    of each stream at a time. Metrics are means over what an update learned from.

    Args:
        agent: The agent.
        replay: What it learns from in place of fresh rollouts; None to learn from those.
        rolls_draws: Whether the draws of an update are a loop of the compiled program, instead of a copy of each.
    """

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics]:
        learned, metrics, _ = agent.learn(dataclasses.replace(state, replay=()), batch)
        return dataclasses.replace(learned, replay=state.replay, learner_step=state.learner_step + 1), metrics

    def learn_recorded(state: LearnerState, fresh: Fresh) -> tuple[LearnerState, Metrics]:
        state, metrics = jax.lax.scan(lambda state, drawn: learn(state, Batch(recorded=drawn)), state, fresh.recorded)
        return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)

    def learn_fresh(state: LearnerState, rollouts: Trajectory, fresh: Fresh) -> tuple[LearnerState, Metrics]:
        recorded = jax.tree.map(lambda x: jnp.squeeze(x, axis=0), fresh.recorded)
        return learn(agent.observe(state, rollouts), Batch(rollouts=_evenly(rollouts), recorded=recorded))

    def learn_replayed(state: LearnerState, rollouts: Trajectory, replay: Replay) -> tuple[LearnerState, Metrics]:
        fit = is_finite(rollouts)
        ring, draws = replay.draw(replay.insert(state.replay, rollouts, fit))

        def learn_from(state: LearnerState, place: PyTree) -> tuple[LearnerState, Metrics]:
            return learn(state, Batch(rollouts=_evenly(replay.gather(ring, place))))

        bare = agent.observe(dataclasses.replace(state, replay=()), rollouts)  # The loop must not carry the ring.
        bare, metrics = _learn_in_turn(learn_from, bare, draws, rolled=rolls_draws)
        # The update that brings the batch fails, as without replay, although nothing may have been learned from it.
        total = {"loss/total": jnp.where(fit, metrics["loss/total"], jnp.nan)}
        return dataclasses.replace(bare, replay=ring), {**metrics, **total, **_replay_metrics(draws, replay.size(ring))}

    def update(state: LearnerState, fresh: Fresh) -> tuple[LearnerState, Metrics]:
        if fresh.rollouts is None:
            state, metrics = learn_recorded(state, fresh)
        elif replay is None:
            state, metrics = learn_fresh(state, fresh.rollouts, fresh)
        else:
            if fresh.recorded:
                raise ValueError("Found recorded data beside replay; an update learns from one of the two.")
            state, metrics = learn_replayed(state, fresh.rollouts, replay)
        return dataclasses.replace(state, step=state.step + 1), metrics

    return update


def make_init_with_replay(agent: Agent, replay: Replay | None) -> Callable[[jax.Array], LearnerState]:
    """Returns (key) -> the agent's first state, with an empty ring if there is a replay."""

    def init(key: jax.Array) -> LearnerState:
        state = agent.init(key)
        return state if replay is None else dataclasses.replace(state, replay=replay.init(state.key))

    return init


def is_finite(rollouts: Trajectory) -> jax.Array:
    """Returns whether all that environments gave, observations, rewards and discounts, is finite, [] bool."""
    given = jax.tree.leaves((rollouts.observation, rollouts.reward, rollouts.opening_reward, rollouts.discount))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in given if jnp.issubdtype(x.dtype, jnp.inexact)]))


def _evenly(rollouts: Trajectory) -> Sample:
    return Sample(trajectory=rollouts, weight=jnp.ones(rollouts.env_index.shape, jnp.float32))


def _learn_in_turn(
    learn: Callable[[LearnerState, PyTree], tuple[LearnerState, Metrics]],
    state: LearnerState,
    draws: Draws,
    *,
    rolled: bool,
) -> tuple[LearnerState, Metrics]:
    """Learns from one draw after the other, leaving out those that are not used; metrics are means over the others."""
    shapes = jax.eval_shape(lambda: learn(state, jax.tree.map(lambda x: x[0], draws.place))[1])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def take(state: LearnerState, draw: Draws) -> tuple[LearnerState, Metrics]:
        return jax.lax.cond(draw.used, lambda: learn(state, draw.place), lambda: (state, zeros))

    state, metrics = jax.lax.scan(take, state, draws, unroll=not rolled or 1)
    count = jnp.sum(draws.used)
    return state, jax.tree.map(lambda x: jnp.sum(x, axis=0) / count, metrics)


def _replay_metrics(draws: Draws, size: jax.Array) -> Metrics:
    """Computes a replay's metrics: its size and the age of what was drawn, in updates, and how often it was learned."""
    ratio = jnp.sum(draws.used, dtype=jnp.float32)
    age = jnp.sum(jnp.where(draws.used, draws.age, 0), dtype=jnp.float32) / jnp.maximum(ratio, 1)
    return {"replay/size": size.astype(jnp.float32), "replay/age": age, "replay/ratio": ratio}
