"""What to change in a config that does not fit, tried out one after the other until one fits."""

from collections.abc import Callable, Iterator
import dataclasses
import math

from podrl.config.config import Config, ConfigError
from podrl.performance.planning.compilation import RunCosts
from podrl.performance.planning.costs import OutOfMemory

_ROOM = 0.9  # Share of the memory that a remedy aims for.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change of the config.

    Attributes:
        arguments: on the command line.
        effect: what else it changes, for people.
        config: with it.
        run: what it costs then; None if it does not fit either, or was not tried.
        shortage: by how much it does not fit; None if it does, or was not tried.
    """

    arguments: str
    effect: str
    config: Config
    run: RunCosts | None = None
    shortage: OutOfMemory | None = None


def propose(config: Config, shortage: OutOfMemory, envs_per_device: int) -> Iterator[Remedy]:
    """Changes that may help, those first that leave the result as it is.

    Args:
        config: that does not fit.
        shortage: by how much.
        envs_per_device: environments of a minibatch on a learner device.
    """
    ratio = shortage.needed_bytes / shortage.available_bytes / _ROOM
    ratio = 2.0 if math.isnan(ratio) else ratio
    now = max(1, config.topology.micro_batches)
    divisors = [n for n in range(now + 1, envs_per_device + 1) if envs_per_device % n == 0]
    micro_batches = next((n for n in divisors if n >= now * ratio), None)
    if micro_batches is not None:
        topology = dataclasses.replace(config.topology, micro_batches=micro_batches)
        yield Remedy(
            arguments=f"--config.topology.micro_batches={micro_batches}",
            effect="the same result, in parts that come one after the other",
            config=dataclasses.replace(config, topology=topology),
        )
    if config.network.compute_dtype == "float32":
        network = dataclasses.replace(config.network, compute_dtype="bfloat16")
        yield Remedy(
            arguments="--config.network.compute_dtype=bfloat16",
            effect="activations in half the bytes; results differ by rounding",
            config=dataclasses.replace(config, network=network),
        )
    if config.topology.sharding in ("auto", "replicated") and config.topology.model_devices == 1:
        topology = dataclasses.replace(config.topology, sharding="fsdp")
        yield Remedy(
            arguments="--config.topology.sharding=fsdp",
            effect="parameters and optimizer state split over the learner's devices",
            config=dataclasses.replace(config, topology=topology),
        )
    fewer = config.actors.num_envs // 2 ** math.ceil(math.log2(max(2.0, ratio)))
    if fewer:
        actors = dataclasses.replace(config.actors, num_envs=fewer)
        yield Remedy(
            arguments=f"--config.actors.num_envs={fewer}",
            effect="a smaller batch: another experiment",
            config=dataclasses.replace(config, actors=actors),
        )


def try_remedies(
    config: Config, shortage: OutOfMemory, envs_per_device: int, compile: Callable[[Config], RunCosts], *, tries: int
) -> list[Remedy]:
    """The proposed changes; compiles one after the other until one fits, `tries` at the most.

    Args:
        config: that does not fit.
        shortage: by how much.
        envs_per_device: environments of a minibatch on a learner device.
        compile: a config for the same slice; raises `OutOfMemory`, or `ConfigError` if it cannot be.
        tries: how many to compile.
    """
    found: list[Remedy] = []
    for remedy in propose(config, shortage, envs_per_device):
        if len([one for one in found if one.shortage]) >= tries or any(one.run for one in found):
            found.append(remedy)
            continue
        try:
            found.append(dataclasses.replace(remedy, run=compile(remedy.config)))
        except OutOfMemory as still:
            found.append(dataclasses.replace(remedy, shortage=still))
        except ConfigError:
            continue
    return found
