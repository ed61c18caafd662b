"""The section of an agent's config that says how images are augmented before the agent learns from them."""

import dataclasses

from podrl.config.ranges import check_values, number, texts
from podrl.mistakes import check, check_one_of, shown

KINDS = ("shift", "cutout", "intensity", "noise")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of images; an agent that augments has a section of this kind (`podrl.ops.augment`).

    The agent's config calls `check`, as it knows the section's name.

    Attributes:
        kinds: Kinds of augmentation in their order, of `shift`, `cutout`, `intensity` and `noise`; empty for none.
            Vectors stay as they are.
        shift: For `shift`: the largest shift in pixels, with the border repeated.
        cutout: For `cutout`: the side in pixels of the square that is filled with zeros.
        intensity: For `intensity`: the standard deviation of the factor around 1 that an image is multiplied by.
        noise: For `noise`: the standard deviation of what is added to every pixel, in units of white.
    """

    kinds: tuple[str, ...] = texts(len(KINDS), ("shift",), length=20)
    shift: int = number(1, 64, 4)
    cutout: int = number(1, 1024, 16)
    intensity: float = number(1e-6, 0.5, 0.05)
    noise: float = number(1e-6, 1, 0.05)

    def check(self, prefix: str) -> None:
        """Checks the values, that there is such a kind, once, and that each strength is that of a kind.

        Args:
            prefix: The section's name and a dot, such as `agent.augment.`.

        Raises:
            ConfigError: If not.
        """
        check_values(self, prefix)
        for index, kind in enumerate(self.kinds):
            check_one_of(f"{prefix}kinds[{index}]", kind, KINDS)
        check(
            len(set(self.kinds)) == len(self.kinds),
            f"{prefix}kinds={shown(self.kinds)} has a kind twice; expected each once. Leave one out.",
        )
        for name in KINDS:
            value, default = getattr(self, name), _DEFAULTS[name]
            check(
                name in self.kinds or value == default,
                f"{prefix}{name}={shown(value)} has no effect, as {prefix}kinds={shown(self.kinds)} lacks {name!r}. "
                f"Add it there, or leave {prefix}{name} at {shown(default)}.",
            )


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(AugmentConfig)}
