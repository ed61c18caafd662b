"""The values that config keys may have: one table, from which checks, error messages and docs/config.md are made.

The table is spread over the dataclasses of the sections and of the agents: each field's metadata says what it takes
(`number`, `numbers`, `choice`, `text`, `texts`), and `check_values` checks a section against it. `check_flag` checks
numeric flags of tools against a `Range`.

Bounds say what makes sense, not what is wise: everything within them can be computed with, so numbers other than 0 are
at least `LEAST` away from it. `SIZE` bounds what memory limits in practice, which `podrl.learning.memory_check`
estimates.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from podrl.config.wrappers import parse_wrapper
from podrl.mistakes import ConfigError, check_one_of, shown

SIZE = 2**31
LONGEST_S = 1e6  # Eleven days.
LEAST = 1e-20  # A smaller number, except zero, is zero in float32 or soon becomes it.
_KEY = "values"  # In the metadata of a field.


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`.

    Attributes:
        least: the smallest number.
        most: the largest number.
        open: whether `most` itself is excluded.
    """

    least: float
    most: float
    open: bool = False

    def describe(self) -> str:
        """Returns the range as people write it: `[0, 1)`."""
        return f"[{_written(self.least)}, {_written(self.most)}{')' if self.open else ']'}"

    def holds(self, value: Any) -> bool:
        """Returns whether `value` is a number within the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        within = self.least <= value < self.most if self.open else self.least <= value <= self.most
        return within and (value == 0 or abs(value) >= LEAST)

    def check(self, key: str, value: Any) -> None:
        """Raises `ConfigError` unless `value` is a number within the range."""
        if not self.holds(value):
            tiny = isinstance(value, float) and self.least == 0 and 0 < value < LEAST
            hint = f", and be 0 or at least {LEAST:g}" if tiny else ""
            raise ConfigError(f"{key}={shown(value)} must lie in {self.describe()}{hint}.")


@dataclasses.dataclass(frozen=True)
class Choices:
    """One word of several.

    Attributes:
        names: all words.
        or_own: whether a class of the user's own is allowed too, as `module:Name`.
    """

    names: tuple[str, ...]
    or_own: bool = False

    def describe(self) -> str:
        """Returns the words as documentation lists them: `lstm`, `none`."""
        words = ", ".join(f"`{name}`" for name in self.names)
        return f"{words}, or `module:Name`" if self.or_own else words

    def check(self, key: str, value: Any) -> None:
        """Raises `ConfigError`, which lists the words, unless `value` is one of them."""
        if self.or_own and isinstance(value, str) and ":" in value:
            parse_wrapper(key, value, like="my_package.my_module:MyEncoder")
            return
        check_one_of(key, value, self.names, " One of your own is 'my_module:Name'." if self.or_own else "")


@dataclasses.dataclass(frozen=True)
class Text:
    """Printable text that is not empty.

    Attributes:
        longest: largest number of characters.
        refused: characters that it must not contain.
        or_empty: whether it may be empty.
    """

    longest: int
    refused: str = ""
    or_empty: bool = False

    def describe(self) -> str:
        """Returns a description such as `1 to 100 printable characters`."""
        rest = f", none of {' '.join(self.refused)}" if self.refused else ""
        return f"{'empty, or ' if self.or_empty else ''}1 to {self.longest} printable characters{rest}"

    def check(self, key: str, value: Any) -> None:
        """Raises `ConfigError` unless `value` is such a text."""
        if self.or_empty and value == "":
            return
        fits = isinstance(value, str) and 0 < len(value) <= self.longest and value.isprintable() and value.strip()
        if not fits or set(value) & set(self.refused):
            raise ConfigError(f"{key}={shown(value)} must be text of {self.describe()}.")


@dataclasses.dataclass(frozen=True)
class Each:
    """A list whose items are alike.

    Attributes:
        item: the values that each item takes.
        longest: largest number of items.
    """

    item: Range | Text
    longest: int

    def describe(self) -> str:
        """Returns a description such as `up to 100, each [0, 1]`."""
        return f"up to {self.longest:,}, each {self.item.describe()}"

    def check(self, key: str, value: Any) -> None:
        """Raises `ConfigError`, which names the wrong item, unless `value` is such a list."""
        if not isinstance(value, list | tuple) or len(value) > self.longest:
            found = f"has {len(value):,} items" if isinstance(value, list | tuple) else f"{key}={shown(value)}"
            raise ConfigError(f"{key}: {found}; expected a list of at most {self.longest:,}.")
        for index, item in enumerate(value):
            self.item.check(f"{key}[{index}]", item)


Values = Range | Choices | Text | Each


# Options of environments (`env.options`) with the same meaning in several sources.
OPTIONS: Mapping[str, Range] = {
    "frame_skip": Range(1, 1000),
    "img_height": Range(1, 4096),
    "img_width": Range(1, 4096),
    "max_episode_frames": Range(1, SIZE, open=True),
    "noop_max": Range(1, 10_000),
    "repeat_action_probability": Range(0, 1),
}


def number(least: float, most: float, default: Any = dataclasses.MISSING, *, open: bool = False) -> Any:
    """Returns a dataclass field that takes numbers of a `Range`."""
    return _field(default, Range(least, most, open))


def numbers(least: float, most: float, default: Sequence[float], *, longest: int) -> Any:
    """Returns a dataclass field that takes a list of numbers of a `Range`."""
    return _field(default, Each(Range(least, most), longest))


def choice(names: Sequence[str], default: str, *, or_own: bool = False) -> Any:
    """Returns a dataclass field that takes one of the words; with `or_own` also a class of the user's own."""
    return _field(default, Choices(tuple(names), or_own))


def text(longest: int, default: Any = dataclasses.MISSING, *, refused: str = "", or_empty: bool = False) -> Any:
    """Returns a dataclass field that takes a `Text`."""
    return _field(default, Text(longest, refused, or_empty))


def texts(longest: int, default: Sequence[str], *, length: int) -> Any:
    """Returns a dataclass field that takes a list of at most `longest` texts, each of at most `length` characters."""
    return _field(default, Each(Text(length), longest))


def values_of(field: dataclasses.Field) -> Values | None:
    """Returns what a field takes; None for a switch, a section, or what other code checks."""
    return field.metadata.get(_KEY)


def check_values(section: Any, prefix: str) -> None:
    """Checks a section's values against the table.

    Args:
        section: a dataclass, just made.
        prefix: prefix of its keys, such as `actors.`; empty for the whole config.

    Raises:
        ConfigError: on the first value that its field does not take; the message says what it takes.
    """
    for field in dataclasses.fields(section):
        values = values_of(field)
        if values is not None:
            values.check(f"{prefix}{field.name}", getattr(section, field.name))


def check_flag(flag: str, value: float | None, least: float, most: float, *, open: bool = False) -> None:
    """Raises `ConfigError` unless a flag's number lies within a `Range`; None, an absent flag, passes."""
    if value is not None:
        Range(least, most, open).check(f"--{flag}", value)


def check_option(name: str, value: Any) -> None:
    """Raises `ConfigError` if an option of an environment has a `Range` and lies outside it."""
    if name in OPTIONS:
        OPTIONS[name].check(f"env.options.{name}", value)


def _field(default: Any, values: Values) -> Any:
    return dataclasses.field(default=default, metadata={_KEY: values})


def _written(bound: float) -> str:
    """Returns a bound as people write it: `100`, `2**31`, `1e15`, `0.001`."""
    power = int(bound).bit_length() - 1
    if bound > 10**6 and bound == 2**power:
        return f"2**{power}"
    return f"{bound:g}".replace("e+", "e").replace("e0", "e").replace("e-0", "e-")
