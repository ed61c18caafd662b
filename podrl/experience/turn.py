"""One environment pool of an actor thread and the state of its unroll."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from absl import logging
import jax
import numpy as np

from podrl.envs.info import Numbers
from podrl.envs.pools.checks import check_timestep
from podrl.envs.source import Pool
from podrl.experience.episodes import Episode, EpisodeTracker
from podrl.experience.unroll import ActingState
from podrl.types import Timestep

_KEPT = 16  # Rollouts, beside those that wait for the learner: more than it has taken when it sees an update fail.


@dataclasses.dataclass(kw_only=True)
class Turn:
    """One of the pools that an actor thread alternates between.

    Attributes:
        pool: The pool of B environments.
        seeds: [B] seeds of the environments.
        episodes: The episodes under way.
        ended_numbers: Returns the numbers of `info` of the episodes that ended with the newest timestep.
        state: The acting state of the unroll.
        timestep: The newest timestep, not yet acted on; None while the pool is stepping.
    """

    pool: Pool
    seeds: Sequence[int]
    episodes: EpisodeTracker
    ended_numbers: Callable[[], Numbers]
    state: ActingState
    timestep: Timestep | None

    def receive(self, expected: Timestep) -> tuple[list[Episode], str]:
        """Waits for the timestep of the step under way.

        Args:
            expected: Shapes and dtypes of a timestep.

        Returns:
            The episodes that ended, and a description of the first value that is not finite, empty
            if all are.

        Raises:
            ValueError: If the timestep has other shapes or dtypes.
        """
        self.timestep = timestep = self.pool.recv()
        check_timestep(timestep, expected, self.pool)
        numbers = self.ended_numbers()
        return self.episodes.step(timestep.reward, timestep.discount, timestep.first, numbers), self.find_nonfinite()

    def find_nonfinite(self) -> str:
        """Describes the first value in the timestep that is not finite, and its environment; empty if all are."""
        return "" if self.timestep is None else find_nonfinite(self.timestep, self.seeds)


def find_nonfinite(timestep: Timestep, seeds: Sequence[int]) -> str:
    """Describes the first value in a timestep of [B] that is not finite, and its environment; empty if all are.

    Args:
        timestep: The timestep.
        seeds: [B] seeds of the environments.
    """
    arrays = {"reward": timestep.reward, "observation": timestep.observation}
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        array: Any = leaf
        if (row := first_nonfinite_row(array)) is None:
            continue
        values = np.ravel(array[row])
        value = values[~np.isfinite(values)][0]
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return f"the {name} of environment {row} of the pool (seed {seeds[row]}) is {value}"
    return ""


def first_nonfinite_row(array: np.ndarray) -> int | None:
    """Returns the first row of [B, ...] that holds NaN or infinity; None if all values are finite, as integers are.

    It first sums the array, in one cheap pass: the sum is finite only if all of its terms are.
    """
    if not np.issubdtype(array.dtype, np.inexact):
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(np.sum(array)):
            return None
    rows = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return None if rows.all() else int(np.argmin(rows))


class NonFinite:
    """Records the values from one actor's environments that are not finite, to explain an update that fails on them."""

    def __init__(self, who: str, waiting: int) -> None:
        """Creates an empty record.

        Args:
            who: The actor's name, for messages.
            waiting: How many rollouts may wait for the learner.
        """
        self._who, self._kept = who, _KEPT + waiting
        self._found: dict[int, str] = {}  # The first value of each rollout.

    def note(self, text: str, rollout: int, step: int) -> None:
        """Records a description from `Turn.find_nonfinite`, if it is not empty, and logs the first one."""
        if not text:
            return
        where = f"{text}, at step {step} of rollout {rollout} of {self._who}"
        if not self._found:
            logging.warning("Not finite: %s. Later ones are not logged.", where)
        self._found.setdefault(rollout, where)
        if len(self._found) > self._kept:
            del self._found[min(self._found)]

    def of(self, rollout: int) -> str:
        """Returns the description of a rollout's first value that is not finite; empty if all are."""
        return self._found.get(rollout, "")
