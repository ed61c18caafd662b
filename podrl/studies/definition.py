"""What a study is to measure, as its command line says it and its manifest keeps it."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from podrl.studies.grid import Axis, Machines

PLACES = ("local", "slurm", "tpu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Definition:
    """A study, as plain values.

    Attributes:
        config: file.
        overrides: of the config, by dotted key, for all points.
        machines: that are compared.
        axes: of config keys.
        scaling: `weak`, `strong` or both.
        seeds: each point is run with each of them.
        steps: env steps of each run; None for the config's own.
        seconds: of training after which a run is ended, warm-up not counted; None for no such limit.
        place: where runs are launched: `local`, `slurm` or `tpu`.
        device: what devices are on SLURM's nodes: `gpu` or `cpu`.
        flags: of the launcher for that place, as text; a switch has an empty one.
    """

    config: str
    overrides: Mapping[str, str]
    machines: tuple[Machines, ...]
    axes: tuple[Axis, ...]
    scaling: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int | None
    seconds: float | None
    place: str
    device: str
    flags: Mapping[str, str]


def from_fields(fields: Mapping[str, Any]) -> Definition:
    """The study of a manifest, which `dataclasses.asdict` made."""
    lists = {name: tuple(fields[name]) for name in ("scaling", "seeds")}
    return Definition(
        **{
            **fields,
            **lists,
            "machines": tuple(Machines(**each) for each in fields["machines"]),
            "axes": tuple(
                Axis(keys=tuple(each["keys"]), values=tuple(map(tuple, each["values"]))) for each in fields["axes"]
            ),
        }
    )
