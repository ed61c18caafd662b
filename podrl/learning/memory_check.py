"""Lower bounds on the memory that a config needs, computed before any of it is allocated.

The bounds come from shapes: experience that is generated and learned from at the same time, activations that the
gradient needs, parameters, gradients, the optimizer's state and the actors' copies. A config that passes here may still
not fit once it is compiled; one that fails here cannot fit.
"""

from collections.abc import Mapping, Sequence
import math
import os
from pathlib import Path
from typing import Any

import jax

from podrl.config.config import Config, ConfigError, check
from podrl.config.units import describe_bytes
from podrl.experience.remote.unroll_queue import num_buffers
from podrl.experience.schedule import lag_key, max_lag, serves_arrivals
from podrl.learning.recorded import Recorded, row_bytes
from podrl.learning.replay import replay_bytes
from podrl.learning.update_cost import shard_bytes
from podrl.mesh import Topology
from podrl.networks.parts import is_image, seen
from podrl.networks.policies import make_distribution
from podrl.runtime.container_limits import GROUPS, memory_limit
from podrl.types import EnvSpec, LearnerState

_STATE, _REPLAY, _DATA = "parameters, gradients and optimizer", "replay", "data set"
_UNROLLS = "unrolls of actors"  # Each environment has room for two, see `podrl.experience.remote.slots`.
_MOST_FRAMES = 1024
_SCALARS = 17  # Bytes of a step's reward, discount, first, params_version and recorded value.


def check_experience_fits(config: Config, spec: EnvSpec, topology: Topology) -> None:
    """Raises `ConfigError` if the experience of a run cannot fit the memory of this process's devices.

    It also raises if a stack has more frames than a program can be compiled for: each frame adds a few operations.
    """
    _check_all(config, spec, topology, {})
    check(
        config.network.frame_stack <= _MOST_FRAMES,
        f"network.frame_stack={config.network.frame_stack} is more than {_MOST_FRAMES} frames, which no program is "
        "compiled for in reasonable time.",
    )


def check_state_fits(
    config: Config, spec: EnvSpec, topology: Topology, state_shape: LearnerState, recorded: Recorded | None = None
) -> None:
    """Raises `ConfigError` if experience and state together cannot fit the memory of this process's devices.

    Args:
        config: The run's config.
        spec: The spec of its environment.
        topology: The devices.
        state_shape: Shapes of the learner's state, with shardings.
        recorded: What the run learns from if that is a data set, whose rows need room on the devices or on the host.
    """
    held_bytes = recorded.size_bytes if recorded else 0
    if recorded:  # They are read into host memory, also where they go to the devices from there.
        check(
            held_bytes <= host_memory_bytes(),
            f"data.path has {describe_bytes(held_bytes)} of rows to hold, and this machine has "
            f"{describe_bytes(host_memory_bytes())} of memory. Lower data.window={config.data.window}, in rows of "
            f"{row_bytes(recorded.data):,} bytes; 0 holds all.",
        )
    if recorded and not recorded.on_devices:
        held_bytes = 0
    learners, lag = {*topology.local_learner.devices.flat}, min(max_lag(config), config.num_updates)
    acting = lag if learners.intersection(topology.local_actor_devices) else min(1, lag)
    copies = 1 + acting  # The gradient and each acting version are as large as the parameters.
    params = sum(map(shard_bytes, jax.tree.leaves(state_shape.params)))
    state = params + sum(map(shard_bytes, jax.tree.leaves((state_shape.opt_state, state_shape.extra))))
    needs = {_STATE: state + copies * params, _REPLAY: replay_bytes(state_shape), _DATA: held_bytes}
    _check_all(config, spec, topology, needs)


def _check_all(config: Config, spec: EnvSpec, topology: Topology, state: Mapping[str, int]) -> None:
    """Raises `ConfigError` if a device of this process cannot hold its experience, and a learner device the state."""
    learners, actors = list(topology.local_learner.devices.flat), list(topology.local_actor_devices)
    needs = _experience(config, spec, topology) | dict(state)
    if not serves_arrivals(config):
        return _check(config, learners, needs)
    unrolls = (
        _unroll_bytes(config, spec, config.actors.unroll_length)
        * num_buffers(config.actors.num_envs)
        // topology.num_processes
    )
    if learners[0].platform == "cpu" or set(learners) & set(actors):
        sharers = learners if learners[0].platform == "cpu" else actors
        return _check(config, learners, needs | {_UNROLLS: unrolls // len(sharers)})
    _check(config, learners, needs)
    return _check(config, actors, {_UNROLLS: unrolls // len(actors)})


def _unroll_bytes(config: Config, spec: EnvSpec, length: int) -> int:
    """Returns the bytes of one environment's unroll of so many steps, or of a sample of them."""
    frame, stacked = _frame_bytes(spec)
    policy = 4 * make_distribution(config.network, spec.actions).num_params
    row = frame + _bytes(spec.actions.struct) + policy + _SCALARS
    return (length + 1) * row + (config.network.frame_stack - 1) * stacked


def _frame_bytes(spec: EnvSpec) -> tuple[int, int]:
    """Returns the bytes of an observation, and of those parts of it that are stacked."""
    frame, parts = sum(map(_bytes, jax.tree.leaves(spec.observation))), seen(spec.observation)
    stacked = sum(_bytes(part) for part in parts.values() if is_image(part)) if isinstance(parts, Mapping) else frame
    return frame, stacked


def _experience(config: Config, spec: EnvSpec, topology: Topology) -> dict[str, int]:
    """Returns the bytes of experience on each learner device, by purpose."""
    frames, seeds, shares = config.network.frame_stack, config.topology.seeds, topology.learner.shape["data"]
    _, stacked = _frame_bytes(spec)
    rows, sequences = config.learned_shape
    num_envs, length, batches = config.actors.num_envs, config.actors.unroll_length, 1 + max_lag(config)
    if config.is_offline:  # Samples are made ahead of need, and those of one update are being learned from.
        on_host = config.data.memory == "host" or topology.local_learner.devices.flat[0].platform == "cpu"
        ahead = config.data.prefetch + 1 if on_host and config.data.memory != "device" else 0
        streams = 2 if config.data.rebalance == "decouple" else 1
        num_envs, length, batches = sequences * config.data.learner_steps * streams, rows, 1 + ahead
    batch = seeds * -(-num_envs // shares) * _unroll_bytes(config, spec, length)
    learned = (
        sequences * rows // (shares * math.prod(config.agent.update_shape.grid) * max(1, config.topology.micro_batches))
    )
    wide = sum(config.network.hidden_sizes) * (1 + config.network.separate_value)
    itemsize = 2 if config.network.compute_dtype == "bfloat16" else 4
    is_mlp = config.network.encoders == {"mlp"}  # Other encoders choose their micro-batches themselves.
    stacks = (learned if is_mlp else rows // config.agent.update_shape.grid[1] or 1) * stacked * frames
    return {
        "samples" if config.is_offline else "experience": batch * min(batches, config.num_updates),
        "stacks of frames": seeds * stacks if frames > 1 else 0,
        "activations": seeds * learned * wide * itemsize if is_mlp else 0,
    }


def _check(config: Config, devices: Sequence[jax.Device], needs: Mapping[str, int]) -> None:
    """Raises `ConfigError` if one of these devices, or the host of CPU devices, has less memory than it needs."""
    there, where = _memory(devices)
    count = len(devices) if devices[0].platform == "cpu" else 1
    total = count * sum(needs.values())
    if there is None or total <= there:
        return
    parts = ", ".join(f"{name} {describe_bytes(count * size)}" for name, size in needs.items() if size)
    actors, network = config.actors, config.network
    size = f"hidden_sizes={network.hidden_sizes}" if network.encoder == "mlp" else f"width={network.width}"
    size += f", network.core_size={network.core_size}" if network.core != "none" else ""
    depth = f", {lag_key(config)}={max_lag(config)}" if max_lag(config) > 1 else ""
    ring = "capacity" if config.agent.update_shape.sequences else "batches"
    several = f"topology.seeds={config.topology.seeds}, " if config.topology.seeds > 1 else ""
    fewer = f"{several}replay.{ring}={getattr(config.replay, ring)}, " if needs.get(_REPLAY) else several
    fewer += f"actors.num_envs={actors.num_envs}, actors.unroll_length={actors.unroll_length}{depth}"
    if config.is_offline:
        data = config.data
        fewer = f"data.batch={data.batch}, data.learner_steps={data.learner_steps}, data.prefetch={data.prefetch}"
        fewer += f", data.window={data.window} (or use data.memory=host)" if needs.get(_DATA) else ""
    raise ConfigError(
        f"This config needs {describe_bytes(total)} of memory at least, and {where} {describe_bytes(there)} ({parts}). "
        f"Lower {fewer}, "
        f"network.frame_stack={network.frame_stack} or network.{size}, or another key that makes the largest part."
    )


def _memory(devices: Sequence[jax.Device]) -> tuple[int | None, str]:
    """Returns the bytes available, None if unknown, and a text that says where."""
    if devices[0].platform == "cpu":
        return host_memory_bytes(), "this machine has"
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    known = [limit for limit in limits if limit]
    return min(known, default=None), f"a {devices[0].device_kind} has"


def host_memory_bytes(groups: Path = GROUPS) -> int:
    """Returns the memory of this machine, or the limit of its scheduler or container if that is less.

    Args:
        groups: The folder where the kernel lists control groups.
    """
    return int(min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), memory_limit(groups)))


def _bytes(struct: Any) -> int:
    return math.prod(struct.shape) * struct.dtype.itemsize
