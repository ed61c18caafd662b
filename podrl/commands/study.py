"""Studies how throughput scales: runs a grid of points, and writes tables, figures and a report. See `--help`."""

import argparse
import os

from absl import logging

from podrl.config.commandline import Parser
from podrl.config.config import Config, check
from podrl.config.programs import start_arguments
from podrl.config.ranges import LONGEST_S, check_flag
from podrl.launch.local import visible_gpus
from podrl.runtime.plain_logging import log_as
from podrl.runtime.tool import parse_numbers, run_tool, split_overrides
from podrl.studies.conduct import conduct, conduct_one, report, show_commands
from podrl.studies.execution import Predict
from podrl.studies.folder import Folder
from podrl.studies.grid import SCALINGS, SPLIT, Definition, Machines, make_axis, split_list
from podrl.studies.launch_flags import (
    add_launch_flags,
    add_manner_flags,
    launch_values,
    parse_study,
    read_manner,
    read_slices,
)
from podrl.studies.places import default_devices

USAGE = """%(prog)s --config impala_catch --workdir runs/study --processes 1,2,4 --seconds 30
          [--config.x.y=...] [--devices_per_process 1] [--axis KEY=V1,V2 ...] [--split A:L,A:L]
          [--scaling weak,strong] [--seeds 1,2,3] [--launch local|slurm|tpu ...] [--dry_run]

Runs every point of the grid once with each seed, and writes report.html, figures/, runs.csv and points.csv into the
folder. The same command goes on where it was stopped. docs/howto/study.md has examples."""
_TAKEN = {"seed": "--seeds", "total_env_steps": "--steps"}


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses `argv`, whose first entry is the program's name.

    Returns:
        The flags, and the overrides of the config.

    Raises:
        ConfigError: on an unknown flag or value.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="folder of the study; gs://... for TPU slices")
    parser.add_argument("--config", help="config, by name or file")
    parser.add_argument("--processes", metavar="N,N,...", help="processes of the job (1); on SLURM a node each")
    parser.add_argument("--devices_per_process", metavar="D,D,...", help="virtual ones on CPU (1); GPUs")
    parser.add_argument("--axis", action="append", default=[], metavar="KEY=V,V", help="values of a config key")
    parser.add_argument("--split", metavar="A:L,A:L", help="acting and learning devices of each process; 0:0 is auto")
    parser.add_argument(
        "--scaling", default="strong", help="weak (environments grow with devices), strong, or weak,strong (strong)"
    )
    parser.add_argument("--seeds", default="1", metavar="S,S,...", help="each point is run with each (1)")
    parser.add_argument("--steps", type=float, metavar="N", help="env steps of each run (the config's)")
    parser.add_argument("--seconds", type=float, metavar="S", help="of training, after which a run is ended")
    add_launch_flags(parser)
    add_manner_flags(parser, what="study", changes="go on though the grid was another")
    parser.add_argument("--skip_invalid", action="store_true", help="leave out points that cannot be run")
    parser.add_argument("--no_prediction", action="store_true", help="leave out what the planner predicts")
    flags, rest = parse_study(parser, argv)
    check_flag("seconds", flags.seconds, 0.001, LONGEST_S)
    check_flag("steps", flags.steps, 1, 1e15)
    return flags, rest


def define(flags: argparse.Namespace, rest: list[str]) -> Definition:
    """The study that the flags ask for.

    Raises:
        ConfigError: if a value is wrong, or flags contradict each other.
    """
    check(flags.config is not None, "No config given. Add --config impala_catch, or a file of your own.")
    overrides = split_overrides(rest)
    texts = list(flags.axis)
    if flags.split is not None:
        texts.append(f"{':'.join(SPLIT)}={flags.split}")
    axes = tuple(make_axis(text) for text in texts)
    for key in [*overrides, *(key for axis in axes for key in axis.keys)]:
        check(key not in _TAKEN, f"{key} is what {_TAKEN.get(key)} says in a study. Use that.")
    scaling = tuple(split_list(flags.scaling))
    check(
        set(scaling) <= set(SCALINGS) and len(set(scaling)) == len(scaling),
        f"--scaling={flags.scaling} must be weak, strong or weak,strong.",
    )
    steps = flags.steps
    check(steps is None or steps == int(steps), f"--steps={steps} must be a whole number.")
    check(flags.device is None or flags.launch == "slurm", "--device is for --launch slurm.")
    return Definition(
        config=flags.config,
        overrides=overrides,
        machines=_machines(flags),
        axes=axes,
        scaling=scaling,
        seeds=parse_numbers("--seeds", flags.seeds, least=0, distinct=True),
        steps=None if steps is None else int(steps),
        seconds=flags.seconds,
        place=flags.launch,
        device=flags.device or "gpu",
        flags=launch_values(flags),
    )


def _machines(flags: argparse.Namespace) -> tuple[Machines, ...]:
    """Those of `--slices`, or all processes with all devices."""
    if flags.launch == "tpu":
        return read_slices(flags)
    check(flags.slices is None, "--slices is for --launch tpu.")
    processes = parse_numbers("--processes", flags.processes or "1", distinct=True)
    if flags.devices_per_process is None:
        return tuple(Machines(processes=p, devices_per_process=default_devices(flags.launch, p)) for p in processes)
    devices = parse_numbers("--devices_per_process", flags.devices_per_process, distinct=True)
    return tuple(Machines(processes=p, devices_per_process=d) for d in devices for p in processes)


def run(argv: list[str]) -> int:
    """Does what the command line asks for, and returns the exit code."""
    flags, rest = parse(argv)
    manner = read_manner(flags)
    if flags.point is not None:
        return conduct_one(flags.workdir, flags.point, manner)
    if flags.report_only:
        return report(Folder(flags.workdir), manner)
    definition = define(flags, rest)
    program = start_arguments("study")
    if flags.dry_run:
        show_commands(definition, flags.workdir, manner, program)
        return 0
    return conduct(definition, flags.workdir, argv, manner, program, find_predictor(flags))


def find_predictor(flags: argparse.Namespace) -> Predict | None:
    """Predicts from stages that are measured on this machine; None for others, and for GPUs."""
    if flags.launch != "local" or flags.no_prediction or visible_gpus(os.environ):
        return None
    from podrl.performance.planning.measured import predict_here  # Imports JAX.

    def predict(config: Config, processes: int, devices: int) -> float:
        logging.info("Measures the stages of the run for the prediction; --no_prediction leaves it out.")
        return float(predict_here(config, processes, devices)["predicted"])

    return predict


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code.

    0: every run is complete; 1: some are not, and the last line names them; 2: a mistake in the command or a config,
    and nothing was started; 75 and 130: told to stop, and the same command goes on.
    """
    log_as("study")
    return run_tool("study", lambda: run(argv), farewell="interrupted; the same command goes on.")
