"""The smoke form of a run: the same, so small that it ends in seconds."""

import dataclasses

from podrl.config.config import Config

_UPDATES, _UPDATES_BEFORE_LEARNING = 6, 2
_UNROLLS = 16  # Of each environment in a ring of sequences.
_LEARNER_STEPS = 4  # Learner steps in an update from a data set.


def shrink(config: Config) -> Config:
    """Returns the same run made so small that it ends in seconds, for trying a config out and for tests."""
    if config.is_offline:
        return _offline(config)
    shape = config.agent.update_shape
    row_parts = shape.grid[1]
    few = max(5 // row_parts, 1) * row_parts
    actors = dataclasses.replace(config.actors, unroll_length=min(config.actors.unroll_length, few))
    agent = dataclasses.replace(config.agent, epochs=1) if shape.epochs > 1 else config.agent
    small = dataclasses.replace(
        config,
        agent=agent,
        total_env_steps=min(config.total_env_steps, _UPDATES * actors.num_envs * actors.unroll_length),
        actors=actors,
        evaluate=dataclasses.replace(config.evaluate, episodes=min(config.evaluate.episodes, 4)),
        log=dataclasses.replace(config.log, every_updates=1),
    )
    return small if shape.sequences is None else _with_short_sequences(small)


def _offline(config: Config) -> Config:
    """Returns a run from a data set with few updates of few learner steps."""
    return dataclasses.replace(
        config,
        total_updates=min(config.total_updates, _UPDATES),
        data=dataclasses.replace(config.data, learner_steps=min(config.data.learner_steps, _LEARNER_STEPS)),
        evaluate=dataclasses.replace(config.evaluate, episodes=min(config.evaluate.episodes, 4)),
        log=dataclasses.replace(config.log, every_updates=1),
    )


def _with_short_sequences(config: Config) -> Config:
    """Returns the run with sequences of few steps, a small ring, and one learner step in an update."""
    sequences, length = config.agent.update_shape.sequences, config.actors.unroll_length
    agent, learned, inserted = config.agent, sequences.length, config.env_steps_per_update
    if not sequences.from_every_row:
        agent = dataclasses.replace(agent, burn_in=length if sequences.burn_in else 0, length=length)
        learned = length
    capacity = min(config.replay.capacity, _UNROLLS * inserted)
    replay = dataclasses.replace(
        config.replay,
        capacity=capacity,
        ratio=config.replay.batch * learned / inserted,
        min_steps=min(config.replay.min_steps, _UPDATES_BEFORE_LEARNING * inserted, capacity),
    )
    rewards = dataclasses.replace(
        config.rewards,
        every_updates=3,
        first_update=0,
        queries=min(config.rewards.queries, 4),
        max_queries=min(config.rewards.max_queries, 8),
        segment_length=min(config.rewards.segment_length, length),
        refit_steps=min(config.rewards.refit_steps, 4),
    )
    return dataclasses.replace(config, agent=agent, replay=replay, rewards=rewards)
