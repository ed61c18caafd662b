"""A named mesh over every device of the job, split into the devices that act and the devices that learn.

Each process splits its *own* devices the same way, so rollouts never leave a host. The first
`actor_devices_per_process` devices act and the last `learner_devices_per_process` learn; where the two overlap, a
device does both. Only gradients cross hosts, along the learner mesh's `data` axis. Parameters are laid out by path
rules.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import re

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from podrl.config.config import ConfigError, TopologyConfig, check, did_you_mean
from podrl.types import PyTree, Trajectory

# On larger slices of this kind libtpu compiles no program for a part of the slice, so every device has to learn: on
# "platforms with limited ICI routing device assignment should include all slice devices" (libtpu 0.0.42, compiled for
# v5e:4x8 and more; v5e:4x4 and all slices of v4, v5p and v6e are not affected).
_UNDIVIDED_KIND, _UNDIVIDED_ABOVE = "TPU v5 lite", 16

# A regular expression over parameters' paths ("encoder/dense/kernel"), and the layout of the parameters it matches.
ShardingRule = tuple[str, PartitionSpec]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """The devices of the job: which act and which learn.

    Attributes:
        mesh: All devices, with axes `('process', 'device')`.
        actor: The devices that act, with axis `('actor',)`.
        learner: The devices that learn, with axes `('data', 'model')`.
        process_index: The index of this process.
        acts: Whether experience is made on the devices that act; offline only evaluations act there.
    """

    mesh: Mesh
    actor: Mesh
    learner: Mesh
    process_index: int
    acts: bool = True

    @property
    def num_processes(self) -> int:
        """The number of processes in the job."""
        return self.mesh.shape["process"]

    @property
    def local_actor_devices(self) -> list[jax.Device]:
        """This process's acting devices, in a fixed order."""
        return [d for d in self.actor.devices.flat if d.process_index == self.process_index]

    @property
    def local_learner(self) -> Mesh:
        """This process's part of the learner mesh, with the same axes."""
        local = [d for d in self.learner.devices.flat if d.process_index == self.process_index]
        return _mesh(np.array(local).reshape(-1, self.learner.shape["model"]), ("data", "model"))

    def describe(self) -> str:
        """Describes the split in one line: `1 process x 4 cpu devices: 1 act, 3 learn`."""
        per_process, learners = self.mesh.shape["device"], self.local_learner.size
        actors = len(self.local_actor_devices) if self.acts else 0
        shared = actors + learners - per_process
        rest = f", {shared} of them both" if shared > 0 else f", {-shared} idle" if shared < 0 else ""
        split = f"{actors} act, {learners} learn{rest}"
        if not self.acts:
            split = "learns" if per_process == 1 else f"{learners} learn{rest}"
        if actors == learners == per_process:
            split = "acts and learns" if per_process == 1 else "all act and learn"
        kind = self.mesh.devices.flat[0].device_kind
        return f"{_count(self.num_processes, 'process')} x {_count(per_process, f'{kind} device')}: {split}"


def make_topology(
    config: TopologyConfig,
    devices: Sequence[jax.Device] | None = None,
    process_index: int | None = None,
    *,
    acts: bool = True,
) -> Topology:
    """Splits the devices of the job into actors and learners.

    Args:
        config: The `topology` section; zeros mean automatic.
        devices: All devices of the job; by default `jax.devices()`.
        process_index: The index of this process; by default `jax.process_index()`.
        acts: Whether some act; if not, all learn unless `learner_devices_per_process` says how many.

    Raises:
        ConfigError: If the split does not fit the devices.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    per_process = _devices_per_process(devices)
    if not acts:
        learners = config.learner_devices_per_process or per_process
        config = dataclasses.replace(config, learner_devices_per_process=learners, placement="sebulba")
    num_actors, num_learners = _split(config, per_process, divided=not is_undivided(devices))
    grid = np.array(devices).reshape(-1, per_process)
    learning = grid[:, per_process - num_learners :].reshape(-1, config.model_devices)
    return Topology(
        mesh=_mesh(grid, ("process", "device")),
        actor=_mesh(grid[:, :num_actors].reshape(-1), ("actor",)),
        learner=_mesh(learning, ("data", "model")),
        process_index=jax.process_index() if process_index is None else process_index,
        acts=acts,
    )


def is_undivided(devices: Sequence[jax.Device]) -> bool:
    """Returns whether the compiler accepts programs only for all of the job's devices, or for a single one."""
    return devices[0].device_kind == _UNDIVIDED_KIND and len(devices) > _UNDIVIDED_ABOVE


def trajectory_sharding(mesh: Mesh, trajectory: Trajectory) -> Trajectory:
    """Returns shardings of a `Trajectory` (or of its shapes) that split its environments over the `data` axis."""
    time_major = NamedSharding(mesh, PartitionSpec(None, "data"))
    untimed = NamedSharding(mesh, PartitionSpec("data"))
    return trajectory.map(lambda _: time_major, lambda _: untimed)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a whole copy on every device of `mesh`."""
    return NamedSharding(mesh, PartitionSpec())


def tree_sharding(mesh: Mesh, tree: PyTree, rules: Sequence[ShardingRule] = ()) -> PyTree:
    """Returns shardings of a pytree by path: the first rule whose expression is found in a leaf's path decides.

    Leaves that no rule matches are replicated. Optimizer moments have their parameter's path inside their own, so one
    rule lays out both.

    Args:
        mesh: The mesh whose axes the rules name.
        tree: Arrays or `jax.ShapeDtypeStruct`s.
        rules: (expression, PartitionSpec) pairs.

    Raises:
        ConfigError: If a rule decides about no parameter, or if a dimension does not divide as its rule asks.
    """
    used: Counter[str] = Counter()

    def leaf_sharding(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = path_name(path)
        rule = find_rule(name, rules)
        if rule is None:
            return replicated(mesh)
        pattern, spec = rule
        used[pattern] += 1
        _check_divides(name, leaf.shape, spec, mesh)
        return NamedSharding(mesh, spec)

    shardings = jax.tree_util.tree_map_with_path(leaf_sharding, tree)
    for pattern, _ in rules:
        check(
            pattern in used,
            f"topology.parameter_sharding: {pattern!r} decides about no parameter{did_you_mean(pattern, _names(tree))} "
            "Correct its expression, move it before a rule that matches the same, or remove it.",
        )
    return shardings


def find_rule(path: str, rules: Sequence[ShardingRule]) -> ShardingRule | None:
    """Returns the first rule whose expression is found in a leaf's path; None if there is none."""
    return next((rule for rule in rules if re.search(rule[0], path)), None)


def path_name(path: tuple) -> str:
    """Returns a leaf's path as rules see it: `encoder/Dense_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _mesh(devices: np.ndarray, names: tuple[str, ...]) -> Mesh:
    return Mesh(devices, names, axis_types=(jax.sharding.AxisType.Auto,) * len(names))


def _devices_per_process(devices: Sequence[jax.Device]) -> int:
    counts = Counter(d.process_index for d in devices)
    if len(set(counts.values())) != 1:
        found = ", ".join(f"process {index}: {count}" for index, count in sorted(counts.items()))
        raise ConfigError(f"Every process needs the same number of devices; found {found}.")
    return next(iter(counts.values()))


def _split(config: TopologyConfig, per_process: int, *, divided: bool) -> tuple[int, int]:
    """Resolves automatic counts, to powers of two because batches of the usual sizes divide over these."""
    actors, learners = config.actor_devices_per_process, config.learner_devices_per_process
    check(
        divided or learners in (0, per_process),
        f"topology.learner_devices_per_process={learners} leaves devices that do not learn. On a {_UNDIVIDED_KIND} "
        f"slice of more than {_UNDIVIDED_ABOVE} chips the compiler takes no program for a part of the slice. Use "
        f"{per_process}, or 0 for automatic.",
    )
    if config.placement == "anakin" or not divided:
        learners = per_process
        actors = per_process if config.placement == "anakin" else actors or per_process
    if not learners:
        learners = _power_of_two(per_process - (actors or 1)) or per_process
    if not actors:
        actors = _power_of_two(per_process - learners) or 1
    for key, count in (("actor_devices_per_process", actors), ("learner_devices_per_process", learners)):
        check(
            1 <= count <= per_process,
            f"topology.{key}={count} does not fit: each process has {_count(per_process, 'device')}. "
            f"Use 1 to {per_process}, or 0 for automatic.",
        )
    check(
        learners % config.model_devices == 0,
        f"topology.model_devices={config.model_devices} does not divide the {_count(learners, 'learner device')} of "
        "each process. Use a divisor, or change topology.learner_devices_per_process.",
    )
    return actors, learners


def _power_of_two(limit: int) -> int:
    """Returns the largest power of two that is at most `limit`; 0 if there is none."""
    return 1 << (limit.bit_length() - 1) if limit > 0 else 0


def _check_divides(name: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> None:
    for size, axes in zip(shape, spec, strict=False):
        parts = int(np.prod([mesh.shape[axis] for axis in _axes(axes)]))
        check(
            size % parts == 0,
            f"Parameter {name} has shape {shape}: {size} does not divide over the {parts} devices of mesh axis "
            f"{axes!r}. Change topology.parameter_sharding, the devices (topology.model_devices, "
            "topology.learner_devices_per_process), or the network's size (network.width, network.hidden_sizes).",
        )
    check(
        len(spec) <= len(shape),
        f"topology.parameter_sharding lays out {len(spec)} dimensions of parameter {name}, whose shape is {shape}.",
    )


def _names(tree: PyTree) -> list[str]:
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _axes(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else axes


def _count(number: int, noun: str) -> str:
    plural = noun if number == 1 else noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {plural}"
