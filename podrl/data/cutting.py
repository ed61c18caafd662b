"""Cuts rollouts into episodes, as they come from actors.

Rollouts of an environment follow each other: the last row of one is the first row of the next. Where it is not, its
environments were opened anew, and the episode that was in progress is left out. One that was terminated by then is
whole. A truncation shows only in the row behind it.
"""

from collections.abc import Callable, Iterator
import itertools
import operator
from typing import Any

import jax
import numpy as np

from podrl.data.recorded import RecordedEpisode
from podrl.types import PyTree, Trajectory

_STEPS = ("action", "reward", "discount", "behaviour", "params_version")


class EpisodeCutter:
    """The episodes in progress of the environments of a process."""

    def __init__(self) -> None:
        """Knows no environment."""
        self._streams: dict[int, _Stream] = {}
        self._seed_of: Callable[[int], int] = lambda env: -1

    def reopen(self, seed_of: Callable[[int], int]) -> None:
        """Takes note that all environments were opened anew.

        Args:
            seed_of: (index of an environment in the job) -> its seed, -1 if it is not known.
        """
        self._streams, self._seed_of = {}, seed_of

    def cut(self, rollout: Trajectory) -> Iterator[RecordedEpisode]:
        """Yields the whole episodes that end in a rollout, environment by environment.

        Args:
            rollout: [T, B] numpy arrays; episodes have copies of their rows.
        """
        for column, index in enumerate(rollout.env_index):
            env = int(index)
            if env not in self._streams:
                self._streams[env] = _Stream(self._seed_of(env))
            own = rollout.map(operator.itemgetter((slice(None), column)), lambda leaf: ())
            yield from self._streams[env].extend(own)


class _Stream:
    """What one environment did, from the start of its newest episode."""

    def __init__(self, seed: int):
        self._seed, self._number, self._is_open = seed, 0, False
        self._rows: list[tuple[PyTree, dict[str, PyTree]]] = []  # Observations, and what was done about them.
        self._last: tuple[Any, PyTree] | None = None  # `first` and the observation that the next rollout begins with.

    def extend(self, rollout: Trajectory) -> Iterator[RecordedEpisode]:
        """Yields the episodes that end in a rollout [T] of this environment."""
        if self._last is not None and not _equal(self._last, (rollout.first[0], _take(rollout.observation, 0))):
            self._drop()
        length = len(rollout.reward)
        begins = [0, *(1 + np.flatnonzero(rollout.first[1:length])), length]
        for begin, end in itertools.pairwise(begins):
            if rollout.first[begin]:
                self._drop()
                self._is_open = True
            if self._is_open:
                rows = slice(begin, end)
                self._rows.append(
                    (_copy(rollout.observation, rows), {n: _copy(getattr(rollout, n), rows) for n in _STEPS})
                )
            if (
                self._is_open and rollout.first[end]
            ):  # The last row only led to the reset: its observation is the final one.
                yield self._end(last=None)
        if self._is_open and rollout.discount[-1] == 0:
            yield self._end(last=_copy(rollout.observation, slice(length, length + 1)))
        self._last = (rollout.first[length], jax.tree.map(np.array, _take(rollout.observation, length)))

    def _end(self, last: PyTree | None) -> RecordedEpisode:
        """Returns the episode, whose final observation is `last` [1, ...] or that of its last row."""
        observations, steps = zip(*self._rows, strict=True)
        observation = _join(*observations, *(() if last is None else (last,)))
        done = {name: _join(*(each[name] for each in steps)) for name in _STEPS}
        if last is None:
            done = {name: _take(x, slice(-1)) for name, x in done.items()}
        number, self._number, self._is_open = self._number, self._number + 1, False
        self._rows = []
        return RecordedEpisode(observation=observation, **done, seed=self._seed, number=number)

    def _drop(self) -> None:
        """Forgets an episode in progress."""
        self._rows, self._is_open = [], False


def _take(tree: PyTree, rows: Any) -> PyTree:
    return jax.tree.map(lambda x: x[rows], tree)


def _copy(tree: PyTree, rows: slice) -> PyTree:
    """Returns rows of arrays that are then let go."""
    return jax.tree.map(lambda x: np.array(x[rows]), tree)


def _join(*trees: PyTree) -> PyTree:
    return jax.tree.map(lambda *rows: np.concatenate(rows), *trees)


def _equal(before: PyTree, now: PyTree) -> bool:
    return all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(before), jax.tree.leaves(now), strict=True))
