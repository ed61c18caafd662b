"""One pool of an actor thread, and where its unroll stands."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from absl import logging
import jax
import numpy as np

from podrl.envs.source import Pool, check_timestep
from podrl.experience.episodes import EpisodeTracker
from podrl.experience.unroll import ActingState
from podrl.types import Timestep

_KEPT = 16  # Rollouts; more than are ever on their way.


@dataclasses.dataclass(kw_only=True)
class Turn:
    """A pool that takes turns with others.

    Attributes:
        pool: of B environments.
        seeds: [B], of the environments.
        episodes: under way.
        state: of the unroll.
        timestep: waits to be acted on, or (None) the pool is stepping.
    """

    pool: Pool
    seeds: Sequence[int]
    episodes: EpisodeTracker
    state: ActingState
    timestep: Timestep | None

    def receive(self, expected: Timestep) -> tuple[list[tuple[float, int]], str]:
        """Waits for the step under way.

        Args:
            expected: shapes and dtypes of a timestep.

        Returns:
            The (return, length) of the episodes that it shows to have ended, and the first number in it that is not
            finite, in words; empty if all are.

        Raises:
            ValueError: if the pool returns something else.
        """
        self.timestep = timestep = self.pool.recv()
        check_timestep(timestep, expected, self.pool)
        return self.episodes.step(timestep.reward, timestep.discount, timestep.first), self.find_nonfinite()

    def find_nonfinite(self) -> str:
        """The first number in the timestep that is not finite, in words: whose it is; empty if all are."""
        if self.timestep is None:
            return ""
        arrays = {"reward": self.timestep.reward, "observation": self.timestep.observation}
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
            array: Any = leaf
            if (row := first_nonfinite_row(array)) is None:
                continue
            values = np.ravel(array[row])
            value = values[~np.isfinite(values)][0]
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return f"the {name} of environment {row} of the pool (seed {self.seeds[row]}) is {value}"
        return ""


def first_nonfinite_row(array: np.ndarray) -> int | None:
    """The first row of [B, ...] that holds NaN or infinity; None if all numbers are finite, as integers are.

    A sum is finite only if all of its terms are, and takes one look at each.
    """
    if not np.issubdtype(array.dtype, np.inexact):
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(np.sum(array)):
            return None
    rows = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return None if rows.all() else int(np.argmin(rows))


class NonFinite:
    """What the environments of one actor said that is not finite, to explain an update that fails because of it."""

    def __init__(self, who: str) -> None:
        """Nothing yet; `who` is the actor, for messages."""
        self._who = who
        self._found: dict[int, str] = {}  # By rollout: the first of it.

    def note(self, text: str, rollout: int, step: int) -> None:
        """Takes what `Turn.find_nonfinite` says, which may be nothing, and logs it the first time."""
        if not text:
            return
        where = f"{text}, at step {step} of rollout {rollout} of {self._who}"
        if not self._found:
            logging.warning("Not finite: %s. Later ones are not logged.", where)
        self._found.setdefault(rollout, where)
        if len(self._found) > _KEPT:
            del self._found[min(self._found)]

    def of(self, rollout: int) -> str:
        """The first of a rollout, in words; empty if all of it is finite."""
        return self._found.get(rollout, "")
