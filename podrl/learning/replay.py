"""The replay of a run: made from its config, told in bytes, and put in the order of another number of devices."""

import dataclasses

import jax
import numpy as np

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config
from podrl.config.units import describe_bytes
from podrl.experience.layout import Layout
from podrl.experience.unroll import Unroller
from podrl.learning.update_cost import shard_bytes
from podrl.replay.batches import BatchRing, make_batch_replay, reorder_environments
from podrl.replay.interface import Replay
from podrl.types import EnvSpec, LearnerState, PyTree


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
    """Describes the replay in one line, with its bytes on each device and in each checkpoint; empty without one."""
    if not jax.tree.leaves(state_shape.replay):
        return ""
    batches, uses = config.replay.batches, config.replay.uses
    held = "1 batch" if batches == 1 else f"{batches} batches"
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state_shape.replay))
    return (
        f"{held}, each learned from {uses} times: {describe_bytes(replay_bytes(state_shape))} on each learner device, "
        f"{describe_bytes(whole)} in each checkpoint"
    )


def with_environments_of(state: LearnerState, layout: Layout, num_shares: int) -> LearnerState:
    """Returns a restored state whose replay has its environments where this topology's batches have them.

    The order along B follows from how many devices join the pools (`podrl.experience.layout.Layout.joined_indices`),
    and a checkpoint may be of another number. Moves data between devices only where the order differs.

    Args:
        state: The state as restored; consumed if its replay moves.
        layout: How this topology deals out the environments.
        num_shares: Size of its mesh axis `data`.
    """
    ring: PyTree = state.replay
    if not isinstance(ring, BatchRing):
        return state
    wanted = layout.joined_indices(num_shares)
    whole = ring.counts.left.sharding
    is_same = jax.jit(lambda found: (found == wanted).all(), out_shardings=whole)(ring.batches.env_index)
    if bool(np.asarray(is_same)) or not int(np.asarray(ring.counts.inserted)):
        return state
    shardings = jax.tree.map(lambda x: x.sharding, ring)
    reorder = jax.jit(lambda ring: reorder_environments(ring, wanted), out_shardings=shardings, donate_argnums=0)
    return dataclasses.replace(state, replay=reorder(ring))
