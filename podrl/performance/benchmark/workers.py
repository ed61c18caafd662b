"""The environment workers of a run that is measured (`remote.env_workers`): processes on this machine.

Which runs can be measured stands here, too.
"""

from collections.abc import Iterator
import contextlib
import subprocess
import time

from podrl.config.config import Config, check
from podrl.experience.schedule import serves_arrivals
from podrl.launch.env_workers import ENV_WORKERS, worker_commands

_END_S = 20.0


@contextlib.contextmanager
def env_workers(config: Config) -> Iterator[None]:
    """Starts the workers of a run, if it has some; they end with it."""
    commands = worker_commands(config.remote.address, config.remote.env_workers, 1, ENV_WORKERS)
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


def check_stages(config: Config) -> None:
    """Raises `ConfigError` if a run can be measured as a whole alone."""
    check(
        not serves_arrivals(config),
        "Found determinism='free' with remote.env_workers, where no stage has a fixed size. Use determinism=exact, or "
        "--compare, which measures whole runs.",
    )


def check_measurable(config: Config, num_processes: int) -> None:
    """Raises `ConfigError` if the benchmark cannot take a run apart into its stages."""
    why = "the benchmark's stages end by the clock, which processes do not share. Run it in one process."
    check(num_processes == 1, f"Found a job of {num_processes} processes; {why}")
    seeds, workers = config.topology.seeds, config.remote.actor_workers
    check(seeds == 1, f"Found topology.seeds={seeds}; the benchmark measures one seed. Use topology.seeds=1.")
    check(not workers, f"Found remote.actor_workers={workers}; the benchmark measures its own actors. Use 0.")
