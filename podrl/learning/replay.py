"""The replay of a run: made from its config, and told in bytes."""

import jax

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config
from podrl.config.units import describe_bytes
from podrl.experience.unroll import Unroller
from podrl.learning.update_cost import shard_bytes
from podrl.replay.batches import make_batch_replay
from podrl.replay.interface import Replay
from podrl.types import EnvSpec, LearnerState


def make_replay(config: Config, agent: Agent, spec: EnvSpec) -> Replay | None:
    """Returns the replay that a config asks for; None if updates learn from their fresh batch alone, once."""
    if not config.replay.learns_again:
        return None
    length, num_envs = config.actors.unroll_length, config.actors.num_envs
    unroller = Unroller(agent=agent, spec=spec, unroll_length=length, num_envs=num_envs)
    return make_batch_replay(config.replay, unroller.state_shape.rollout)


def replay_bytes(state_shape: LearnerState) -> int:
    """Returns the bytes of replay on each learner device."""
    return sum(map(shard_bytes, jax.tree.leaves(state_shape.replay)))


def describe_replay(config: Config, state_shape: LearnerState) -> str:
    """Describes the replay in one line, with its bytes on each device and in a checkpoint; empty without one."""
    if not jax.tree.leaves(state_shape.replay):
        return ""
    batches, uses = config.replay.batches, config.replay.uses
    held = "1 batch" if batches == 1 else f"{batches} batches"
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state_shape.replay))
    saved = f"{describe_bytes(whole)} in the newest checkpoint" if config.checkpoint.replay else "not in checkpoints"
    on_device = describe_bytes(replay_bytes(state_shape))
    return f"{held}, each learned from {uses} times: {on_device} on each learner device, {saved}"
