"""What to change in a config that does not fit, tried out one after the other until one fits."""

from collections.abc import Callable, Iterator
import dataclasses
import math
from typing import Any

from podrl.config.config import Config, ConfigError
from podrl.performance.planning.compilation import RunCosts
from podrl.performance.planning.costs import OutOfMemory

_ROOM = 0.9  # Share of the memory that a remedy aims for.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change of the config; without `run` and `shortage` it was not tried."""

    arguments: str  # on the command line
    effect: str  # what else it changes, for people
    config: Config
    run: RunCosts | None = None  # what it costs where it fits
    shortage: OutOfMemory | None = None  # by how much it does not fit


def propose(config: Config, shortage: OutOfMemory, envs_per_device: int) -> Iterator[Remedy]:
    """Proposes changes, those first that leave the result as it is."""

    def change(section: str, key: str, value: Any, effect: str) -> Remedy:
        changed = dataclasses.replace(getattr(config, section), **{key: value})
        arguments = f"--config.{section}.{key}={value}"
        return Remedy(arguments=arguments, effect=effect, config=dataclasses.replace(config, **{section: changed}))

    ratio = shortage.needed_bytes / shortage.available_bytes / _ROOM
    ratio = 2.0 if math.isnan(ratio) else ratio
    now = max(1, config.topology.micro_batches)
    divisors = [n for n in range(now + 1, envs_per_device + 1) if envs_per_device % n == 0 and n >= now * ratio]
    if divisors:
        effect = "the same result, in parts that come one after the other"
        yield change("topology", "micro_batches", divisors[0], effect)
    if config.network.compute_dtype == "float32":
        effect = "activations in half the bytes; results differ by rounding"
        yield change("network", "compute_dtype", "bfloat16", effect)
    if config.topology.sharding in ("auto", "replicated") and config.topology.model_devices == 1:
        yield change("topology", "sharding", "fsdp", "parameters and optimizer state split over the learner's devices")
    if fewer := config.actors.num_envs // 2 ** math.ceil(math.log2(max(2.0, ratio))):
        yield change("actors", "num_envs", fewer, "a smaller batch: another experiment")


def try_remedies(
    config: Config, shortage: OutOfMemory, envs_per_device: int, compile: Callable[[Config], RunCosts], *, tries: int
) -> list[Remedy]:
    """Compiles the proposed changes one after the other until one fits, so many `tries` at the most.

    `compile` raises `OutOfMemory` where a config does not fit, and `ConfigError` where it cannot be.
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
