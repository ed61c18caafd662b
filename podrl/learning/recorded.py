"""What a run learns from a data set: what it draws at each update, where the rows are, and draws on the devices.

Rows are in host memory, or whole on every learner device. Both draw by the same functions of (seed, update), and gather
by the same one: their samples are equal bit for bit.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math

from flax import struct
import jax
from jax.sharding import Mesh
import numpy as np

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config, ConfigError, check
from podrl.config.paths import absolute_path
from podrl.data.data_set import DataSet, check_suits, open_data
from podrl.data.gathering import HeldRows, gather_samples
from podrl.data.manifest import DataError
from podrl.data.reader import HostSampler, SamplePlan, pad_episodes
from podrl.data.samplers import count_starts, draw_key, draw_recorded, make_streams
from podrl.data.window import Window, WindowPlan
from podrl.learning.intake import Intake, recorded_sharding, take_samples
from podrl.learning.learner import Learner
from podrl.learning.micro_batches import partition_of
from podrl.mesh import ShardingRule, Topology, replicated
from podrl.types import Array, EnvSpec, PyTree, Sample

_SHARE = 4  # With `data.memory=auto` a copy of the rows takes a quarter of a device's memory at most.
_MOST_ROWS = 2**31 - 1  # On devices, whose indices have 32 bits.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """A data set, as a run learns from it.

    Attributes:
        data: The data set.
        plan: What is drawn at each update.
        on_devices: Whether its rows are on the learner's devices.
    """

    data: DataSet
    plan: SamplePlan
    on_devices: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of the rows in memory."""
        rows = WindowPlan(self.plan.window, self.data.facts.length, self.plan.seed).rows
        return rows * row_bytes(self.data)

    def describe(self) -> str:
        """Describes the data set in one line."""
        facts = self.data.facts
        steps, episodes = f"{self.data.num_steps:,}", f"{self.data.num_episodes:,}"
        returns = f"returns {facts.episode_return.min():.2f} to {facts.episode_return.max():.2f}"
        where = "on every learner device" if self.on_devices else "in host memory"
        window = f", {self.plan.window.rows:,} rows at a time" if self.plan.window.rows else ""
        return f"{episodes} episodes of {steps} steps, {returns}; {where}{window}"


@struct.dataclass(kw_only=True)
class HeldData:
    """A data set on the learner's devices, and the number of an update that draws from it.

    Attributes:
        rows: Its rows, [C, ...] by column, whole on every device.
        starts: [W] int32; the starts of each episode, with zeros behind the last one.
        priority: By stream, [W] float32; weights of episodes in drawing, in the same form.
        weight: By stream, [E] float32; weights in the loss.
        update: [] int32; updates done before this one.
    """

    rows: HeldRows
    starts: Array
    priority: Mapping[str, Array]
    weight: Mapping[str, Array]
    update: Array


def open_recorded(path: str) -> DataSet | None:
    """Opens the data set that a config names; None if it names none.

    Raises:
        ConfigError: If there is none, if it is empty or of another format, or if its manifest is damaged.
    """
    if not path:
        return None
    try:
        return open_data(absolute_path(path))
    except (DataError, ConfigError) as error:
        raise ConfigError(f"data.path: {error}") from None


def make_recorded(config: Config, data: DataSet, spec: EnvSpec, topology: Topology) -> Recorded:
    """Returns what a run learns from a data set.

    Raises:
        ConfigError: If it is of another environment, or the window does not fit it.
    """
    check_suits(data, spec, agent=config.agent.name)
    section, shape = config.data, config.agent.update_shape.recorded
    window = Window(rows=section.window, episodes=section.window_episodes, updates=section.window_updates)
    is_whole = WindowPlan(window, data.facts.length, config.seed).is_whole
    plan = SamplePlan(
        streams=make_streams(section.rebalance, data.facts, p_base=section.p_base),
        num_batches=section.learner_steps,
        batch=section.batch,
        length=shape.rows,
        before=max(config.network.frame_stack - 1, 1),
        window=Window() if is_whole else window,
        seed=config.seed,
    )
    return Recorded(data=data, plan=plan, on_devices=is_whole and _lives_on_devices(config, data, topology))


def make_offline_learner(
    config: Config, agent: Agent, recorded: Recorded, mesh: Mesh, rules: Sequence[ShardingRule]
) -> Learner:
    """Creates the learner of a run from a data set."""
    return Learner(
        agent,
        mesh,
        rules,
        max_lag=0,
        skips_nonfinite=config.on_nonfinite == "skip",
        rolls_draws=partition_of(config).rolls_steps,
        intake=_make_intake(agent, recorded, mesh),
    )


def given_shapes(recorded: Recorded, mesh: Mesh) -> PyTree:
    """Returns shapes of what one update is given: `HeldData`, or the samples of all processes by stream."""
    data = recorded.data
    if recorded.on_devices:
        return _held_shapes(recorded, rows=data.num_steps + data.num_episodes, episodes=data.num_episodes)
    few = _held_shapes(recorded, rows=2, episodes=1)  # Samples have the same shapes; all rows may be too many to index.
    return jax.eval_shape(functools.partial(_draw, recorded, mesh), few)


def hold(recorded: Recorded, sampler: HostSampler, mesh: Mesh) -> HeldData:
    """Puts the rows that a sampler has loaded on every learner device; `update` is 0.

    Args:
        recorded: The data set and what is drawn.
        sampler: Has loaded all of it.
        mesh: The learner's devices of the whole job.
    """
    rows, streams = sampler.held, recorded.plan.streams
    starts = count_starts(recorded.data.facts.length, recorded.plan.length, fit=recorded.plan.fit)
    held = HeldData(
        rows=HeldRows(columns=rows.columns, begin=rows.begin.astype(np.int32), length=rows.length.astype(np.int32)),
        starts=pad_episodes(starts),
        priority={stream.name: pad_episodes(stream.priority) for stream in streams},
        weight={stream.name: stream.weight for stream in streams},
        update=np.zeros((), np.int32),
    )
    return jax.tree.map(lambda x: put_whole(np.asarray(x), mesh), held)


def put_whole(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Puts an array that all processes have on every device of a mesh; no process waits for another."""
    return jax.make_array_from_callback(array.shape, replicated(mesh), lambda index: array[index])


def row_bytes(data: DataSet) -> int:
    """Returns the bytes of one row."""
    return sum(math.prod(column.shape) * column.dtype.itemsize for column in data.spec.columns.values())


def _lives_on_devices(config: Config, data: DataSet, topology: Topology) -> bool:
    rows, where = data.num_steps + data.num_episodes, config.data.memory
    check(
        where != "device" or rows <= _MOST_ROWS,
        f"data.memory='device' holds up to {_MOST_ROWS:,} rows, and {data.folder} has {rows:,}. Use data.memory=host.",
    )
    if where != "auto":
        return where == "device"
    devices = list(topology.local_learner.devices.flat)
    if topology.num_processes > 1 or devices[0].platform == "cpu" or rows > _MOST_ROWS:
        return False  # Processes might see other limits, and have to agree.
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in devices]
    return rows * row_bytes(data) * _SHARE <= min(limits)


def _make_intake(agent: Agent, recorded: Recorded, mesh: Mesh) -> Intake:
    if not recorded.on_devices:
        return take_samples(mesh, agent)
    whole = replicated(mesh)
    return take_samples(
        mesh,
        agent,
        shardings=lambda given: jax.tree.map(lambda _: whole, given),
        draw=functools.partial(_draw, recorded, mesh),
    )


def _draw(recorded: Recorded, mesh: Mesh, held: HeldData) -> dict[str, Sample]:
    """Draws and gathers the samples of an update in the compiled program; each device gathers its own."""
    plan, found = recorded.plan, {}
    for stream in plan.streams:
        key = draw_key(plan.seed, stream.number, held.update)
        draws = draw_recorded(held.priority[stream.name], held.starts, plan.num_batches, plan.batch, key)
        draws = jax.lax.with_sharding_constraint(draws, replicated(mesh))
        found[stream.name] = gather_samples(held.rows, draws, plan.length, held.weight[stream.name], plan.before)
    return jax.lax.with_sharding_constraint(found, recorded_sharding(mesh, found))


def _held_shapes(recorded: Recorded, *, rows: int, episodes: int) -> HeldData:
    data, names = recorded.data, [stream.name for stream in recorded.plan.streams]
    padded = len(pad_episodes(np.zeros(episodes)))

    def shape(*sizes: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype)

    return HeldData(
        rows=HeldRows(
            columns={name: shape(rows, *x.shape, dtype=x.dtype) for name, x in data.spec.columns.items()},
            begin=shape(episodes, dtype="int32"),
            length=shape(episodes, dtype="int32"),
        ),
        starts=shape(padded, dtype="int32"),
        priority={name: shape(padded) for name in names},
        weight={name: shape(episodes) for name in names},
        update=shape(dtype="int32"),
    )
