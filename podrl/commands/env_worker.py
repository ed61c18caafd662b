"""An environment worker: steps environments for the actors of a learner's process. See `--help`."""

import argparse
from collections.abc import Callable

from podrl.config import programs
from podrl.launch.worker_command import parse_worker_flags, run_worker
from podrl.runtime.tool import run_tool

USAGE = f"""%(prog)s --connect HOST:PORT|unix:PATH [--worker_certificates FOLDER] [--env_threads T] [--wait_s 600]
                     [--quiet]

Connects to the learner's process of a run with --config.remote.env_workers=N, and steps environments for its actors.
It may be started before or after the run, and ends with it. If it loses a run with --config.determinism=free, it tries
for --wait_s to be admitted again. On one host nothing else is needed; between hosts both sides need a copy of one
folder by {programs.program_of("make_job_credentials")} (docs/howto/workers_hosts.md).

These are environment workers. The worker processes of --config.env.workers are something else: they share the
environments of one pool, within an environment worker too.

`{programs.typed_command("train")} --env_workers N` starts a run with its environment workers on this machine."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name; see `parse_worker_flags`."""
    return parse_worker_flags(argv, USAGE)


def _load_serving() -> Callable[..., None]:
    from podrl.experience.remote.worker import serve_learner

    return serve_learner


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code."""
    return run_tool("env_worker", lambda: run_worker(parse(argv), "env_worker", _load_serving))
