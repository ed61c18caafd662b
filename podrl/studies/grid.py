"""Which points a study has: the product of its axes, for weak and for strong scaling. Pure, and without JAX."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import hashlib
import itertools
import re
from typing import Any

from podrl.config.config import check

SCALINGS = ("weak", "strong")
NUM_ENVS = "actors.num_envs"
SPLIT = ("topology.actor_devices_per_process", "topology.learner_devices_per_process")
_LONGEST_NAME = 150  # of a folder; file systems take 255
_OPENING, _CLOSING = "([{", ")]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """Config keys that take values together.

    Attributes:
        keys: dotted.
        values: one tuple for each place on the axis, with a value for each key.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machines:
    """What a point runs on.

    Attributes:
        processes: in the job.
        devices_per_process: of each.
        slice_type: of a TPU; None elsewhere.
    """

    processes: int
    devices_per_process: int
    slice_type: str | None = None

    @property
    def devices(self) -> int:
        """In the whole job."""
        return self.processes * self.devices_per_process


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One place of the grid, which is run once with each seed.

    Attributes:
        scaling: `weak`, environments grow with the learner's devices, or `strong`, they stay.
        machines: that it runs on.
        settings: values of the axes' keys, as text.
        num_envs: environments in the whole job.
    """

    scaling: str
    machines: Machines
    settings: Mapping[str, str]
    num_envs: int

    @property
    def series(self) -> str:
        """What tells it apart beside its devices: `actors.num_envs=16, network.width=2`; empty without axes."""
        return ", ".join(f"{key}={value}" for key, value in self.settings.items())

    @property
    def name(self) -> str:
        """For people, and for the point's folder."""
        machines = f"{self.machines.processes}x{self.machines.devices_per_process}"
        parts = [self.scaling, machines, *(f"{key}={value}" for key, value in self.settings.items())]
        if self.machines.slice_type is not None:
            parts.insert(1, self.machines.slice_type)
        name = re.sub(r"[^\w.=,+-]", "_", "-".join(parts))
        if len(name) <= _LONGEST_NAME:
            return name
        return f"{name[: _LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A point with a seed: one run."""

    point: Point
    seed: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.point.name}, seed {self.seed}"


def make_axis(text: str) -> Axis:
    """An axis from `KEY=V1,V2`, or of keys that change together from `KEY:KEY=V1:W1,V2:W2`.

    Commas within brackets are a value's own, as in `network.hidden_sizes=(64,64),(256,256)`.

    Raises:
        ConfigError: if it is not written so.
    """
    name, is_set, listed = text.partition("=")
    keys = tuple(name.split(":"))
    choices = split_list(listed)
    check(
        bool(is_set) and all(keys) and all(choices),
        f"--axis {text} must be KEY=VALUE,VALUE, such as --axis actors.num_envs=16,32, or KEY:KEY=V:V,V:V.",
    )
    values = tuple(tuple(choice.split(":")) if len(keys) > 1 else (choice,) for choice in choices)
    for choice, parts in zip(choices, values, strict=True):
        check(
            len(parts) == len(keys),
            f"--axis {name}: {choice!r} has {len(parts)} value(s) for {len(keys)} keys. Separate them by colons.",
        )
    check(len(set(values)) == len(values), f"--axis {text} names a value twice. Give each once.")
    return Axis(keys=keys, values=values)


def split_list(text: str) -> list[str]:
    """The parts of `a,b,(c,d)`: commas within brackets do not separate."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def combinations(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    """Values of all axes' keys, for every combination; a single empty one without axes.

    Raises:
        ConfigError: if two axes have a key in common.
    """
    keys = [key for axis in axes for key in axis.keys]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    check(not twice, f"--axis: {', '.join(twice)} is on two axes. Give each key once.")
    for chosen in itertools.product(*(axis.values for axis in axes)):
        yield {
            key: value
            for axis, values in zip(axes, chosen, strict=True)
            for key, value in zip(axis.keys, values, strict=True)
        }


def weak_num_envs(base: int, learners: int, least: int) -> int:
    """Environments for so many learner devices, where `least` of them have `base`.

    Raises:
        ConfigError: if that is no whole number.
    """
    check(
        base * learners % least == 0,
        f"{NUM_ENVS}={base} on {least} learner devices is no whole number of environments on {learners}, as weak "
        f"scaling has it. Use a multiple of {least}.",
    )
    return base * learners // least


def to_fields(point: Point) -> dict[str, Any]:
    """The point as plain values, ready for JSON."""
    return {"name": point.name, **dataclasses.asdict(point)}
