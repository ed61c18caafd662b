"""Trains an agent on this machine, or where the launch flags say. See `--help`."""

import os

from podrl.agents.parts.loading import agent_defaults, agent_type
from podrl.config import commandline
from podrl.launch import options
from podrl.launch.start import launch
from podrl.runtime import stop_signals
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.job.tpu_metadata import MetadataError
from podrl.runtime.machine import jax_plugins, skip_absent_tpu
from podrl.runtime.process_exit import record_end
from podrl.runtime.tool import run_tool


def run(argv: list[str]) -> int:
    """Trains here, or starts processes that do, and returns the exit code."""
    where, argv = options.split(argv)
    command = commandline.parse_command_line(
        argv,
        more_help=options.help_text(),
        more_flags=options.FLAGS,
        agent_defaults=agent_defaults,
        agent_type=agent_type,
    )
    if not where.slurm and where.tpu is None:  # These run elsewhere.
        check_jax_settings(os.environ, jax_plugins())
    if where.launches:
        return launch(where, argv, command)
    skip_absent_tpu(os.environ, jax_plugins())
    from podrl import train  # Imports JAX, which would delay the message about a mistake above.

    code = train.main(command)
    record_end()
    return code


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: see `podrl.train`."""
    # A running training catches Ctrl-C, and so do the launchers of several processes.
    stop_signals.raise_ctrl_c()
    farewell = "interrupted before anything was begun."
    return run_tool("podrl", lambda: run(argv), failures=(MetadataError,), farewell=farewell)
