"""How fast a real job is on this machine: the command that users run, started by the launcher, ended by the clock."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from etils import epath

from podrl.config.programs import start_arguments
from podrl.runs.records import Rows
from podrl.runtime.temporary import temporary_folder
from podrl.studies.job import last_word
from podrl.studies.measurement import MEASURED_FIELDS, measure_rows, measured_seconds

_START_S = 900.0  # Longer than any job takes to its first updates.
_END_S = 300.0  # And longer than any takes to end after SIGTERM.
_POLL_S = 0.05
_EVERY_UPDATES = 5  # A row, by which the updates are counted.


def time_job(
    arguments: Sequence[str], processes: int, devices_per_process: int, seconds: float, *, warm_up: int
) -> float:
    """Env steps per second of a job that runs for so long after so many updates, by its own rows of metrics.

    Raises:
        RuntimeError: if the job fails; has its last line.
    """
    with temporary_folder("benchmark") as folder:
        workdir, log = Path(folder) / "run", Path(folder) / "log"
        command = [
            *(sys.executable, *start_arguments("train"), f"--local_processes={processes}"),
            *(f"--devices_per_process={devices_per_process}", *arguments, f"--workdir={workdir}"),
            *("--config.total_env_steps=2_000_000_000", f"--config.log.every_updates={_EVERY_UPDATES}"),
            *("--config.checkpoint.every_updates=0", "--config.log.tensorboard=False"),
        ]
        with log.open("w") as output:
            # Not `studies.job.run_job`, which runs code between fork and exec: here are JAX's threads, whose locks the
            # fork would keep.
            job = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(job, log, lambda: measured_seconds(_rows(workdir), warm_up) > seconds, _START_S + seconds)
            return measure_rows(_rows(workdir), warm_up).env_steps_per_second
        finally:
            job.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(_END_S)
            job.kill()
            job.wait()


def _rows(workdir: Path) -> Iterable[Mapping[str, Any]]:
    path = workdir / "metrics.jsonl"
    return Rows(epath.Path(path)).fields("env_steps", *MEASURED_FIELDS) if path.exists() else ()


def _wait(job: subprocess.Popen[bytes], log: Path, condition: Callable[[], bool], limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if job.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"A job of the benchmark ended, or made no updates in time: {last_word(log)}")
        time.sleep(_POLL_S)
