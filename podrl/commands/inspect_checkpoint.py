"""Shows the content of a run's checkpoints, and exports parameters. See `--help`."""

import argparse
import os
import sys

from podrl.config.commandline import Parser
from podrl.config.paths import absolute
from podrl.runtime.tool import run_tool

USAGE = """%(prog)s --workdir RUN [--step N] [--export params.safetensors|params.npz|policy.stablehlo]
                             [--policy greedy|sampled] [--out replay.png]

Lists the checkpoints of a run, and shows counters, config, versions and every array of the newest; with --step, of
checkpoint N only. --export writes its parameters, flattened by path (encoder/Dense_0/kernel), with the statistics by
which observations were normalised, if they were (observations/mean); an .npz has no bfloat16 and holds its bits in
uint16, under the path with .bfloat16 at its end. A .stablehlo is the whole agent as a program, greedy or sampled,
which JAX runs without podrl (docs/python.md). --out draws the ages, returns and priorities of its replay. All arrays
are read and compared with their hashes: exit code 1 if one differs. Any machine will do, whatever made the checkpoint;
nothing in the run's folder is changed."""
_NAME = "inspect_checkpoint"


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name, into `workdir`, `step`, `export` and `out`.

    Raises:
        ConfigError: on an unknown flag or value.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--workdir", type=absolute, required=True, help="folder of a run")
    parser.add_argument("--step", type=int, help="update of the checkpoint to show (the newest)")
    parser.add_argument("--export", type=absolute, help="file for its parameters, .npz or .safetensors, or .stablehlo")
    parser.add_argument("--policy", choices=("greedy", "sampled"), default="greedy", help="of a .stablehlo (greedy)")
    parser.add_argument("--out", type=absolute, help="picture of its replay; the suffix chooses the format")
    return parser.parse_args(argv[1:])


def run(command: argparse.Namespace) -> int:
    """Reads the checkpoints, prints and exports; returns the exit code."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # The run itself may use the accelerator.
    from etils import epath  # These import JAX, which would delay messages about mistakes in the command.

    from podrl.runs import export, inspection, inspection_report, replay_inspection
    from podrl.runs.checkpoint_arrays import read_params
    from podrl.runs.checkpoint_errors import CheckpointError
    from podrl.runtime.tables import make_console
    from podrl.telemetry.log_lines import configure_logging

    configure_logging(process_index=0)
    workdir = inspection.find_run(command.workdir)
    inspection.choose_step(workdir, command.step)
    target = epath.Path(command.export) if command.export else None
    if target is not None:
        export.check_target(target)
    console = make_console()
    try:
        if command.step is None:
            inspection_report.show_list(console, inspection.list_checkpoints(workdir), inspection.leftovers(workdir))
        is_policy = target is not None and target.suffix == export.POLICY_SUFFIX
        wants = target is not None and not is_policy
        details, params = inspection.read_checkpoint(
            workdir,
            command.step,
            lambda step: (inspection.describe_checkpoint(workdir, step), read_params(workdir, step) if wants else {}),
        )
        inspection_report.show_details(console, details)
        if is_policy:
            from podrl.api.stablehlo import export_policy  # Makes the environment, which others do without.

            export_policy(command.workdir, command.export, step=details.step, policy=command.policy)
            console.print(
                f"Wrote the {command.policy} policy of checkpoint {details.step} to {target}.", soft_wrap=True
            )
        elif target is not None:
            export.write_params(target, params)
            console.print(f"Wrote the parameters of checkpoint {details.step} to {target}.", soft_wrap=True)
        if command.out:
            replay_inspection.write_picture(command.out, details.step, details.replay)
            console.print(f"Drew the replay of checkpoint {details.step} into {command.out}.", soft_wrap=True)
    except CheckpointError as error:
        sys.stderr.write(f"{_NAME}: error: {error}\n")
        return 1
    return 0


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code.

    The code is 0 if all is done, 1 for a checkpoint that is damaged or cannot be read, 2 for a mistake in the command.
    """
    return run_tool(_NAME, lambda: run(parse(argv)))
