"""A SLURM job that resumes by itself: after a preemption, a lost node, its time limit.

One task runs on each node and sees all of its GPUs. The other layout, a task for every GPU by `--gpus-per-task`, binds
each task to a GPU that it sees as number 0, while JAX's own SLURM detection has local task i use GPU number i, which
ends in "invalid device ordinal".

Sources: sbatch(1) and srun(1) of SLURM 22.05; jax-ml/jax issues 23452 and 28194.
"""

from collections.abc import Sequence
import os
from pathlib import Path
import re
import shlex
import shutil
import subprocess
import sys

from podrl.config.config import ConfigError, check
from podrl.launch.options import Options
from podrl.launch.restarts import pauses_s
from podrl.launch.slurm_resources import make_header, step_flags
from podrl.launch.slurm_workers import WorkerParts, make_worker_parts
from podrl.runs import progress
from podrl.runtime.job.secret import VARIABLE

SCRIPT = "job.sbatch"
_SUBMIT_LIMIT_S = 120.0

_BODY = r"""
set -u
python={python}
workdir={workdir}
pauses_s=({pauses})  # One before each restart.
say() {{ echo "[launcher $(date +%H:%M:%S)] $*"; }}

requeue() {{  # After SIGTERM, unless the job was cancelled.
  if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T | sort -u)" = RUNNING ]; then
    say "Stopped by SIGTERM: requeued, to resume later."
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
}}

stopping=
trap 'stopping=1' TERM  # SLURM signals the tasks as well, and this script waits for them.
cd {cwd} || exit 2
say "SLURM job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((${{SLURM_RESTART_COUNT:-0}} + 1))"
{prepare}
restart=0
failed_at=-1
while true; do
  secret=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')  # Tasks know each other by it; it stands in no file.{start}
  {secret}=$secret srun {srun} \
    "$python" {command}{settings}
  code=$?{end}
  case $code in
    0 | 2 | 130)  # Finished; a mistake in the command; stopped by hand.
      exit "$code" ;;
  esac
  if [ "$code" -eq 75 ] || [ -n "$stopping" ]; then requeue; fi
  update=$("$python" {progress} "$workdir")
  if [ "$update" -le "$failed_at" ]; then
    say "Exit code $code, at update $update, no further than before ($failed_at): not started again."
    exit "$code"
  elif [ "$restart" -ge ${{#pauses_s[@]}} ]; then
    say "Exit code $code, at update $update: not started again after $restart restart(s)."
    exit "$code"
  fi
  failed_at=$update
  pause_s=${{pauses_s[restart]}}
  restart=$((restart + 1))
  say "Exit code $code, at update $update: restart $restart of ${{#pauses_s[@]}} in $pause_s s."
  sleep "$pause_s"
  [ -z "$stopping" ] || requeue
done
"""


def make_script(
    options: Options, *, name: str, program: Sequence[str], arguments: Sequence[str], workdir: str, cwd: str
) -> str:
    """Returns the batch script.

    Args:
        options: the job's options; `nodes` and `gpus_per_node` are set.
        name: the config's name.
        program: arguments of Python that run the training, before its own; files as seen from every node.
        arguments: the training's arguments, `--workdir` included.
        workdir: the absolute path of that folder, on a file system that all nodes share.
        cwd: the folder where relative paths in the arguments start.
    """
    lines = make_header(options, name=f"podrl-{name}", output=f"{workdir.replace('%', '%%')}/slurm-%j.out")
    parts = make_worker_parts(options) if options.env_nodes is not None else WorkerParts()
    body = _BODY.format(
        python=shlex.quote(sys.executable),
        workdir=shlex.quote(workdir),
        pauses=" ".join(f"{pause:g}" for pause in pauses_s(options.restart_pause_s, options.max_restarts or 0)),
        cwd=shlex.quote(cwd),
        secret=VARIABLE,
        srun=" ".join([*parts.flags, *step_flags(options)]),
        command=shlex.join([*program, *arguments]),
        prepare=parts.prepare,
        start=parts.start,
        settings=parts.settings,
        end=parts.end,
        progress=shlex.quote(os.path.abspath(progress.__file__)),
    )
    return "\n".join(["#!/bin/bash", *lines]) + "\n" + body


def submit_job(script: str, workdir: str) -> str:
    """Writes the script into the run's folder and submits it.

    Returns:
        The job's number.

    Raises:
        ConfigError: if SLURM is not installed here, or refuses the job; the message has its reason.
    """
    check(
        shutil.which("sbatch") is not None,
        "--slurm needs sbatch, which is not here. Run this on a machine of the cluster, or add --dry_run to see the "
        "script.",
    )
    path = Path(workdir) / SCRIPT
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}). Choose another --workdir.") from None
    command = ["sbatch", "--parsable", str(path)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SUBMIT_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"sbatch did not answer within {_SUBMIT_LIMIT_S:.0f} s. Is the controller up (sinfo)?"
        ) from None
    if result.returncode:
        raise ConfigError(_refusal(path, result.stderr))
    return result.stdout.strip().partition(";")[0]


def _refusal(path: Path, stderr: str) -> str:
    """Returns why sbatch failed, in one line: its own words, and what to do if they mean that there is no cluster."""
    lines = [re.sub(r"^sbatch: (error|fatal): ", "", line.strip()).rstrip(".") for line in stderr.splitlines()]
    reason = "; ".join(line for line in lines if line) or "it gives no reason"
    if re.search(r"configuration source|[Uu]nable to contact slurm|slurm\.conf|slurmctld", reason):
        return (
            f"sbatch finds no cluster from here ({reason}). Run this where `sinfo` lists nodes, such as a login node, "
            "or add --dry_run to see the script."
        )
    return f"sbatch refused {path}: {reason}."
