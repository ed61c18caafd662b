"""Searches a space of config values with Optuna: trials, pruning, best configs, pictures. See `--help`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from podrl.config.commandline import Parser
from podrl.config.config import check
from podrl.config.config_files import find_config, is_own_config
from podrl.config.paths import absolute, absolute_workdir
from podrl.config.ranges import LONGEST_S, check_flag
from podrl.runtime.plain_logging import log_as
from podrl.runtime.tool import parse_with_overrides, run_tool, split_overrides

if TYPE_CHECKING:
    from podrl.studies.sweep_space import Space
    from podrl.studies.sweep_study import Sweep

USAGE = """%(prog)s --config impala_catch --workdir runs/sweep [--space FILE.py] [--trials 20] [--config.x.y=...]
                [--objective episode/return] [--direction maximize] [-- launcher's flags]

Runs trials of a config whose values a file's sample(trial) suggests, prunes what falls behind, and writes trials.csv,
best-1.py, history.png and importance.png into the folder. The same command goes on where it was stopped or killed, and
may run several times at once. docs/sweeps.md has an example."""


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses `argv`, whose first entry is the program's name.

    Returns:
        The flags, and the overrides of the config.

    Raises:
        ConfigError: on an unknown flag or value.
        SystemExit: with code 0 after showing `--help`.
    """
    place = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="config, by name or file")
    parser.add_argument("--workdir", required=True, help="folder of the sweep, on this machine")
    parser.add_argument("--space", help="file with sample(trial) (spaces/NAME.py beside the config)")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="trials in all, of all conductors (20)")
    parser.add_argument("--objective", help="metric (episode/return; evaluate/return of runs from a data set)")
    parser.add_argument("--direction", choices=("maximize", "minimize"), default="maximize", help="(maximize)")
    parser.add_argument("--last_rows", type=int, default=5, metavar="N", help="rows whose mean is a trial's value (5)")
    parser.add_argument("--prune_by", choices=("learner_steps", "env_steps"), default="learner_steps")
    parser.add_argument("--report_every", type=int, metavar="N", help="of --prune_by (a twentieth of the run)")
    parser.add_argument("--storage", help="Optuna's: URL of a database, or path of a journal (study.db in the folder)")
    parser.add_argument("--study", help="name in that storage (the folder's)")
    parser.add_argument("--silence_s", type=float, default=1800.0, help="how long a run may say nothing (1800)")
    parser.add_argument("--report_only", action="store_true", help="write the report of what there is; run nothing")
    flags, rest = parse_with_overrides(parser, argv[:place])
    flags.workdir, flags.launch = absolute_workdir(flags.workdir), tuple(argv[place + 1 :])
    check("://" not in flags.workdir, f"--workdir={flags.workdir}: a sweep's folder is on this machine or shared.")
    check_flag("trials", flags.trials, 1, 10**6)
    check_flag("last_rows", flags.last_rows, 1, 10**6)
    check_flag("report_every", flags.report_every, 1, 10**15)
    check_flag("silence_s", flags.silence_s, 0.001, LONGEST_S)
    return flags, rest


def run(argv: list[str]) -> int:
    """Does what the command line asks for, and returns the exit code."""
    flags, rest = parse(argv)
    from podrl.launch.signals import StopSignals
    from podrl.studies.sweep import Conductor  # Imports JAX.
    from podrl.studies.sweep_report import collect_trials, write_report
    from podrl.studies.sweep_space import default_space, load_space
    from podrl.studies.sweep_study import open_study
    from podrl.telemetry.plotting import make_figure

    space = load_space(flags.space or default_space(str(find_config(flags.config))), flags.config, rest)
    make_figure(1, 1)  # Matplotlib may be missing; better now than after hours.
    space.check()
    sweep = define(flags, rest, space)
    folder = Path(flags.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    study = open_study(sweep, space, folder, flags.storage, flags.study or folder.name)
    if flags.report_only:
        write_report(study, sweep, space, folder)
        return 0
    with StopSignals() as stop:
        conductor = Conductor(
            sweep=sweep,
            space=space,
            folder=folder,
            study=study,
            trials=flags.trials,
            silence_s=flags.silence_s,
            launch_flags=flags.launch,
            stop=stop,
        )
        code = conductor.run()
    if code is not None:
        logging.info("Stopped. The same command goes on.")
        return code
    write_report(study, sweep, space, folder)
    if any(each.state != "fail" for each in collect_trials(study)):
        return 0
    logging.error("All trials failed, or the space refused them.")
    return 1


def define(flags: argparse.Namespace, rest: list[str], space: "Space") -> "Sweep":
    """Returns what the flags ask to find out."""
    from podrl.studies.sweep_study import Sweep

    base = space.put_together({})
    length = base.num_updates if flags.prune_by == "learner_steps" else base.total_env_steps
    return Sweep(
        config=flags.config if is_own_config(flags.config) else absolute(flags.config),
        overrides=split_overrides(rest),
        objective=flags.objective or ("evaluate/return" if base.is_offline else "episode/return"),
        direction=flags.direction,
        last_rows=flags.last_rows,
        prune_by=flags.prune_by,
        report_every=flags.report_every or max(1, length // 20),
    )


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code.

    0: no trial is left to this conductor; 1: the same, and none is complete or pruned; 2: a mistake in the command, the
    config or the space, or an objective that the first complete run does not have; 75 and 130: told to stop, and the
    same command goes on.
    """
    log_as("sweep")
    return run_tool("sweep", lambda: run(argv), farewell="interrupted; the same command goes on.")
