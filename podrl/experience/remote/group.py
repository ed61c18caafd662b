"""A group of environments that step together in one worker, as an actor serves it."""

from collections.abc import Sequence
import dataclasses

import jax
import numpy as np

from podrl.experience.episodes import EpisodeTracker
from podrl.experience.remote.pool import RemotePool
from podrl.experience.remote.slots import Places
from podrl.experience.remote.unroll_queue import GroupUnroll
from podrl.experience.turn import find_nonfinite
from podrl.runtime.waiting import Patience
from podrl.types import Timestep

_OUTSIDE = np.iinfo(np.int32).max  # A place of no array.


@dataclasses.dataclass(kw_only=True)
class Group:
    """A group of `B` environments.

    Attributes:
        number: its number among the actor's.
        env_index: [B] uint32; the environments' indices in the job.
        opened: how often it was opened.
        pool: the environments in their worker; None while they have none.
        seeds: [B]; of the newest opening.
        patience: the time left for the answer that is awaited; None if none is.
        has_answer: whether it has come.
        timestep: the timestep that was not yet acted on.
        unroll: the unroll under way.
        row: the row of it that comes next.
        episodes: the episodes under way.
        nonfinite: see `GroupUnroll`; of the unroll under way, or of the next one.
    """

    number: int
    env_index: np.ndarray
    opened: int = 0
    pool: RemotePool | None = None
    seeds: Sequence[int] = ()
    patience: Patience | None = None
    has_answer: bool = False
    timestep: Timestep | None = None
    unroll: GroupUnroll | None = None
    row: int = 0
    episodes: EpisodeTracker = dataclasses.field(default_factory=lambda: EpisodeTracker(0))
    nonfinite: tuple[str, int] = ("", 0)

    @property
    def size(self) -> int:
        """B, the number of environments."""
        return len(self.env_index)

    @property
    def slot(self) -> np.ndarray:
        """[B] int32; where the environments' carries lie."""
        return self._range(self.number)

    def column(self, unroll: GroupUnroll) -> np.ndarray:
        """Returns [B] int32, where a group's unroll is written."""
        return self._range(unroll.buffer)

    def begin(self, pool: RemotePool, seeds: Sequence[int]) -> None:
        """Takes over environments that are about to be made."""
        self.pool, self.seeds, self.opened = pool, seeds, self.opened + 1
        self.episodes = EpisodeTracker(self.size)
        self.await_answer(pool.opening_s)

    def await_answer(self, timeout_s: float) -> None:
        """Starts the clock of an answer; the timestep was acted on."""
        self.timestep, self.has_answer, self.patience = None, False, Patience(timeout_s)

    def note_answer(self, opening: int) -> None:
        """Notes that the answer has come to what was asked of an opening; one of an earlier opening is too late."""
        if opening == self.opened:
            self.has_answer = True

    def take(self, timestep: Timestep) -> None:
        """Takes the timestep that was awaited."""
        self.timestep, self.patience = timestep, None
        if not self.nonfinite[0]:
            self.nonfinite = find_nonfinite(timestep, self.seeds), 0 if self.unroll is None else self.row

    def finish(self) -> None:
        """Completes the unroll under way."""
        if self.unroll is not None:
            self.unroll.nonfinite = self.nonfinite
        self.unroll, self.nonfinite = None, ("", 0)

    def end(self) -> None:
        """Forgets the environments and all that is under way in them."""
        if self.pool is not None:
            self.pool.close()
        self.finish()
        self.pool, self.patience, self.timestep = None, None, None

    def places(self, first: int) -> np.ndarray:
        """Returns [5, B] int32: the `Places` where acting finds the environments' state; an unroll is under way.

        Args:
            first: the unrolls of earlier starts of the run.
        """
        if self.unroll is None:
            raise RuntimeError(f"Group {self.number} has no unroll under way.")
        own = Places(self.env_index, self.slot, self.column(self.unroll), self.row, first + self.unroll.number)
        places = np.empty((len(own), self.size), np.int32)
        for entries, entry in zip(places, own, strict=True):
            entries[:] = entry
        return places

    def _range(self, position: int) -> np.ndarray:
        return np.arange(self.size, dtype=np.int32) + np.int32(position * self.size)


def join_groups(groups: Sequence[Group], first: int, size: int) -> tuple[Timestep, np.ndarray]:
    """Returns the timesteps and places of several groups, padded to `size` environments; see `Group.places`."""
    padding = size - sum(group.size for group in groups)

    def join(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate([*arrays, np.zeros((padding, *arrays[0].shape[1:]), arrays[0].dtype)])

    nowhere = np.asarray(Places(0, _OUTSIDE, _OUTSIDE, 0, 0), np.int32)[:, None].repeat(padding, axis=1)
    places = np.concatenate([*(group.places(first) for group in groups), nowhere], axis=1)
    return jax.tree.map(join, *(group.timestep for group in groups)), places
