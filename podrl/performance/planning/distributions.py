"""How long something takes, as it was measured: samples to draw from, and knobs for slow machines and stragglers."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, Self

import numpy as np
from numpy import typing as npt

from podrl.config.config import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostWork:
    """Something that a host does again and again."""

    samples: tuple[float, ...]  # seconds with nothing else on the host, each as likely as any other
    cores: float = 0.0  # that it keeps busy meanwhile, on average; 0 for what an accelerator or a wire does
    late: tuple[float, float] = (0.0, 1.0)  # With this probability a draw takes so many times as long.

    def __post_init__(self) -> None:
        """Checks ranges."""
        (probability, factor), found = self.late, self._array
        check(len(found) > 0 and bool(np.all(np.isfinite(found)) and found.min() >= 0), "Durations need samples >= 0.")
        check(
            0 <= probability <= 1 and factor >= 1,
            f"Stragglers {probability:g}:{factor:g} must be a probability in [0, 1] and a factor of at least 1.",
        )

    @classmethod
    def of(cls, samples: npt.ArrayLike, cores: float = 0.0) -> Self:
        """What was measured, [N] or a single number of seconds."""
        return cls(samples=tuple(np.atleast_1d(np.asarray(samples, np.float64)).tolist()), cores=cores)

    @property
    def mean(self) -> float:
        """The mean of draws, in seconds."""
        probability, factor = self.late
        return float(self._array.mean()) * (1 + probability * (factor - 1))

    def quantile(self, probability: float) -> float:
        """What at least this part of the samples does not exceed."""
        return float(np.quantile(self._array, probability, method="inverted_cdf"))

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Draws so many independent values, in seconds."""
        probability, factor = self.late
        found = self._array[generator.integers(len(self.samples), size=count)]
        return np.where(generator.random(count) < probability, factor * found, found) if probability else found

    def scaled(self, factor: float) -> "HostWork":
        """The same, taking so many times as long."""
        return dataclasses.replace(self, samples=tuple((factor * self._array).tolist()))

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` made."""
        return cls(samples=tuple(map(float, found["seconds"])), cores=float(found["cores"]))

    def to_json(self) -> dict[str, Any]:
        """For a file, to seven digits."""
        return {"seconds": [float(f"{x:.7g}") for x in self.samples], "cores": self.cores}

    @functools.cached_property
    def _array(self) -> np.ndarray:
        return np.asarray(self.samples)
