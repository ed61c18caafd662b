"""How an update is made of what an agent learns and observes."""

from collections.abc import Callable
import dataclasses

import jax
from jax import numpy as jnp

from podrl.agents.parts.interface import Agent, Batch, Fresh, Sample
from podrl.types import LearnerState, Metrics


def make_update(agent: Agent) -> Callable[[LearnerState, Fresh], tuple[LearnerState, Metrics]]:
    """The update of a run: (state, fresh) -> (state, metrics).

    With rollouts the agent observes them, and learns from them once. With recorded data alone it learns K times, from
    one sample of each stream at a time; metrics are means over these.
    """

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics]:
        learned, metrics, _ = agent.learn(dataclasses.replace(state, replay=()), batch)
        return dataclasses.replace(learned, replay=state.replay, learner_step=state.learner_step + 1), metrics

    def update(state: LearnerState, fresh: Fresh) -> tuple[LearnerState, Metrics]:
        if fresh.rollouts is None:
            state, metrics = jax.lax.scan(
                lambda state, drawn: learn(state, Batch(recorded=drawn)), state, fresh.recorded
            )
            metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
        else:
            state = agent.observe(state, fresh.rollouts)
            weight = jnp.ones(fresh.rollouts.env_index.shape, jnp.float32)
            recorded = jax.tree.map(lambda x: jnp.squeeze(x, axis=0), fresh.recorded)
            state, metrics = learn(
                state, Batch(rollouts=Sample(trajectory=fresh.rollouts, weight=weight), recorded=recorded)
            )
        return dataclasses.replace(state, step=state.step + 1), metrics

    return update
