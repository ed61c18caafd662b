"""What it costs to spread a run over several processes: the same job in one process and in more, in turns.

Every job is the real command, started by the launcher, with the same global batch on the same number of devices, each
of which acts and learns. So what differs is what processes add: reductions that cross their borders, and the launcher's
division of the cores.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import dataclasses
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from absl import logging
from etils import epath
import jax

from podrl.config.config import Config, check
from podrl.config.user_modules import ROOT
from podrl.experience.schedule import warm_up_updates
from podrl.learning.update_cost import collective_bytes
from podrl.performance.benchmark.instruments import MachineSpeed, describe_machine, spread
from podrl.performance.benchmark.relations import fractions
from podrl.performance.benchmark.stages import make_parts
from podrl.runs.records import Rows
from podrl.runtime.temporary import temporary_folder
from podrl.studies.job import last_word
from podrl.studies.measurement import MEASURED_FIELDS, measure_rows, measured_seconds

_LAUNCHER = ROOT / "tools/tpu_launch.py"
_START_S = 900.0  # Longer than any job takes to its first updates.
_END_S = 300.0  # And longer than any takes to end after SIGTERM.
_POLL_S = 0.05
_EVERY_UPDATES = 5  # A row, by which the updates are counted.


def measure_jobs(
    config: Config, arguments: Sequence[str], process_counts: Sequence[int], *, repeats: int, seconds: float
) -> dict[str, Any]:
    """Measures the run that `arguments` name in several numbers of processes, in turns, on as many devices in all.

    Returns:
        The report, ready for JSON: `jobs` by number of processes with their rates, and their ratio to the first one's
        taken in each repeat; `traffic_bytes`, what crosses between devices in an update; `machine`.

    Raises:
        RuntimeError: if a job fails; has its last line.
    """
    devices = max(process_counts)
    for count in process_counts:
        check(devices % count == 0, f"--processes: {count} does not divide {devices}, the number of devices in all.")
    jax.config.update("jax_num_cpu_devices", devices)
    machine = describe_machine()
    is_cpu = machine["platform"] == "cpu"
    check(is_cpu, f"--processes: found {machine['platform']} devices; it needs JAX_PLATFORMS=cpu.")
    logging.info("compiling")
    topology = dataclasses.replace(config.topology, **_on_all(config, devices))
    parts = make_parts(dataclasses.replace(config, topology=topology))
    yardsticks, warm_up = MachineSpeed(), warm_up_updates(parts.config)
    rates: dict[int, list[float]] = {count: [] for count in process_counts}
    for repeat in range(repeats):
        for count in process_counts:
            logging.info(f"repeat {repeat + 1} of {repeats}: {count} process(es)")
            split = [f"--config.topology.{key}={value}" for key, value in _on_all(config, devices // count).items()]
            rates[count].append(time_job([*arguments, *split], count, devices // count, seconds, warm_up=warm_up))
        yardsticks.measure()
    first = rates[process_counts[0]]
    about = {"repeats": repeats, "seconds": seconds, "machine": machine | yardsticks.describe(), "devices": devices}
    jobs = {n: {"env_steps_per_second": spread(all_), "of_first": fractions(all_, first)} for n, all_ in rates.items()}
    return about | {
        "config": {"name": config.name, "env": {"id": config.env.id}},
        "jobs": jobs,
        "traffic_bytes": dict(collective_bytes(parts.programs.update)),
        "parameter_bytes": parts.parameter_bytes,
        "env_steps_per_update": config.env_steps_per_update,
    }


def _on_all(config: Config, devices: int) -> dict[str, Any]:
    """The keys of `topology` by which all of a process's devices act and learn."""
    if config.topology.placement == "anakin":
        return {}
    return {"actor_devices_per_process": devices, "learner_devices_per_process": devices}


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
            *(sys.executable, str(_LAUNCHER), f"--local_processes={processes}"),
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
