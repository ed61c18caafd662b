"""How an update is divided for the learner's devices: micro-batches, and what is a loop of the compiled program."""

import dataclasses

from podrl.agents.parts.interface import Partition
from podrl.config.config import Config
from podrl.mesh import Topology

# Transitions in one micro-batch on CPU; other encoders learn from a whole batch. See docs/performance.md.
_CPU_MICRO_BATCH = {"resnet": 96, "nature": 192}  # If unrolled.
_CPU_ROLLED_MICRO_BATCH = 48
_CPU_MAX_PARTS = 16  # In an unrolled update; each compiles to a copy of the network.
_CPU_PARTS_OF_A_STEP = 4  # Allowed in an optimizer step even beyond _CPU_MAX_PARTS, to bound its memory.


def runs_in_loops(config: Config, topology: Topology) -> bool:
    """Returns whether the network may run inside a loop of a compiled program.

    Inside a loop, XLA's CPU backend computes the weight gradient of a convolution some 20 times slower. In float32
    podrl computes it as a matrix product instead (`podrl.networks.convolution`), except for a ResNet whose layers are
    split over devices. Other convolutional networks are unrolled on CPU.
    """
    kinds = config.network.encoders
    if any(device.platform != "cpu" for device in topology.learner.devices.flat) or kinds == {"mlp"}:
        return True
    layers_are_split = "resnet" in kinds and config.topology.model_devices > 1
    return config.network.compute_dtype == "float32" and not layers_are_split


def resolve_partition(config: Config, topology: Topology) -> Config:
    """Returns the config with what `topology` leaves to the run, 0 and `auto`, replaced by what suits the learner.

    On a CPU convolutional networks learn in parts, whose activations stay in cache: of at most
    `_CPU_ROLLED_MICRO_BATCH` transitions where the parts are a loop of the compiled program and the network is not
    recurrent; otherwise of `_CPU_MICRO_BATCH`, unless that would make more than `_CPU_MAX_PARTS` parts in an update and
    `_CPU_PARTS_OF_A_STEP` in a step. Accelerators, and networks without convolutions, take a batch whole.

    Parts are a loop where the network may be in one, and where one device learns: several would reduce the gradients
    of each part. Optimizer steps are a loop where the network may be in one, as a loop is compiled sooner.
    """
    found, loops = config.topology, runs_in_loops(config, topology)
    if found.step_loop == "auto":
        found = dataclasses.replace(found, step_loop="rolled" if loops else "unrolled")
    if found.micro_batch_loop == "auto":
        rolled = loops and topology.learner.devices.size == 1
        found = dataclasses.replace(found, micro_batch_loop="rolled" if rolled else "unrolled")
    config = dataclasses.replace(config, topology=found)
    if not found.micro_batches:
        parts = _choose_micro_batches(config, topology, found.micro_batch_loop == "rolled")
        config = dataclasses.replace(config, topology=dataclasses.replace(found, micro_batches=parts))
    return config


def partition_of(config: Config) -> Partition:
    """Returns the partition of a config; what it leaves to the run is whole, and a loop only for optimizer steps."""
    topology = config.topology
    return Partition(
        micro_batches=max(1, topology.micro_batches),
        rolls_micro_batches=topology.micro_batch_loop == "rolled",
        rolls_steps=topology.step_loop != "unrolled",
    )


def _choose_micro_batches(config: Config, topology: Topology, rolled: bool) -> int:
    if not _convolves_on_cpu(config, topology):
        return 1
    env_parts, row_parts = config.agent.update_shape.grid
    rows, num_envs = config.learned_shape
    envs = num_envs // (topology.learner.shape["data"] * env_parts)
    if rolled and config.network.core == "none":  # A recurrent core is slower on fewer environments.
        size, limit = _CPU_ROLLED_MICRO_BATCH, max(1, envs)
    else:
        size = min(_CPU_MICRO_BATCH[kind] for kind in config.network.encoders & _CPU_MICRO_BATCH.keys())
        limit = max(_CPU_PARTS_OF_A_STEP, _CPU_MAX_PARTS // _num_copies(config))
    divisors = [n for n in range(1, limit + 1) if envs % n == 0]
    small = [n for n in divisors if envs // n * (rows // row_parts) <= size]
    return min(small, default=max(divisors))


def _num_copies(config: Config) -> int:
    """Counts the optimizer steps of an update that compile to a copy of their own, micro-batches left aside."""
    shape, rolled = config.agent.update_shape, config.topology.step_loop == "rolled"
    copies = 1 if shape.loops_steps and rolled else shape.optimizer_steps
    return copies * (1 if rolled else config.learner_steps_per_update)


def _convolves_on_cpu(config: Config, topology: Topology) -> bool:
    on_cpu = all(device.platform == "cpu" for device in topology.learner.devices.flat)
    return on_cpu and bool(config.network.encoders & _CPU_MICRO_BATCH.keys())
