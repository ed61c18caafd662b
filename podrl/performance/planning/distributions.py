"""How long something takes, as it was measured: samples to draw from, with knobs for a slower machine and stragglers.

Many samples are kept as the means of groups of neighbours in their order, with ever smaller groups towards the largest:
the mean is that of the samples, the largest is kept, and so is the tail, on which whoever waits for the last of many
depends.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, Self

import numpy as np

from podrl.config.config import check

_BODY_GROUPS = 80
_TAIL = 0.1  # the part of the samples whose groups shrink
_SHRINK = 0.85  # what each of these groups leaves of the samples above it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Durations:
    """Values, in seconds, and how likely each is.

    Attributes:
        values: ascending.
        weights: of each, positive; they sum to 1.
    """

    values: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks that it is one."""
        check(
            len(self.values) == len(self.weights) > 0,
            f"A distribution has {len(self.values)} values and {len(self.weights)} weights; expected as many, and one "
            "at least.",
        )
        check(
            bool(np.all(np.isfinite(self.values)) and min(self.values) >= 0 and np.all(np.diff(self.values) >= 0)),
            "A distribution's values must be ascending, finite and not negative (seconds).",
        )
        check(
            min(self.weights) > 0 and abs(sum(self.weights) - 1) < 1e-6,
            f"A distribution's weights sum to {sum(self.weights):g}; expected positive numbers that sum to 1.",
        )

    @classmethod
    def constant(cls, value: float) -> Self:
        """Always the same."""
        return cls(values=(float(value),), weights=(1.0,))

    @classmethod
    def of(cls, samples: Sequence[float] | np.ndarray) -> Self:
        """What was measured, as about 150 values at most."""
        ordered = np.sort(np.asarray(samples, dtype=np.float64))
        check(len(ordered) > 0, "There are no samples to make a distribution of.")
        edges = _edges(len(ordered))
        sizes = np.diff(edges)
        means = np.maximum.accumulate(np.add.reduceat(ordered, edges[:-1]) / sizes)  # Rounding may break the order.
        return cls(
            values=tuple(means.tolist()),
            weights=tuple((sizes / len(ordered)).tolist()),
        )

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` made.

        Raises:
            ConfigError: if it is something else.
        """
        check(
            isinstance(found, Mapping) and set(found) == {"values", "weights"},
            f"Found {found!r} where a distribution's values and weights were expected.",
        )
        return cls(values=tuple(map(float, found["values"])), weights=tuple(map(float, found["weights"])))

    def to_json(self) -> dict[str, list[float]]:
        """For a file, to seven digits."""
        return {name: [float(f"{x:.7g}") for x in getattr(self, name)] for name in ("values", "weights")}

    @property
    def mean(self) -> float:
        """In seconds."""
        return float(np.dot(self.values, self.weights))

    @property
    def median(self) -> float:
        """In seconds."""
        return self.quantile(0.5)

    def quantile(self, probability: float) -> float:
        """The smallest value that at least this part of the draws does not exceed."""
        return self.values[int(self._find(np.array([probability]))[0])]

    def draw(self, generator: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
        """Independent values."""
        if len(self.values) == 1:
            return np.full(shape, self.values[0])
        return self._array[self._find(generator.random(shape))]

    def scaled(self, factor: float) -> "Durations":
        """Of something that takes so many times as long."""
        return dataclasses.replace(self, values=tuple(factor * value for value in self.values))

    def with_stragglers(self, probability: float, factor: float) -> "Durations":
        """The same, but that each draw takes `factor` times as long with this probability."""
        check(
            0 <= probability <= 1 and factor >= 1,
            f"Stragglers {probability:g}:{factor:g} must be a probability in [0, 1] and a factor of at least 1.",
        )
        values = np.concatenate([self.values, factor * np.asarray(self.values)])
        weights = np.concatenate([(1 - probability) * np.asarray(self.weights), probability * np.asarray(self.weights)])
        return _ordered(values, weights)

    def stretched(self, factor: float, largest_of: float = 1.0) -> "Durations":
        """The typical value times `factor`, what draws exceed it by as before, and the largest of so many draws.

        So a pool's step scales with its environments and threads: the work of all is divided over threads, but an
        environment that is late is late by as much, and with more environments the latest of more is waited for.
        """
        shifted = np.maximum(np.asarray(self.values) + (factor - 1) * self.median, 0)
        above = np.cumsum(self.weights) ** largest_of
        above[-1] = 1.0
        return _ordered(shifted, np.diff(above, prepend=0.0))

    @functools.cached_property
    def _array(self) -> np.ndarray:
        return np.asarray(self.values)

    @functools.cached_property
    def _cumulative(self) -> np.ndarray:
        """The probability of each value or less, but for the last, which is what is left."""
        return np.cumsum(self.weights)[:-1]

    def _find(self, probabilities: np.ndarray) -> np.ndarray:
        return self._cumulative.searchsorted(probabilities)


def _edges(count: int) -> np.ndarray:
    """Where groups of ordered samples begin, and the end: equal parts of the body, ever smaller ones of the tail."""
    tail = [count - int(_TAIL * count)]
    while count - tail[-1] > 1:
        tail.append(count - max(1, int(_SHRINK * (count - tail[-1]))))
    body = np.linspace(0, tail[0], min(_BODY_GROUPS, tail[0]) + 1).round().astype(int)
    return np.unique(np.concatenate([body, tail, [count]]))


def _ordered(values: np.ndarray, weights: np.ndarray) -> Durations:
    """Without what is too unlikely to be drawn at all."""
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    likely = weights > 1e-15
    weights = weights[likely] / weights[likely].sum()
    return Durations(values=tuple(values[likely].tolist()), weights=tuple(weights.tolist()))
