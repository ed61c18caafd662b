"""Shows what is in a data set, and whether it is damaged. See `--help`."""

import argparse
import os
import sys

from podrl.config.commandline import Parser
from podrl.config.paths import absolute, absolute_path
from podrl.runtime.tool import run_tool

USAGE = """%(prog)s FOLDER [--out picture.png]

Shows who acted in a data set, returns, lengths, and what observations and actions cover. --out draws histograms of
them, and a map of the observations. Every row is read and compared with the hash of what was written: exit code 1 if
one differs, with a line for each damaged shard."""
_NAME = "inspect_data"


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name, into `folder` and `out`.

    Raises:
        ConfigError: On an unknown flag or value.
        SystemExit: With code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("folder", type=absolute_path, help="folder of a data set")
    parser.add_argument("--out", type=absolute, help="picture; the suffix chooses the format")
    return parser.parse_args(argv[1:])


def run(command: argparse.Namespace) -> int:
    """Reads the data set, prints and draws; returns the exit code."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from podrl.data.inspection import inspect_data  # These import JAX, which would delay messages about mistakes.
    from podrl.data.report import show_data
    from podrl.runtime.tables import make_console
    from podrl.telemetry.data_picture import write_data_picture

    details = inspect_data(command.folder)
    console = make_console()
    show_data(console, command.folder.name, details)
    if command.out and (len(details.facts.length) or not details.damage):
        write_data_picture(command.out, details)
        console.print(f"Drew it into {command.out}.", soft_wrap=True)
    if details.damage:
        of = f"{len(details.damage)} of {len(details.manifest.shards)}"
        sys.stderr.write(f"{_NAME}: error: {of} shards are damaged.\n")
        return 1
    return 0


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 0 done, 1 a damaged data set, 2 a mistake in the command."""
    return run_tool(_NAME, lambda: run(parse(argv)), failures=(RuntimeError,))
