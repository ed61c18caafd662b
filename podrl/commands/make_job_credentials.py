"""Makes the credentials of one job, for environment workers on other hosts. See `--help`."""

import argparse
from pathlib import Path
import sys

from podrl.config import programs
from podrl.config.commandline import Parser
from podrl.config.paths import absolute
from podrl.config.ranges import check_flag
from podrl.runtime.job.worker_credentials import DAYS, make_job_credentials
from podrl.runtime.tool import run_tool

USAGE = f"""%(prog)s --out FOLDER [--days 365]

Makes a folder that only you can enter, with a certificate, its key and a secret, by which a run and its environment
workers on other hosts know each other. Copy it to every host (scp -rp), then name it:

    {programs.typed_command("train")} ... --config.remote.address=node1:8470 --config.remote.certificates=FOLDER
    {programs.typed_command("env_worker")} --connect node1:8470 --worker_certificates FOLDER

It is for one job. Delete it when the job has ended."""
_MOST_DAYS = 3650


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name, into `out` and `days`.

    Raises:
        ConfigError: on an unknown flag or a value that cannot work.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--out", type=absolute, required=True, metavar="FOLDER", help="folder to make")
    parser.add_argument("--days", type=int, default=DAYS, help=f"how long the certificate is valid ({DAYS})")
    flags = parser.parse_args(argv[1:])
    check_flag("days", flags.days, 1, _MOST_DAYS)
    return flags


def run(flags: argparse.Namespace) -> None:
    """Makes the folder."""
    make_job_credentials(Path(flags.out), days=flags.days)
    sys.stdout.write(f"{flags.out} has the credentials of one job. Copy it to every host, and keep it secret.\n")


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code."""
    return run_tool("make_job_credentials", lambda: run(parse(argv)))
