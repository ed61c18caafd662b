"""Flags of the commands that run studies: where the runs are launched, and on what."""

import argparse

from podrl.config.config import check
from podrl.launch.options import FLAGS
from podrl.studies.grid import PLACES, Machines, split_list
from podrl.studies.places import launch_flags


def add_launch_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where runs are launched, and those of the launchers."""
    parser.add_argument("--launch", choices=PLACES, default="local", help="where (local)")
    parser.add_argument("--device", choices=("gpu", "cpu"), default=None, help="what devices are on SLURM (gpu)")
    parser.add_argument("--at_once", type=int, default=0, metavar="K", help="tasks of a SLURM array at a time (all)")
    parser.add_argument("--slices", metavar="T=PxD,...", help="TPU types, as v5litepod-16=4x4 (processes x chips)")
    for name in sorted({name for place in ("slurm", "tpu") for name in launch_flags(place)}):
        place = next(place for place in ("slurm", "tpu") if name in launch_flags(place))
        extra = {"action": "store_true"} if FLAGS[name].value is None else {"type": FLAGS[name].kind}
        parser.add_argument(f"--{name}", help=f"{place}: {FLAGS[name].text}", **extra)


def read_slices(flags: argparse.Namespace) -> tuple[Machines, ...]:
    """The TPU slices that `--slices` names.

    Raises:
        ConfigError: if it is missing or wrong, or a flag contradicts it.
    """
    check(flags.slices is not None, "--launch tpu needs --slices, such as v5litepod-4=1x4,v5litepod-16=4x4.")
    for name in ("processes", "devices_per_process"):
        check(getattr(flags, name) is None, f"--{name}: a TPU's type says how many. Drop it, --slices has them.")
    return tuple(_slice(text) for text in split_list(flags.slices))


def _slice(text: str) -> Machines:
    kind, _, size = text.partition("=")
    processes, _, chips = size.partition("x")
    check(
        bool(kind) and all(part.isdigit() and int(part) > 0 for part in (processes, chips)),
        f"--slices: {text!r} must be TYPE=PROCESSESxCHIPS, such as v5litepod-16=4x4: four hosts with four chips each.",
    )
    return Machines(processes=int(processes), devices_per_process=int(chips), slice_type=kind)


def launch_values(flags: argparse.Namespace) -> dict[str, str]:
    """Flags of the launcher, as text.

    Raises:
        ConfigError: if one is for another place, or missing.
    """
    taken = launch_flags(flags.launch)
    given = {}
    for name in {name for place in PLACES for name in launch_flags(place)}:
        value = getattr(flags, name)
        if value is None or value is False:
            continue
        place = next(place for place in PLACES if name in launch_flags(place))
        check(name in taken, f"--{name} is for --launch {place}. Add that, or drop --{name}.")
        given[name] = "" if value is True else str(value)
    if flags.launch == "tpu":
        for name in ("tpu", "zone"):
            check(name in given, f"--launch tpu needs --{name}.")
    return dict(sorted(given.items()))
