"""An actor worker: acts with a copy of the policy of a learner's process, in environments of its own. See `--help`."""

import argparse
from collections.abc import Callable
import functools
import os

from podrl.config import programs
from podrl.launch.worker_command import parse_worker_flags, run_worker
from podrl.runtime.machine import keep_freed_memory
from podrl.runtime.tool import run_tool
from podrl.runtime.xla_flags import suit_xla_to_cpu

USAGE = f"""%(prog)s --connect HOST:PORT|unix:PATH [--worker_certificates FOLDER] [--env_threads T] [--wait_s 600]
                       [--quiet]

Connects to the learner's process of a run with --config.remote.actor_workers=N, and makes rollouts for it: it steps
environments and chooses their actions, on the CPU, with a copy of the policy. It may be started before or after the
run, and ends with it. On one host nothing else is needed; between hosts both sides need a copy of one folder by
{programs.program_of("make_job_credentials")} (docs/actor_workers.md).

`{programs.typed_command("train")} --actor_workers N` starts a run with its actor workers on this machine."""


def _load_serving() -> Callable[..., None]:
    """Prepares XLA as the learner's process does, so that both compute the same bits, and loads what acts."""
    keep_freed_memory()
    suit_xla_to_cpu(os.environ)
    from podrl.assembly import make_acting_agent
    from podrl.experience.remote.actor_service import serve_actors
    from podrl.runtime.compilation_cache import use_compilation_cache

    use_compilation_cache()
    return functools.partial(serve_actors, make_agent=make_acting_agent)


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name; see `parse_worker_flags`."""
    return parse_worker_flags(argv, USAGE)


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code."""
    return run_tool("actor_worker", lambda: run_worker(parse(argv), "actor_worker", _load_serving))
