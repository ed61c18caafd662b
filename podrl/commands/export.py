"""Brings runs to W&B, MLflow or trackio, from their files. See `--help`."""

import argparse

from podrl.config.commandline import Parser
from podrl.config.config import check
from podrl.config.paths import absolute
from podrl.config.ranges import LONGEST_S, check_flag
from podrl.runtime.tool import run_tool

USAGE = """%(prog)s --to wandb|mlflow|trackio RUN [RUN ...] [--project NAME] [--follow]

RUN is a run's folder. Its rows, config, checkpoints' facts, pictures and videos go to the tracker, under the run's own
id: exported again, it adds what is new. With --follow it goes on until the run ends, or until Ctrl-C."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name.

    Raises:
        ConfigError: on an unknown flag or value.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=absolute, metavar="RUN", help="folders of runs")
    parser.add_argument("--to", required=True, choices=("wandb", "mlflow", "trackio"), help="the tracker")
    parser.add_argument("--project", help="the tracker's project, or MLflow's experiment (the config's name)")
    parser.add_argument("--follow", action="store_true", help="go on until the run ends; one RUN only")
    parser.add_argument("--poll_s", type=float, default=5.0, metavar="S", help="between two looks at the run (5)")
    parser.add_argument("--wait_s", type=float, default=60.0, metavar="S", help="for a run that may yet resume (60)")
    flags = parser.parse_args(argv[1:])
    check(not flags.follow or len(flags.runs) == 1, "--follow takes one RUN. Follow each by a command of its own.")
    check_flag("poll_s", flags.poll_s, 0.001, LONGEST_S)
    check_flag("wait_s", flags.wait_s, 0.0, LONGEST_S)
    return flags


def run(argv: list[str]) -> int:
    """Does what the command line asks for, and returns the exit code."""
    flags = parse(argv)
    from podrl.runs.trackers.export_run import export_run  # Imports JAX.
    from podrl.telemetry.log_lines import configure_logging

    configure_logging(process_index=0)
    for folder in flags.runs:
        export_run(folder, flags.to, flags.project, follow=flags.follow, wait_s=flags.wait_s, poll_s=flags.poll_s)
    return 0


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 2 after a mistake, 130 after Ctrl-C."""
    return run_tool("export", lambda: run(argv), farewell="interrupted; the same command goes on.")
