"""The section of an agent's config that describes an auxiliary loss of its latents."""

import dataclasses

from podrl.config.ranges import check_values, choice, number
from podrl.mistakes import check, shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuxiliaryConfig:
    """A loss beside the agent's own that asks the network to foresee what it will see, see docs/representations.md.

    The agent's config checks the values, as it knows the section's name.

    Attributes:
        kind: `value` asks that imagined and observed latents have the same action values (VCR), `features` that a
            projection of them is the same (SPR). `none` has no model.
        weight: Weight of the loss; that of the agent's own is 1. With 0 the model is there, and is not learned.
        steps: Actions that a latent is followed along.
        distance: Distance of action values with `kind=value`: `kl` and `ce` compare distributions, `mse` squares the
            difference of their means, in units of the values' running size.
        size_rate: Share of a learner step's values in that running size.
        projection: Entries of the projection with `kind=features`.
    """

    kind: str = choice(("features", "none", "value"), "none")
    weight: float = number(0, 1e6, 1.0)
    steps: int = number(1, 100, 5)
    distance: str = choice(("ce", "kl", "mse"), "kl")
    size_rate: float = number(1e-9, 1, 1e-2)
    projection: int = number(1, 10**5, 128)

    def check(self, prefix: str) -> None:
        """Checks values, and that each key that is set has an effect.

        Args:
            prefix: The prefix of the section's keys, such as `agent.auxiliary.`.

        Raises:
            ConfigError: If not.
        """
        check_values(self, prefix)
        for name, kinds in _KINDS_OF.items():
            value, default = getattr(self, name), _DEFAULTS[name]
            check(
                self.kind in kinds or value == default,
                f"{prefix}{name}={shown(value)} has no effect with {prefix}kind={self.kind!r}; it is for "
                f"{' and '.join(map(repr, kinds))}. Leave {prefix}{name} at {shown(default)}, or choose another kind.",
            )


_KINDS_OF = {
    "weight": ("value", "features"),
    "steps": ("value", "features"),
    "distance": ("value",),
    "size_rate": ("value",),
    "projection": ("features",),
}
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(AuxiliaryConfig)}
