"""Which points of a study can be run: every one is put together as its run would, for devices that are not there.

So what does not divide is found out before anything is started. Nothing is compiled, and no device is touched.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
from typing import Any

from podrl.agents.parts.loading import find_config_type
from podrl.assembly import resolve
from podrl.config import commandline
from podrl.config.config import Config, ConfigError, check
from podrl.config.config_dict import as_values
from podrl.config.keys import check_keys_known
from podrl.experience.layout import make_layout
from podrl.learning.micro_batches import resolve_partition
from podrl.learning.replay import uncounted_updates
from podrl.mesh import Topology, make_topology
from podrl.studies.grid import Definition, Machines, Point, combinations, point_name, weak_num_envs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Infeasible:
    """A place of the grid that cannot be run, and why."""

    name: str
    reason: str


# What a topology asks of a device; no tuple, of which numpy would make an axis.
_Device = dataclasses.make_dataclass("_Device", ["id", "process_index", "platform", "device_kind"], frozen=True)


def examine(definition: Definition, platform: str) -> tuple[list[Point], list[Infeasible]]:
    """Puts all points of a study together, by scaling and then in the order of the grid.

    `platform` is what its devices are: `cpu`, `gpu` or `tpu`.
    """
    base = commandline.load_config(definition.config)
    commandline.override(base, as_arguments(definition.overrides))
    feasible: list[Point] = []
    infeasible: list[Infeasible] = []
    for settings in combinations(definition.axes):
        common = {**definition.overrides, **settings}
        _check_keys(base, common)
        learners: dict[Machines, int] = {}
        for machines in definition.machines:
            with contextlib.suppress(ConfigError):  # It comes again where the point is put together.
                learners[machines] = _learner_devices(base, common, machines, platform)
        least = min(learners.values(), default=1)
        for scaling in definition.scaling:
            for machines in definition.machines:
                place: dict[str, Any] = {"scaling": scaling, "machines": machines, "settings": settings}
                try:
                    growth = (learners.get(machines, least), least) if scaling == "weak" else (1, 1)
                    point = _put_together(base, common, place, growth, platform)
                    if definition.score is None:
                        _check_measurable(point.config)
                    feasible.append(point)
                except ConfigError as error:
                    infeasible.append(Infeasible(name=point_name(**place), reason=str(error)))
    feasible.sort(key=lambda each: definition.scaling.index(each.scaling))
    return feasible, infeasible


def as_arguments(values: Mapping[str, str]) -> list[str]:
    """Overrides as the command line takes them."""
    return [f"--config.{key}={value}" for key, value in values.items()]


def _check_keys(base: object, values: Mapping[str, str]) -> None:
    """Raises ConfigError on a key that no config of the agent has: a mistake of the study, not of one point."""
    found = as_values(commandline.override(base, as_arguments(values)))
    check_keys_known(found, find_config_type(found.get("agent")))


def _learner_devices(base: object, values: Mapping[str, str], machines: Machines, platform: str) -> int:
    """Learner devices of the whole job."""
    config = resolve(commandline.override(base, as_arguments(values)))
    return int(_topology(config, machines, platform).learner.size)


def _put_together(
    base: object, values: Mapping[str, str], place: Mapping[str, Any], growth: tuple[int, int], platform: str
) -> Point:
    config = resolve(commandline.override(base, as_arguments(values)))
    config.check_makes_experience("A study")
    seeds = config.topology.seeds
    check(seeds == 1, f"topology.seeds={seeds}: each run of a study is of one seed. Use --seeds for several.")
    num_envs = weak_num_envs(config.actors.num_envs, *growth)
    config = dataclasses.replace(config, actors=dataclasses.replace(config.actors, num_envs=num_envs))
    topology = _topology(config, place["machines"], platform)
    make_layout(resolve_partition(config, topology), topology)
    actors, learners = int(topology.actor.size), int(topology.learner.size)
    return Point(**place, num_envs=num_envs, config=config, actor_devices=actors, learner_devices=learners)


def _check_measurable(config: Config) -> None:
    """Raises ConfigError unless a run leaves two rows of metrics after its warm-up, between which a rate is taken."""
    every, warm_up = config.log.every_updates, uncounted_updates(config)
    rows = config.num_updates // every - (warm_up - 1) // every + (config.num_updates % every > 0)
    check(
        rows >= 2,
        f"its {config.num_updates} update(s) of {config.env_steps_per_update} env steps leave fewer than two rows of "
        f"metrics after the warm-up of {warm_up} updates. Use more --steps, or a smaller "
        f"--config.log.every_updates (now {every}).",
    )


def _topology(config: Config, machines: Machines, platform: str) -> Topology:
    kind = "TPU v5 lite" if (machines.slice_type or "").startswith("v5litepod") else platform
    each = machines.devices_per_process
    devices = [_Device(index, index // each, platform, kind) for index in range(machines.devices)]
    return make_topology(config.topology, devices, process_index=0)
