"""How long something takes, as it was measured: samples to draw from, and knobs for slow machines and stragglers."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, Self

import numpy as np

from podrl.config.config import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Durations:
    """Seconds, each sample as likely as any other."""

    samples: tuple[float, ...]
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
    def of(cls, samples: Sequence[float] | np.ndarray) -> Self:
        """What was measured."""
        return cls(samples=tuple(np.asarray(samples, np.float64).tolist()))

    @property
    def mean(self) -> float:
        """The mean of draws, in seconds."""
        probability, factor = self.late
        return float(self._array.mean()) * (1 + probability * (factor - 1))

    def quantile(self, probability: float) -> float:
        """What at least this part of the samples does not exceed."""
        return float(np.quantile(self._array, probability, method="inverted_cdf"))

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Draws so many independent values."""
        probability, factor = self.late
        found = self._array[generator.integers(len(self.samples), size=count)]
        return np.where(generator.random(count) < probability, factor * found, found) if probability else found

    def scaled(self, factor: float) -> "Durations":
        """The same, taking so many times as long."""
        return dataclasses.replace(self, samples=tuple((factor * self._array).tolist()))

    @functools.cached_property
    def _array(self) -> np.ndarray:
        return np.asarray(self.samples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostWork:
    """Something that a host does again and again."""

    seconds: Durations  # with nothing else on the host
    cores: float = 0.0  # that it keeps busy meanwhile, on average; 0 for what an accelerator or a wire does

    @classmethod
    def constant(cls, seconds: float, cores: float = 0.0) -> Self:
        """Takes always the same time."""
        return cls(seconds=Durations.of([seconds]), cores=cores)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` made."""
        return cls(seconds=Durations(samples=tuple(map(float, found["seconds"]))), cores=float(found["cores"]))

    def to_json(self) -> dict[str, Any]:
        """For a file, to seven digits."""
        return {"seconds": [float(f"{x:.7g}") for x in self.seconds.samples], "cores": self.cores}

    def scaled(self, factor: float) -> "HostWork":
        """The same, taking so many times as long."""
        return dataclasses.replace(self, seconds=self.seconds.scaled(factor))
