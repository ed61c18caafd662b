"""A study as SLURM jobs: an array for each number of nodes, whose tasks are runs, and a last job for the report.

Each task asks for just the nodes of its points. A task that is preempted, or reaches its time limit, is requeued and
goes on; the last job comes when no task is left, however they ended.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys
import time

from podrl.config.config import ConfigError, check
from podrl.launch import slurm
from podrl.launch.options import Options
from podrl.launch.slurm_resources import make_header
from podrl.studies.folder import Folder
from podrl.studies.grid import Definition, Machines, Manner, Trial
from podrl.studies.places import slurm_options

_QUESTION_LIMIT_S = 120.0
_TASK = r"""
set -u
cd {cwd} || exit 2
{python} {program} --workdir={workdir} --point=$SLURM_ARRAY_TASK_ID{flags}
code=$?
if [ "$code" -eq 75 ]; then  # Told to stop, unless the job was cancelled.
  if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$code"
"""
_LAST = r"""
set -u
cd {cwd} || exit 2
exec {python} {program} --workdir={workdir} --report_only
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Submission:
    """A batch script."""

    name: str  # of the folder that it lies in, below `slurm/`
    text: str  # the script; one that comes last is completed by what it waits for
    tasks: tuple[int, ...]  # numbers of the runs; empty for the report


def make_scripts(
    definition: Definition, folder: Folder, trials: Mapping[int, Trial], program: Sequence[str], manner: Manner
) -> list[Submission]:
    """The batch scripts of the runs that are left, by their numbers; each runs Python with the arguments `program`."""
    by_machines: dict[Machines, list[int]] = {}
    for number, trial in trials.items():
        by_machines.setdefault(trial.point.machines, []).append(number)
    body = _TASK.replace("{flags}", f" --silence_s={manner.silence_s:g}")
    found = []
    for machines, numbers in by_machines.items():
        more = {"array": f"{','.join(map(str, numbers))}{f'%{manner.at_once}' if manner.at_once else ''}"}
        options = slurm_options(definition, machines)
        text = _make_script(options, folder, program, body, name=machines.size, output="slurm-%A_%a.out", more=more)
        found.append(Submission(name=machines.size, text=text, tasks=tuple(numbers)))
    return found


def make_last(definition: Definition, folder: Folder, jobs: Sequence[str], program: Sequence[str]) -> Submission:
    """The script that writes the report once the given jobs have ended."""
    options = slurm_options(definition, Machines(processes=1, devices_per_process=1))
    options, more = dataclasses.replace(options, gpus_per_node=0), {"dependency": f"afterany:{':'.join(jobs)}"}
    text = _make_script(options, folder, program, _LAST, name="report", output="slurm-%j.out", more=more)
    return Submission(name="report", text=text, tasks=())


def submit_study(folder: Folder, submission: Submission) -> str:
    """Submits a script; returns the job's number."""
    job = slurm.submit_job(submission.text, f"{_absolute(folder)}/slurm/{submission.name}")
    with (Path(folder.path) / "slurm" / "jobs").open("a") as jobs:
        jobs.write(f"{job}\n")
    return job


def require_idle(folder: Folder) -> None:
    """Raises ConfigError if jobs of this study are still in SLURM's queue."""
    path = Path(folder.path) / "slurm" / "jobs"
    if not path.exists():
        return
    try:
        command = ["squeue", "--noheader", "--format=%F"]  # All jobs: of one that is gone squeue says it is invalid.
        deadline_s = time.monotonic() + _QUESTION_LIMIT_S  # A controller that restarts refuses for a while.
        while True:
            queue = subprocess.run(command, capture_output=True, text=True, timeout=_QUESTION_LIMIT_S)
            if queue.returncode == 0 or time.monotonic() >= deadline_s:
                break
            time.sleep(1.0)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"squeue does not answer ({error}). Run this where `squeue` works.") from None
    check(queue.returncode == 0, f"squeue does not say which jobs still run: {' '.join(queue.stderr.split())}")
    left = [job for job in path.read_text().split() if job in queue.stdout.split()]
    check(
        not left,
        f"--workdir={folder.path}: jobs of this study are still in SLURM's queue: {', '.join(left)}. Wait for them, or "
        f"end them: scancel {' '.join(left)}",
    )


def _make_script(
    options: Options,
    folder: Folder,
    program: Sequence[str],
    body: str,
    *,
    name: str,
    output: str,
    more: Mapping[str, str],
) -> str:
    header = make_header(
        options,
        name=f"podrl-study-{name}",
        output=f"{_absolute(folder).replace('%', '%%')}/slurm/{name}/{output}",
        more=more,
    )
    text = body.format(
        cwd=shlex.quote(os.getcwd()),
        python=shlex.quote(sys.executable),
        program=shlex.join(program),
        workdir=shlex.quote(_absolute(folder)),
    )
    return "\n".join(["#!/bin/bash", *header]) + "\n" + text


def _absolute(folder: Folder) -> str:
    return os.path.abspath(re.sub("^file://", "", str(folder.path)))
