"""A command that launches as the real one does, and whose members do what they are told: `--do 'python code'`.

The code sees `index`, `count`, `workdir` (a Path), `started` (how often this member was started in that folder, this
time included) and `say`, which prints a line and flushes.
"""

import argparse
import os
from pathlib import Path
import sys
from typing import TextIO

import ml_collections

from podrl.config.commandline import CommandLine
from podrl.config.config import ConfigError
from podrl.launch.members import Limits
from podrl.launch.options import split
from podrl.launch.start import launch
from podrl.runtime.process_exit import record_end

ROOT = Path(os.environ.get("STAND_IN_TREE", "."))  # Of the checkout that is shipped.
_FINISH_S = float(os.environ.get("STAND_IN_FINISH_S", "60"))  # On a busy machine members end seconds apart.
LIMITS = Limits(after_failure_s=1, after_finish_s=_FINISH_S, after_stop_s=60, after_sigterm_s=1)


def main(argv: list[str]) -> int:
    try:
        where, argv = split(argv)
        parser = argparse.ArgumentParser()
        for name in ("--config", "--do", "--workdir", "--coordinator"):
            parser.add_argument(name)
        parser.add_argument("--process_count", type=int, default=1)
        parser.add_argument("--process_index", type=int, default=0)
        found = parser.parse_args(argv[1:])
        if where.launches:
            config = ml_collections.ConfigDict({"name": "stand_in"})
            command = CommandLine(
                config=config, workdir=found.workdir, argv=tuple(argv), profile=False, accept_changes=False
            )
            return launch(where, argv, command, limits=LIMITS, root=ROOT, poll_s=0.05, check_first=lambda argv: None)
    except ConfigError as error:
        sys.stderr.write(f"podrl: error: {error}\n")
        return 2
    workdir = Path(found.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / f"starts-{found.process_index}").open("a") as file:
        file.write("x")
    names = {
        "index": found.process_index,
        "count": found.process_count,
        "workdir": workdir,
        "started": len((workdir / f"starts-{found.process_index}").read_text()),
        "coordinator": found.coordinator,
        "say": lambda text: _write(sys.stdout, text),
        "complain": lambda text: _write(sys.stderr, text),
    }
    try:
        exec(found.do, names)
    finally:
        record_end()  # Also after `exit(0)`, which is how one ends here.
    return 0


def _write(stream: TextIO, text: object) -> None:
    stream.write(f"{text}\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
