"""The environment workers of a run that is measured (`remote.env_workers`): processes on this machine."""

from collections.abc import Iterator
import contextlib
import subprocess
import time

from podrl.config.config import Config
from podrl.launch.env_workers import worker_commands

_END_S = 20.0


@contextlib.contextmanager
def env_workers(config: Config) -> Iterator[None]:
    """Starts the workers of a run, if it has some; they end with it."""
    commands = worker_commands(config.remote.address, config.remote.env_workers, 1)
    # Nothing is run between fork and exec: here are JAX's threads, whose locks the fork would keep.
    workers = [subprocess.Popen([*command, "--quiet"], stdin=subprocess.DEVNULL) for command in commands]
    try:
        yield
    finally:
        deadline_s = time.monotonic() + _END_S
        for worker in workers:
            try:
                worker.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
