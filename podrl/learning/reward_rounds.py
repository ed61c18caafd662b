"""The rounds of a learned reward, between two updates: one compiled program that reads the replay, and asks and refits.

It runs on the learner's devices, on all processes at the same updates, so nothing of the replay is fetched. Everything
that it draws comes from the run's seed and the number of the update: a run that resumes repeats its rounds.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax

from podrl.agents.parts.interface import Agent
from podrl.agents.parts.preferences import make_preferences
from podrl.config.config import Config
from podrl.experience.unroll import Unroller
from podrl.learning.replay import ring_shape
from podrl.mesh import Topology
from podrl.ops.keys import REWARD, purpose_key
from podrl.replay.segments import SegmentReader, make_segment_reader
from podrl.types import Counters, EnvSpec, LearnerState, PyTree


def make_rounds(
    config: Config, agent: Agent, spec: EnvSpec, topology: Topology, state_shape: LearnerState
) -> tuple[Callable[[], Any], Callable[[LearnerState, Counters], LearnerState]]:
    """Makes the rounds of a run.

    Args:
        config: The run's config, whose `rewards` are learned.
        agent: The agent.
        spec: The spec of one environment.
        topology: The devices.
        state_shape: Shapes, dtypes and shardings of the learner's state.

    Returns:
        A function that compiles them, once, and (state, counters) -> state: after an update with a round, that.
    """
    reader, model = _make_reader(config, agent, spec, topology), make_preferences(config.rewards, spec)

    def run_one(own: PyTree, ring: PyTree, update: jax.Array) -> PyTree:
        key = jax.random.fold_in(purpose_key(config.seed, REWARD), update)
        draw_key, round_key = jax.random.split(key)
        segments, found = reader.read(ring, draw_key)
        return model.refit(own, segments, found, update, round_key)

    own, num_rounds = state_shape.extra["reward"], config.rewards.num_rounds
    shardings = jax.tree.map(lambda leaf: leaf.sharding, own)
    jitted: Any = jax.jit(run_one, donate_argnums=0, out_shardings=shardings)

    @functools.cache
    def program() -> Any:
        return jitted.lower(own, state_shape.replay, state_shape.step).compile()

    def between_updates(state: LearnerState, counters: Counters) -> LearnerState:
        before = config.rewards.rounds_before(counters.learner_steps)
        if before is None or (before >= num_rounds and jax.device_get(state.extra["reward"].rounds) >= num_rounds):
            return state  # The device is asked only where a round that found nothing may have left another.
        learned = program()(state.extra["reward"], state.replay, state.step)
        return dataclasses.replace(state, extra={**state.extra, "reward": learned})

    return program, between_updates


def _make_reader(config: Config, agent: Agent, spec: EnvSpec, topology: Topology) -> SegmentReader:
    rewards, actors = config.rewards, config.actors
    unroller = Unroller(agent=agent, spec=spec, unroll_length=actors.unroll_length, num_envs=actors.num_envs)
    return make_segment_reader(
        topology.learner,
        ring_shape(config),
        unroller.state_shape.rollout,
        agent.keep,
        length=rewards.segment_length,
        least=2 * rewards.queries * rewards.candidates,
    )
