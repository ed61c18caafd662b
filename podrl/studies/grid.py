"""What a study measures: the product of its axes, for weak and for strong scaling. Pure, and without JAX."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import itertools
import re
from typing import Any

from podrl.config.config import Config, check
from podrl.config.renamed import RENAMED, earlier_settings, new_setting

SCALINGS = ("weak", "strong")
PLACES = ("local", "slurm", "tpu")
NUM_ENVS = "actors.num_envs"
GAME = "env.id"  # The axis of a suite.
SPLIT = ("topology.actor_devices_per_process", "topology.learner_devices_per_process")
_LONGEST_NAME = 150  # of a folder; file systems take 255
_OPENING, _CLOSING = "([{", ")]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """Config keys that take values together, one tuple of values for each place on the axis."""

    keys: tuple[str, ...]  # dotted
    values: tuple[tuple[str, ...], ...]  # one tuple for each place on the axis, with a value for each key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machines:
    """What a point runs on."""

    processes: int  # in the job
    devices_per_process: int  # of each
    slice_type: str | None = None  # of a TPU; None elsewhere

    @property
    def devices(self) -> int:
        """In the whole job."""
        return self.processes * self.devices_per_process

    @property
    def size(self) -> str:
        """`2x4`: two processes of four devices each."""
        return f"{self.processes}x{self.devices_per_process}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One place of the grid that can be run, which is done once with each seed."""

    scaling: str  # `weak`, environments grow with the learner's devices, or `strong`, they stay; empty in suites
    machines: Machines  # that it runs on
    settings: Mapping[str, str]  # values of the axes' keys, as text
    num_envs: int  # environments in the whole job
    config: Config  # of its runs, except the seed
    actor_devices: int  # in the whole job
    learner_devices: int  # in the whole job

    @property
    def series(self) -> str:
        """What tells it apart beside its devices: `actors.num_envs=16, network.width=2`; empty without axes."""
        return ", ".join(f"{key}={value}" for key, value in self.settings.items())

    @property
    def name(self) -> str:
        """For the point's folder, and for people in a scaling study."""
        return point_name(self.scaling, self.machines, self.settings)

    @property
    def title(self) -> str:
        """For people: in a suite the game."""
        return self.name if self.scaling else self.settings.get(GAME, self.name)

    @property
    def names(self) -> list[str]:
        """Today's name of the point's folder, and those by its keys' earlier names if any of them had others."""
        is_free = self.config.determinism == "free"
        known = [earlier_settings(key, value, is_free=is_free) for key, value in self.settings.items()]
        earlier = itertools.product(*known)
        return list(
            dict.fromkeys([self.name, *(point_name(self.scaling, self.machines, dict(each)) for each in earlier)])
        )


def point_name(scaling: str, machines: Machines, settings: Mapping[str, str]) -> str:
    """The name of a place of the grid, fit for a folder."""
    parts = [scaling, machines.slice_type, machines.size, *(f"{key}={value}" for key, value in settings.items())]
    name = re.sub(r"[^\w.=,+-]", "_", "-".join(filter(None, parts)))
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A point with a seed, or with consecutive seeds that one program trains at once: one run."""

    point: Point
    seed: int  # the first
    num_seeds: int = 1

    @property
    def seeds(self) -> range:
        """All of its seeds."""
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def name(self) -> str:
        """For people."""
        several = f"seeds {self.seed} to {self.seeds[-1]}"
        return f"{self.point.title}, {several if self.num_seeds > 1 else f'seed {self.seed}'}"

    @property
    def folders(self) -> list[str]:
        """Where it goes below the study's folder, and where an earlier podrl put it if keys had other names then."""
        leaf = f"seeds-{self.seed}-{self.seeds[-1]}" if self.num_seeds > 1 else f"seed-{self.seed}"
        return [f"points/{name}/{leaf}" for name in self.point.names]


def make_axis(text: str) -> Axis:
    """An axis from `KEY=V1,V2`, or of keys that change together from `KEY:KEY=V1:W1,V2:W2`.

    Commas within brackets are a value's own, as in `network.hidden_sizes=(64,64),(256,256)`.
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
    """Values of all axes' keys, for every combination; a single empty one without axes."""
    keys = [key for axis in axes for key in axis.keys]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    check(not twice, f"--axis: {', '.join(twice)} is on two axes. Give each key once.")
    for chosen in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip(keys, itertools.chain.from_iterable(chosen), strict=True))


def weak_num_envs(base: int, learners: int, least: int) -> int:
    """Environments for so many learner devices, where `least` of them have `base`."""
    check(
        base * learners % least == 0,
        f"{NUM_ENVS}={base} on {least} learner devices is no whole number of environments on {learners}, as weak "
        f"scaling has it. Use a multiple of {least}.",
    )
    return base * learners // least


@dataclasses.dataclass(frozen=True, kw_only=True)
class Definition:
    """A study, as plain values."""

    config: str  # file
    overrides: Mapping[str, str]  # of the config, by dotted key, for all points
    machines: tuple[Machines, ...]  # that are compared
    axes: tuple[Axis, ...]  # of config keys
    scaling: tuple[str, ...]  # `weak`, `strong` or both; empty text in suites
    seeds: tuple[int, ...]  # each point is run with each of them
    steps: int | None  # env steps of each run; None for the config's own
    seconds: float | None  # of training after which a run is ended, warm-up not counted; None for no such limit
    place: str  # where runs are launched: `local`, `slurm` or `tpu`
    device: str  # what devices are on SLURM's nodes: `gpu` or `cpu`
    flags: Mapping[str, str]  # of the launcher for that place, as text; a switch has an empty one
    score: str | None = None  # what a suite's runs are scored by, `evaluation` or `training`; None for scaling studies
    together: bool = False  # whether one program trains all seeds of a point at once


def definition_from_fields(fields: Mapping[str, Any]) -> Definition:
    """The study of a manifest, which `dataclasses.asdict` made."""
    axes = [Axis(keys=tuple(each["keys"]), values=tuple(map(tuple, each["values"]))) for each in fields["axes"]]
    tuples = {name: tuple(fields[name]) for name in ("scaling", "seeds")}
    machines = tuple(Machines(**each) for each in fields["machines"])
    return Definition(**{**fields, **tuples, "machines": machines, "axes": tuple(axes)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manner:
    """How a study is conducted, which does not change what it measures."""

    skip_invalid: bool = False  # leave points out that cannot be run
    retry_failed: bool = False  # try runs that failed again
    accept_changes: bool = False  # resume a study whose grid was another
    silence_s: float = 1800.0  # how long a run may say nothing
    at_once: int = 0  # tasks of a SLURM array that may run at the same time; 0 for no limit
    table: str = "csv"  # format of the tables


def with_new_keys(fields: Mapping[str, Any], *, is_free: bool = False) -> dict[str, Any]:
    """A manifest's definition that an earlier podrl may have written, with today's names of the config's keys.

    `is_free` says that its config has `determinism='free'`. Raises ConfigError if an axis was over what would be one
    key for some of its values and another for others: whether free runs act with the newest parameters.
    """
    renew = functools.partial(new_setting, is_free=is_free)
    # What was renamed comes last: some values of it say that another key is not heeded.
    given = sorted(fields["overrides"].items(), key=lambda pair: pair[0] in RENAMED)
    overrides = dict(renew(key, value) for key, value in given)
    axes = []
    for axis in fields["axes"]:
        places = [[renew(*pair) for pair in zip(axis["keys"], values, strict=True)] for values in axis["values"]]
        keys = [key for key, _ in places[0]]
        check(
            all([key for key, _ in place] == keys for place in places),
            f"--axis {':'.join(axis['keys'])} of a study with determinism='free' cannot be continued: actors.max_lag "
            "bounds the lag of such runs now, 0 for what was actors.synchronous=True. Begin another --workdir, with "
            "--axis actors.max_lag=0,2.",
        )
        axes.append({**axis, "keys": keys, "values": [[value for _, value in place] for place in places]})
    return {"score": None, "together": False, **fields, "overrides": overrides, "axes": axes}
