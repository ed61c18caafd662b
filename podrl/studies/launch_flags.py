"""Flags of the commands that run studies: where the runs are launched, on what, and what is done with them."""

import argparse
from collections.abc import Sequence
import dataclasses

from podrl.config.config import check
from podrl.config.paths import absolute_workdir
from podrl.config.ranges import LONGEST_S, check_flag
from podrl.launch.options import FLAGS
from podrl.runtime.tables import FORMATS
from podrl.runtime.tool import parse_with_overrides
from podrl.studies.grid import PLACES, Machines, Manner, split_list
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


def add_manner_flags(parser: argparse.ArgumentParser, *, what: str, changes: str) -> None:
    """Adds the flags that say what is done with the runs.

    Args:
        parser: Gets them.
        what: A study, or another name of one.
        changes: What --accept_changes does.
    """
    parser.add_argument("--dry_run", action="store_true", help="print what would be run, and start nothing")
    parser.add_argument("--report_only", action="store_true", help="write the report of what there is; run nothing")
    parser.add_argument("--retry_failed", action="store_true", help="try runs that failed again")
    parser.add_argument("--accept_changes", action="store_true", help=changes)
    parser.add_argument("--silence_s", type=float, default=1800.0, help="how long a run may say nothing (1800)")
    parser.add_argument("--table", choices=FORMATS, default="csv", help="format of the tables (csv)")
    parser.add_argument("--point", type=int, help=f"make one run of a {what} that was begun, by its number")


def parse_study(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the flags of a study, its folder as a whole path, and the overrides of its config.

    Raises:
        ConfigError: if a flag is not known, or a value is wrong.
    """
    flags, rest = parse_with_overrides(parser, argv)
    flags.workdir = absolute_workdir(flags.workdir)
    check_flag("silence_s", flags.silence_s, 0.001, LONGEST_S)
    check_flag("at_once", flags.at_once, 0, 10**6)
    return flags, rest


def read_manner(flags: argparse.Namespace) -> Manner:
    """Returns what the flags say is done with the runs."""
    names = {field.name for field in dataclasses.fields(Manner)}
    return Manner(**{name: value for name, value in vars(flags).items() if name in names})


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
