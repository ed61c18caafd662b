"""Environment workers of a SLURM job: on nodes of their own, which are the second component of a heterogeneous job.

The batch script makes credentials for each start, in the run's folder, and starts two steps: the workers, and the
training. It tells the workers where the learner's processes listen: one on each node of the first component.

Source: SLURM's documentation of heterogeneous jobs, for 22.05.
"""

import dataclasses
import shlex

from podrl.config.config import check
from podrl.config.programs import start_arguments
from podrl.launch.env_workers import check_grpc
from podrl.launch.options import Options
from podrl.launch.slurm_resources import env_options, step_flags, workers_per_node

_WAIT_S = 3600  # For a learner that compiles; workers that it does not admit end with it.

_PREPARE = r"""
end_workers() {  # They end with the run; those that it has never admitted still wait for it.
  for _ in {1..20}; do
    kill -0 "$workers" 2>/dev/null || break
    sleep 0.5
  done
  kill "$workers" 2>/dev/null  # At which srun ends all of its tasks.
  wait "$workers"
  rm -rf "$credentials"
}

credentials=$workdir/credentials-$SLURM_JOB_ID
trap 'rm -rf "$credentials"' EXIT
port=$((20000 + SLURM_JOB_ID % 10000))
learners=
number=0
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST_HET_GROUP_0"); do
  learners+=${learners:+,}$node:$((port + number++))
done
"""
_START = r"""
  rm -rf "$credentials"
  "$python" {make_credentials} --out "$credentials" >/dev/null || exit 2
  srun {srun} \
    "$python" {program} --connect "$learners" --worker_certificates "$credentials" --wait_s {wait_s} &
  workers=$!"""
_SETTINGS = (
    ' --config.remote.env_workers={count} --config.remote.address=0.0.0.0:"$port"'
    ' --config.remote.certificates="$credentials"'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerParts:
    """Parts of a batch script that are there for environment workers.

    Attributes:
        prepare: Lines before the first start.
        start: Lines that start workers, before the training is.
        flags: Flags of the training's `srun`.
        settings: The end of the training's command line.
        end: Lines after the training has ended.
    """

    prepare: str = ""
    start: str = ""
    flags: tuple[str, ...] = ()
    settings: str = ""
    end: str = ""


def make_worker_parts(options: Options) -> WorkerParts:
    """Returns the parts for a job with `--env_nodes`.

    Raises:
        ConfigError: if gRPC is missing, or the workers do not divide over their nodes or over the processes.
    """
    check_grpc()
    nodes, processes, per_node = options.env_nodes or 1, options.nodes or 1, workers_per_node(options)
    count = options.env_workers or nodes
    for others, what in ((nodes, f"--env_nodes={nodes}"), (processes, f"the processes of --nodes={processes}")):
        check(
            count % others == 0,
            f"{count} environment workers (--env_workers, or one for each of --env_nodes) do not divide over {what}. "
            f"Use a multiple of {others}.",
        )
    start = _START.format(
        make_credentials=shlex.join(start_arguments("make_job_credentials")),
        srun=" ".join(["--het-group=1", *step_flags(env_options(options), per_node, wait_s=0)]),
        program=shlex.join(start_arguments("env_worker")),
        wait_s=_WAIT_S,
    )
    return WorkerParts(
        prepare=_PREPARE,
        start=start,
        flags=("--het-group=0",),
        settings=_SETTINGS.format(count=count),
        end="\n  end_workers",
    )
