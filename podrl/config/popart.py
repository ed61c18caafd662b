"""The section of an agent's config that describes the normalisation of its value targets."""

import dataclasses

from podrl.config.ranges import check_values, number
from podrl.mistakes import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class PopArtConfig:
    """PopArt: values are learned in units of their targets' running mean and scale, see `podrl.ops.popart`.

    The agent's config checks the values, as it knows the section's name.

    Attributes:
        enabled: Whether values are normalised.
        rate: Share of an update's targets in the running mean and variance.
        min_scale: The smallest scale.
        max_scale: The largest scale.
    """

    enabled: bool = False
    rate: float = number(1e-9, 1, 1e-4)
    min_scale: float = number(1e-9, 1e9, 1e-2)
    max_scale: float = number(1e-9, 1e9, 1e6)

    def check(self, prefix: str) -> None:
        """Checks values.

        Args:
            prefix: The prefix of the section's keys, such as `agent.popart.`.

        Raises:
            ConfigError: If a value is out of range, or the scale's bounds are in the wrong order.
        """
        check_values(self, prefix)
        check(
            self.min_scale <= self.max_scale,
            f"{prefix}min_scale={self.min_scale:g} is above {prefix}max_scale={self.max_scale:g}. Exchange them.",
        )
