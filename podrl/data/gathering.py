"""Rows in memory, and the samples that are made of them.

The same function gathers on the host and, from rows that live on devices, inside a compiled program.

Observations are single frames, and no carry of a network is recorded. A frame stack and the last action are made of the
rows before a sequence, so they are those of the actor. A recurrent core starts from its initial carry at the sequence's
first row.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp
import numpy as np

from podrl.agents.parts.interface import Agent
from podrl.data.data_set import DataSet
from podrl.data.samplers import RecordedDraws
from podrl.data.trees import from_columns
from podrl.data.window import WindowPlan
from podrl.replay.ring import RingRows
from podrl.types import Array, PyTree, Sample, Trajectory


@struct.dataclass(kw_only=True)
class HeldRows:
    """Rows of W episodes in memory.

    Attributes:
        columns: [C, ...] by column.
        begin: [W] int64 or int32; each episode's first row. Rows behind row C - 1 continue at row 0.
        length: [W], like `begin`; its steps.
    """

    columns: Mapping[str, Array]
    begin: Array
    length: Array


def gather_samples(rows: HeldRows, draws: RecordedDraws, length: int, weight: Array, before: int = 1) -> Sample:
    """Gathers sequences of `length` steps, [K, T, B].

    What lies behind the end of an episode are reset rows, which are no transitions: the true final observation with
    `first` true, reward 0 and discount 1. So are the rows before its first step, with the first observation: nothing of
    another episode is seen.

    Args:
        rows: The rows in memory.
        draws: What to gather, for K batches of B.
        length: T; 1 for transitions.
        weight: [W] float32; the weight of each episode's samples in the loss.
        before: R, rows before each sequence, one at least and one less than the frames of a stack: `Sample.before` as
            `RingRows`. 0 for none.

    Returns:
        The samples, whose trajectories have the carry `()`; see `with_initial_carry`.
    """
    xp: Any = jnp if isinstance(rows.begin, jax.Array) else np
    begin, steps = rows.begin[draws.episode][:, None], rows.length[draws.episode][:, None]
    offset = draws.step[:, None] + xp.arange(-before, length + 1, dtype=rows.begin.dtype)[None, :, None]
    size = rows.columns["reward"].shape[0]
    # A row before the first step is the last one, which has no action, with the first one's observation.
    seen = (begin + xp.clip(offset, 0, steps)) % size
    acted = (begin + xp.where(offset < 0, steps, xp.minimum(offset, steps))) % size
    opening = (begin[:, 0] + xp.where(draws.step > 0, draws.step - 1, steps[:, 0])) % size
    first = (offset <= 0) | (offset > steps)

    def take(group: str, index: Array) -> PyTree:
        return jax.tree.map(lambda column: column[index], from_columns(group, rows.columns))

    groups = ("action", "reward", "discount", "behaviour", "params_version")
    trajectory = Trajectory(
        observation=take("observation", seen[:, before:]),
        first=first[:, before:],
        **{group: take(group, acted[:, before:-1]) for group in groups},
        carry=(),
        opening_reward=rows.columns["reward"][opening],
        env_index=xp.broadcast_to(draws.number, draws.step.shape),
    )
    rows_before: PyTree = ()
    if before:
        rows_before = RingRows(
            observation=take("observation", seen[:, :before]),
            first=first[:, :before],
            **{group: take(group, acted[:, :before]) for group in groups},
        )
    return Sample(trajectory=trajectory, weight=weight[draws.episode], before=rows_before)


def with_initial_carry(sample: Sample, agent: Agent) -> Sample:
    """Returns samples [K, T, B] with the agent's initial carry, as rings keep it: `learn` makes the rest.

    The state of a recurrent core is not recorded, so every sequence starts with that of an episode's start.
    """
    carry = jax.vmap(lambda env_index: agent.keep(agent.initial_carry(env_index)))(sample.trajectory.env_index)
    return dataclasses.replace(sample, trajectory=dataclasses.replace(sample.trajectory, carry=carry))


class WindowRows:
    """The rows of a moving window in host memory, as a ring: an episode that leaves makes room for the next."""

    def __init__(self, data: DataSet, plan: WindowPlan):
        """Takes the memory, and reads nothing yet."""
        self._data, self._plan, self._places = data, plan, range(0)
        self._columns = {
            name: np.empty((plan.rows, *struct.shape), struct.dtype) for name, struct in data.spec.columns.items()
        }
        self._begin, self._head = np.zeros(0, np.int64), 0
        self.episodes = np.zeros(0, np.int64)  # The numbers of the episodes that are held.

    def move(self, places: range, beat: Callable[[], object] = lambda: None) -> None:
        """Reads what these places of the window's order need beside what is held, which must not lie behind them.

        Args:
            places: The places.
            beat: Called after each read.

        Raises:
            DataError: If a shard is damaged.
        """
        if places == self._places:
            return
        if places.start < self._places.start:
            raise ValueError(f"Found {places} behind {self._places}; a window moves on only.")
        kept = range(max(places.start, self._places.start), max(places.start, self._places.stop))
        self._begin = self._begin[kept.start - self._places.start :] if len(kept) else self._begin[:0]
        new = self._plan.episodes(range(kept.stop, places.stop))
        rows = self._data.facts.length[new] + 1
        self._begin = np.concatenate([self._begin, (self._head + np.cumsum(rows) - rows) % self._plan.rows])
        for _, columns in self._data.read(new):
            self._write(columns)
            beat()
        self._places, self.episodes = places, self._plan.episodes(places)

    @property
    def held(self) -> HeldRows:
        """The rows of the episodes of the window."""
        return HeldRows(columns=self._columns, begin=self._begin, length=self._data.facts.length[self.episodes])

    def _write(self, columns: Mapping[str, np.ndarray]) -> None:
        size, num = self._plan.rows, len(columns["reward"])
        to_end = min(num, size - self._head)
        for name, rows in columns.items():
            self._columns[name][self._head : self._head + to_end] = rows[:to_end]
            self._columns[name][: num - to_end] = rows[to_end:]
        self._head = (self._head + num) % size
