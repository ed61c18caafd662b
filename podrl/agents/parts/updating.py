"""How an update is made of what an agent learns and observes, and of what a replay keeps."""

from collections.abc import Callable
import dataclasses

import jax
from jax import numpy as jnp

from podrl.agents.parts.interface import Agent, Batch, Fresh
from podrl.replay.batches import evenly_weighted
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
        rolls_draws: Whether the draws of an update are a loop of the compiled program, instead of a copy of each; of a
            replay or of recorded data.
    """

    def learn_by_priority(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array | None]:
        learned, metrics, priority = agent.learn(dataclasses.replace(state, replay=()), batch)
        return dataclasses.replace(learned, replay=state.replay, learner_step=state.learner_step + 1), metrics, priority

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics]:
        state, metrics, _ = learn_by_priority(state, batch)
        return state, metrics

    def learn_recorded(state: LearnerState, fresh: Fresh) -> tuple[LearnerState, Metrics]:
        state, metrics = jax.lax.scan(
            lambda state, drawn: learn(state, Batch(recorded=drawn)), state, fresh.recorded, unroll=not rolls_draws or 1
        )
        return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)

    def learn_fresh(state: LearnerState, rollouts: Trajectory, fresh: Fresh) -> tuple[LearnerState, Metrics]:
        recorded = jax.tree.map(lambda x: jnp.squeeze(x, axis=0), fresh.recorded)
        return learn(agent.observe(state, rollouts), Batch(rollouts=evenly_weighted(rollouts), recorded=recorded))

    def learn_replayed(state: LearnerState, rollouts: Trajectory, replay: Replay) -> tuple[LearnerState, Metrics]:
        fit = is_finite(rollouts)
        ring, draws = replay.draw(replay.insert(state.replay, rollouts, fit))

        def learn_from(state: LearnerState, place: PyTree) -> tuple[LearnerState, Metrics, jax.Array | None]:
            return learn_by_priority(state, Batch(rollouts=replay.gather(ring, place)))

        bare = agent.observe(dataclasses.replace(state, replay=()), rollouts)  # The loop must not carry the ring.
        bare, metrics, priority = _learn_in_turn(learn_from, bare, draws, rolled=rolls_draws)
        # The update that brings the batch fails, as without replay, although nothing may have been learned from it.
        total = {"loss/total": jnp.where(fit, metrics["loss/total"], jnp.nan)}
        told = {**_replay_metrics(draws, replay, ring), **_priority_metrics(draws, priority)}
        written = ring if priority is None else replay.write(ring, draws, priority)
        return dataclasses.replace(bare, replay=written), {**metrics, **total, **told}

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


def _learn_in_turn(
    learn: Callable[[LearnerState, PyTree], tuple[LearnerState, Metrics, jax.Array | None]],
    state: LearnerState,
    draws: Draws,
    *,
    rolled: bool,
) -> tuple[LearnerState, Metrics, jax.Array | None]:
    """Learns from one draw after the other, leaving out those that are not used.

    Returns:
        The state; means of the metrics over the draws that were used, zeros if none was; and their priorities [K, N],
        zeros of the others, or None.
    """
    shapes = jax.eval_shape(lambda: learn(state, jax.tree.map(lambda x: x[0], draws.place))[1:])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def take(state: LearnerState, draw: Draws) -> tuple[LearnerState, tuple[Metrics, jax.Array | None]]:
        def learn_from_it() -> tuple[LearnerState, tuple[Metrics, jax.Array | None]]:
            learned, metrics, priority = learn(state, draw.place)
            return learned, (metrics, priority)

        return jax.lax.cond(draw.used, learn_from_it, lambda: (state, zeros))

    state, (metrics, priority) = jax.lax.scan(take, state, draws, unroll=not rolled or 1)
    count = jnp.maximum(jnp.sum(draws.used), 1)
    return state, jax.tree.map(lambda x: jnp.sum(x, axis=0) / count, metrics), priority


def _replay_metrics(draws: Draws, replay: Replay, ring: PyTree) -> Metrics:
    """Computes a replay's metrics: its size and the age of what was drawn, in updates, and how often it was learned."""
    drawn = jnp.sum(draws.used, dtype=jnp.float32)
    age = jnp.sum(jnp.where(draws.used, draws.age, 0), dtype=jnp.float32) / jnp.maximum(drawn, 1)
    size = replay.size(ring).astype(jnp.float32)
    return {"replay/size": size, "replay/age": age, "replay/ratio": drawn * replay.share}


def _priority_metrics(draws: Draws, priority: jax.Array | None) -> Metrics:
    """Computes the spread of the priorities that an update gave to what it learned from; zeros if that was nothing."""
    if priority is None:
        return {}
    given = jnp.where(draws.used[:, None] & jnp.isfinite(priority), priority, 0.0)
    drawn = jnp.maximum(jnp.sum(draws.used, dtype=jnp.float32) * priority.shape[1], 1)
    mean, mean_square = jnp.sum(given) / drawn, jnp.sum(given**2) / drawn
    return {
        "replay/priority_mean": mean,
        "replay/priority_deviation": jnp.sqrt(jnp.maximum(mean_square - mean**2, 0.0)),
        "replay/priority_max": jnp.max(given),
    }
