"""The replay of a run: made from its config, and told in bytes."""

import dataclasses

import jax
from jax.sharding import Mesh

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config, check
from podrl.config.units import describe_bytes
from podrl.experience.layout import Layout
from podrl.experience.schedule import warm_up_updates
from podrl.experience.unroll import Unroller
from podrl.learning.update_cost import shard_bytes
from podrl.mesh import Topology
from podrl.replay.batches import make_batch_replay
from podrl.replay.groups import check_groups, check_sequence, choose_groups, ring_unrolls
from podrl.replay.interface import Replay
from podrl.replay.sequences import DrawRule, replay_sequences
from podrl.replay.shape import RingShape
from podrl.types import EnvSpec, LearnerState


def make_replay(config: Config, agent: Agent, spec: EnvSpec, mesh: Mesh) -> Replay | None:
    """Returns the replay that a config asks for; None if updates learn from their fresh batch alone, once.

    Args:
        config: The run's config.
        agent: The agent.
        spec: The spec of one environment.
        mesh: The learner's devices.
    """
    length, num_envs = config.actors.unroll_length, config.actors.num_envs
    sequences = config.agent.update_shape.sequences
    if config.is_offline or (sequences is None and not config.replay.learns_again):
        return None
    rollout = Unroller(agent=agent, spec=spec, unroll_length=length, num_envs=num_envs).state_shape.rollout
    if sequences is None:
        return make_batch_replay(config.replay, rollout)
    rule = DrawRule(
        batches=config.learner_steps_per_update,
        min_steps=config.replay.min_steps,
        importance_exponent=config.replay.importance_exponent,
        share=config.replay.batch * sequences.length / config.env_steps_per_update,
    )
    return replay_sequences(mesh, ring_shape(config), rule, rollout, agent.keep)


def ring_shape(config: Config) -> RingShape:
    """Returns the numbers of the ring of an agent that learns from sequences.

    Raises:
        ConfigError: If they do not fit each other.
    """
    replay, sequences = config.replay, config.agent.update_shape.sequences
    length, num_envs = config.actors.unroll_length, config.actors.num_envs
    return RingShape(
        num_envs=num_envs,
        unroll_length=length,
        unrolls=ring_unrolls(replay.capacity, num_envs=num_envs, unroll_length=length),
        length=sequences.rows,
        stride=1 if sequences.from_every_row else length,
        before=max(config.network.frame_stack - 1, 1),
        groups=num_groups(config),
        batch=replay.batch,
        priority_exponent=replay.priority_exponent or None,
    )


def num_groups(config: Config) -> int:
    """Returns the groups of environments that give equal shares of a batch of sequences."""
    num_envs, batch = config.actors.num_envs, config.replay.batch
    fewest = config.agent.update_shape.sequences.fewest_in_group
    return config.replay.groups or choose_groups(num_envs=num_envs, batch=batch, fewest=fewest)


def check_sequence_replay(config: Config, layout: Layout, topology: Topology) -> None:
    """Checks a replay of sequences before anything is made of it: its lengths, its ratio, its groups and its ring.

    Args:
        config: The run's config.
        layout: How the environments are dealt out.
        topology: The devices.

    Raises:
        ConfigError: If something does not fit. The message names numbers that do.
    """
    sequences = config.agent.update_shape.sequences
    if sequences is None or config.is_offline:
        return
    if not sequences.from_every_row:
        length = config.actors.unroll_length
        check_sequence(burn_in=sequences.burn_in, length=sequences.length, unroll_length=length)
    is_fused = config.topology.placement == "anakin"
    check_groups(
        num_groups(config),
        num_envs=config.actors.num_envs,
        batch=config.replay.batch,
        pools=1 if is_fused else layout.num_processes * layout.num_actors * layout.pools_per_actor,
        learners=(topology.learner if is_fused else topology.local_learner).shape["data"],
    )
    ring_shape(config)
    config.replay.learner_steps(config.env_steps_per_update, sequences.length)
    if config.rewards.is_learned:
        _check_segments(config)


def _check_segments(config: Config) -> None:
    """Raises `ConfigError` unless the ring has segments to ask about at the first round of a learned reward."""
    rewards = config.rewards
    shape = dataclasses.replace(ring_shape(config), length=rewards.segment_length, stride=1)
    needed = shape.unrolls_until_live()
    check(
        rewards.first_round >= needed,
        f"The first round of questions comes after update {rewards.first_round} (rewards.every_updates, "
        f"rewards.first_update), and until update {needed} no environment has made rewards.segment_length="
        f"{rewards.segment_length} steps. Use rewards.first_update={needed} or more.",
    )


def updates_before_learning(config: Config) -> int:
    """Returns the first updates of a run whose replay is still too empty for them to learn as much as later ones do."""
    if config.is_offline:
        return 0
    if config.agent.update_shape.sequences is not None:
        return ring_shape(config).unrolls_until_drawn(config.replay.min_steps) - 1
    return config.replay.batches - 1 if config.replay.learns_again else 0


def uncounted_updates(config: Config) -> int:
    """Returns the updates after a run's start that no rate counts: its warm-up, and those before it learns.

    The same are left out after a resume with replay, though that run learns at once.
    """
    return max(warm_up_updates(config), updates_before_learning(config))


def replay_bytes(state_shape: LearnerState) -> int:
    """Returns the bytes of replay on each learner device."""
    return sum(map(shard_bytes, jax.tree.leaves(state_shape.replay)))


def describe_replay(config: Config, state_shape: LearnerState) -> str:
    """Describes the replay in one line, with its bytes on each device and in a checkpoint; empty without one."""
    if not jax.tree.leaves(state_shape.replay):
        return ""
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state_shape.replay))
    saved = f"{describe_bytes(whole)} in the newest checkpoint" if config.checkpoint.replay else "not in checkpoints"
    on_device = describe_bytes(replay_bytes(state_shape))
    return f"{_describe_ring(config)}: {on_device} on each learner device, {saved}"


def _describe_ring(config: Config) -> str:
    sequences = config.agent.update_shape.sequences
    if sequences is None:
        batches, uses = config.replay.batches, config.replay.uses
        return f"{'1 batch' if batches == 1 else f'{batches} batches'}, each learned from {uses} times"
    shape, steps = ring_shape(config), config.learner_steps_per_update
    return (
        f"the newest {shape.rows * shape.num_envs:,} env steps, {shape.rows:,} of each environment; an update learns "
        f"{steps} {'time' if steps == 1 else 'times'} from {shape.batch:,} sequences of {shape.length}, drawn from "
        f"{shape.groups} groups"
    )
