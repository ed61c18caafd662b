"""Trains an agent on a suite of games with several seeds, and reports its scores. See `--help`."""

import argparse
from collections.abc import Callable
import functools
from pathlib import Path
from typing import Any

from podrl.assembly import resolve
from podrl.config import commandline
from podrl.config.commandline import Parser
from podrl.config.config import check
from podrl.config.paths import absolute_workdir
from podrl.config.programs import start_arguments
from podrl.evaluation.suites import read_scales, suite_games
from podrl.runtime.plain_logging import log_as
from podrl.runtime.tool import parse_numbers, run_tool, split_overrides
from podrl.studies.conduct import StudyKind, conduct, conduct_one, show_commands
from podrl.studies.feasibility import as_arguments
from podrl.studies.folder import Folder
from podrl.studies.grid import GAME, Axis, Definition, Machines
from podrl.studies.launch_flags import (
    add_launch_flags,
    add_manner_flags,
    launch_values,
    parse_study,
    read_manner,
    read_slices,
)
from podrl.studies.places import default_devices
from podrl.studies.suite_protocol import describe_apart
from podrl.studies.suite_report import report_suite
from podrl.studies.suite_scores import SCALES, SCORES, score_run

USAGE = """%(prog)s --config impala_atari --games atari5 --seeds 1,2,3 --workdir runs/atari5
          [--config.x.y=...] [--score evaluation|training] [--launch local|slurm|tpu ...] [--dry_run]
       %(prog)s --workdir runs/atari5 --report_only [--compare OTHER]

Trains every game with every seed, and writes report.html, figures/, scores.csv and aggregates.csv into the folder.
Games: atari57, atari26, atari5, minatar, dmcontrol, minigrid, or ids of environments, separated by commas. The same
command continues where it was stopped. docs/suites.md has examples."""
_TAKEN = {"seed": "--seeds", GAME: "--games"}
_NEVER = 2**31 - 1  # Updates: only the last one is evaluated.


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses `argv`, whose first entry is the program's name.

    Returns:
        The flags, and the overrides of the config.

    Raises:
        ConfigError: on an unknown flag or value.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="folder of the suite; gs://... for TPU slices")
    parser.add_argument("--config", help="config, by name or file; its environment is replaced by each game")
    parser.add_argument("--games", metavar="SUITE|ID,...", help="suites or ids of environments")
    parser.add_argument("--seeds", default="1,2,3", metavar="S,S,...", help="each game is trained with each (1,2,3)")
    parser.add_argument("--score", choices=SCORES, default="evaluation", help="what is averaged (evaluation)")
    parser.add_argument("--scales", type=Path, metavar="FILE", help="random and reference returns of games of your own")
    parser.add_argument("--compare", action="append", default=[], metavar="OTHER", help="folder of another suite")
    parser.add_argument("--processes", metavar="N", help="processes of each run (1)")
    parser.add_argument("--devices_per_process", metavar="D", help="virtual ones on CPU (1); GPUs")
    add_launch_flags(parser)
    add_manner_flags(parser, what="suite", changes="continue with other games or seeds")
    flags, rest = parse_study(parser, argv)
    flags.compare = [absolute_workdir(folder) for folder in flags.compare]
    return flags, rest


def define_suite(flags: argparse.Namespace, rest: list[str]) -> Definition:
    """The suite that the flags ask for.

    Raises:
        ConfigError: if a value is wrong, or flags contradict each other.
    """
    check(flags.config is not None, "No config given. Add --config impala_atari, or a file of your own.")
    check(flags.games is not None, "No games given. Add --games atari5, another suite, or ids of environments.")
    overrides = split_overrides(rest)
    for key in overrides:
        check(key not in _TAKEN, f"{key} is what {_TAKEN.get(key)} says in a suite. Use that.")
    seeds = parse_numbers("--seeds", flags.seeds, least=0, distinct=True)
    machines = _machines(flags)
    apart = overrides.pop("topology.seeds", None)
    check(
        apart in (None, "1"),
        f"topology.seeds={apart}: a suite takes its seeds from --seeds. Drop this key, or set it to 1 for a run for "
        "each seed.",
    )
    base = commandline.override(commandline.load_config(flags.config), as_arguments(overrides))
    if flags.score == "evaluation" and not base.evaluate.every_updates:
        overrides = {"evaluate.every_updates": str(_NEVER), **overrides}
    can_join = base.topology.placement == "anakin" and machines.processes == 1 and apart is None
    is_row = seeds == tuple(range(seeds[0], seeds[0] + len(seeds)))
    return Definition(
        config=flags.config,
        overrides=overrides,
        machines=(machines,),
        axes=(Axis(keys=(GAME,), values=tuple((game,) for game in suite_games(flags.games))),),
        scaling=("",),
        seeds=seeds,
        steps=None,
        seconds=None,
        place=flags.launch,
        device=flags.device or "gpu",
        flags=launch_values(flags),
        score=flags.score,
        together=can_join and is_row and len(seeds) > 1,
    )


def _machines(flags: argparse.Namespace) -> Machines:
    if flags.launch == "tpu":
        found = read_slices(flags)
        check(len(found) == 1, "--slices: the runs of a suite have slices of one type. Give one.")
        return found[0]
    check(flags.slices is None, "--slices is for --launch tpu.")
    check(flags.device is None or flags.launch == "slurm", "--device is for --launch slurm.")
    numbers = {name: parse_numbers(f"--{name}", getattr(flags, name)) for name in ("processes", "devices_per_process")}
    for name, several in numbers.items():
        check(len(several) <= 1, f"--{name}={getattr(flags, name)}: the runs of a suite have one number. Give one.")
    (processes,) = numbers["processes"] or (1,)
    devices = numbers["devices_per_process"] or (default_devices(flags.launch, processes),)
    return Machines(processes=processes, devices_per_process=devices[0])


def run(argv: list[str]) -> int:
    """Does what the command line asks for, and returns the exit code."""
    flags, rest = parse(argv)
    manner = read_manner(flags)
    folder = Folder(flags.workdir)
    prepare = _scales_writer(flags.scales)
    report = functools.partial(report_suite, compared=flags.compare, prepare=prepare)
    kind = StudyKind(measure=score_run, report=report, prepare=prepare)
    if flags.point is not None:
        return conduct_one(flags.workdir, flags.point, manner, kind)
    if flags.report_only:
        return kind.report(folder, manner)
    definition = define_suite(flags, rest)
    _check_games(definition)
    program = start_arguments("suite")
    if flags.dry_run:
        show_commands(definition, flags.workdir, manner, program)
        return 0
    return conduct(definition, flags.workdir, argv, manner, program, kind=kind)


def _scales_writer(scales: Path | None) -> Callable[[Folder], None]:
    """Returns what writes the file of `--scales`, as it is now, into a suite's folder; nothing without the flag.

    Raises:
        ConfigError: If it is no file of scales.
    """
    if scales is None:
        return lambda folder: None
    read_scales(scales)
    text = scales.read_text()

    def write(folder: Folder) -> None:
        (folder.path / SCALES).write_text(text)

    return write


def _check_games(definition: Definition) -> None:
    """Raises ConfigError if a game is none of the config's source, before anything is run."""
    base: Any = commandline.load_config(definition.config)
    given = [as_arguments({**definition.overrides, GAME: game}) for (game,) in definition.axes[0].values]
    describe_apart([resolve(commandline.override(base, each)) for each in given], str(definition.score))


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code.

    0: every run is complete; 1: some are not, and the last line names them; 2: a mistake in the command or a config,
    and nothing was started; 75 and 130: told to stop, and the same command continues.
    """
    log_as("suite")
    return run_tool("suite", lambda: run(argv), farewell="interrupted; the same command continues.")
