"""The flags that say where to run. They are taken off the command line first; the rest belongs to the training."""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import shutil
import textwrap

from podrl.config.commandline import Parser
from podrl.config.config import ConfigError, check
from podrl.config.ranges import LONGEST_S, check_flag

_NARROWEST, _WIDEST = 60, 120  # Columns of the help.
LAUNCHERS = ("local_processes", "slurm", "tpu")  # Flags that choose a place; at most one may be given.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of the launcher's.

    Attributes:
        value: name of its value in the help; None for a switch.
        text: its help text.
        kind: type of its value.
        goes_with: the launcher flags that it belongs to; empty for any or none.
    """

    value: str | None
    text: str
    kind: type = str
    goes_with: tuple[str, ...] = ()


FLAGS: Mapping[str, Flag] = {
    "local_processes": Flag(value="N", kind=int, text="N processes on this machine, joined into one job."),
    "devices_per_process": Flag(
        value="D",
        kind=int,
        goes_with=("local_processes",),
        text="Devices of each: virtual ones on CPU, 1 by default; GPUs, an equal share of all by default.",
    ),
    "env_workers": Flag(
        value="N",
        kind=int,
        text="N environment workers on this machine, or on --env_nodes: processes that step the actors' environments. "
        "Not the worker processes of --config.env.workers, which share one pool.",
    ),
    "actor_workers": Flag(
        value="N",
        kind=int,
        text="N actor workers on this machine: processes that act with a copy of the policy, in environments of their "
        "own.",
    ),
    "max_restarts": Flag(
        value="K", kind=int, text="Start a failed run again from its newest checkpoint, up to K times."
    ),
    "restart_pause_s": Flag(
        value="S",
        kind=float,
        text="Pause before the first restart, 1 s by default; each further one waits twice as long, up to 60 s.",
    ),
    "dry_run": Flag(value=None, text="Print what each host would run, and start nothing."),
    "slurm": Flag(value=None, text="Submit a SLURM job that is requeued and resumes when it is preempted."),
    "nodes": Flag(value="N", kind=int, goes_with=("slurm",), text="Nodes, one process on each."),
    "gpus_per_node": Flag(value="G", kind=int, goes_with=("slurm",), text="GPUs of each node; 0 for none."),
    "partition": Flag(value="P", goes_with=("slurm",), text="The partition, as sbatch takes it."),
    "time": Flag(value="T", goes_with=("slurm",), text="Time limit, such as 12:00:00."),
    "account": Flag(value="A", goes_with=("slurm",), text="Whom to charge."),
    "cpus_per_task": Flag(value="C", kind=int, goes_with=("slurm",), text="Cores of each node."),
    "mem": Flag(value="M", goes_with=("slurm",), text="Memory of each node, such as 64G."),
    "env_nodes": Flag(
        value="M",
        kind=int,
        goes_with=("slurm",),
        text="Nodes for environment workers, beside those that train: one worker on each, or --env_workers in all.",
    ),
    "env_partition": Flag(value="P", goes_with=("slurm",), text="Partition of these nodes."),
    "env_cpus_per_task": Flag(value="C", kind=int, goes_with=("slurm",), text="Cores of each environment worker."),
    "env_mem": Flag(value="M", goes_with=("slurm",), text="Memory of each of their nodes."),
    "tpu": Flag(value="NAME", text="Run on all workers of this Cloud TPU, from a machine with gcloud."),
    "zone": Flag(value="Z", goes_with=("tpu",), text="Its zone."),
    "project": Flag(value="P", goes_with=("tpu",), text="Its project; gcloud's own by default."),
    "accelerator_type": Flag(
        value="T",
        goes_with=("tpu",),
        text="Create it if it is not there, such as v5litepod-16; and again if preempted.",
    ),
    "runtime_version": Flag(
        value="V", goes_with=("tpu",), text="Software of a TPU to create, such as v2-alpha-tpuv5-lite."
    ),
    "spot": Flag(value=None, goes_with=("tpu",), text="Create one that may be preempted."),
    "queued_resource": Flag(value="Q", goes_with=("tpu",), text="Create it through a queued resource of this name."),
    "wait_s": Flag(
        value="S", kind=float, goes_with=("tpu",), text="How long a TPU may take to be there; 3600 by default."
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how to run; a flag that was not given is None, a switch False.

    The fields are those of `FLAGS`, which explains them.
    """

    local_processes: int | None = None
    devices_per_process: int | None = None
    env_workers: int | None = None
    actor_workers: int | None = None
    max_restarts: int | None = None
    restart_pause_s: float = 1.0
    dry_run: bool = False
    slurm: bool = False
    nodes: int | None = None
    gpus_per_node: int | None = None
    partition: str | None = None
    time: str | None = None
    account: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    env_nodes: int | None = None
    env_partition: str | None = None
    env_cpus_per_task: int | None = None
    env_mem: str | None = None
    tpu: str | None = None
    zone: str | None = None
    project: str | None = None
    accelerator_type: str | None = None
    runtime_version: str | None = None
    spot: bool = False
    queued_resource: str | None = None
    wait_s: float = 3600.0

    @property
    def launches(self) -> bool:
        """Whether this process starts others instead of training itself."""
        local = (self.local_processes, self.env_workers, self.actor_workers, self.max_restarts)
        return self.slurm or self.tpu is not None or any(given is not None for given in local)


def split(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """Takes the launch flags off a command line, whose first entry is the program's name.

    Returns:
        The options, and the rest of the command line, in its order.

    Raises:
        ConfigError: if a value is wrong, or flags contradict each other.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    for name, flag in FLAGS.items():
        if flag.value is None:
            parser.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS)
        else:
            parser.add_argument(f"--{name}", type=flag.kind, default=argparse.SUPPRESS)
    found, rest = parser.parse_known_args(argv[1:])
    given = vars(found)
    _check_together(given)
    options = Options(**given)
    _check_ranges(options)
    if options.dry_run and not options.launches:
        raise ConfigError("--dry_run shows what would be launched. Add --local_processes N, --slurm or --tpu NAME.")
    if options.slurm:
        check(options.nodes is not None, "--slurm needs --nodes N.")
        check(options.gpus_per_node is not None, "--slurm needs --gpus_per_node G (0 for nodes without).")
    if options.tpu is not None:
        check(options.zone is not None, "--tpu needs its --zone, such as --zone us-central2-b.")
        creates = options.accelerator_type is not None
        check(
            creates == (options.runtime_version is not None),
            "To create a TPU takes both --accelerator_type and --runtime_version; for one that is there give neither.",
        )
        check(
            creates or not (options.spot or options.queued_resource),
            "--spot and --queued_resource are for a TPU to create. Add --accelerator_type and --runtime_version.",
        )
    return options, [argv[0], *rest]


def help_text() -> str:
    """Returns the help on the launch flags, for `--help`, as wide as the terminal."""
    columns = max(min(shutil.get_terminal_size().columns, _WIDEST), _NARROWEST)
    rows = [(f"--{name} {flag.value or ''}".rstrip(), flag.text) for name, flag in FLAGS.items()]
    width = max(len(name) for name, _ in rows) + 2
    lines = []
    for row, text in rows:
        begin = f"  {'    ' if FLAGS[_name(row)].goes_with else ''}{row}".ljust(width + 6)
        indent = " " * len(begin)
        lines += textwrap.wrap(
            text, columns - 1, initial_indent=begin, subsequent_indent=indent, break_on_hyphens=False
        )
    return "\nWhere to run (without these: here, as one process or as a member of what is found):\n\n" + "\n".join(
        lines
    )


def _name(row: str) -> str:
    return row.removeprefix("--").partition(" ")[0]


def _check_together(given: Mapping[str, object]) -> None:
    """Raises `ConfigError` if flags do not go together."""
    opening = [name for name in LAUNCHERS if name in given]
    listed = " and ".join(f"--{name}" for name in opening)
    check(len(opening) <= 1, f"{listed} exclude each other: a job runs in one place. Give one of them.")
    for workers, noun in (("env_workers", "environment workers"), ("actor_workers", "actor workers")):
        for name in ("slurm", "tpu") if workers == "actor_workers" else ("tpu",):
            check(
                workers not in given or name not in given,
                f"--{workers} starts {noun} on this machine, and --{name} a run elsewhere. Drop one of them; "
                f"docs/howto/workers_hosts.md says how to start {noun} by hand.",
            )
    check(
        not {"env_workers", "env_partition", "env_cpus_per_task", "env_mem"} & given.keys()
        or not {"slurm"} & given.keys()
        or "env_nodes" in given,
        "Environment workers of a SLURM job have nodes of their own. Add --env_nodes M.",
    )
    check(
        not {"env_workers", "actor_workers"} <= given.keys(),
        "--env_workers and --actor_workers exclude each other: actor workers step their environments themselves.",
    )
    for name in given:
        goes_with = FLAGS[name].goes_with
        if goes_with and not set(goes_with) & set(opening):
            wanted = " or ".join(f"--{other}" for other in goes_with)
            raise ConfigError(f"--{name} goes with {wanted}, which is not given. Add that, or drop --{name}.")


def _check_ranges(options: Options) -> None:
    for name in ("local_processes", "devices_per_process", "nodes", "cpus_per_task", "env_nodes", "env_cpus_per_task"):
        check_flag(name, getattr(options, name), 1, 2**20)
    for name in ("env_workers", "actor_workers"):
        check_flag(name, getattr(options, name), 1, 4096)
    for name, most in (("max_restarts", 10**6), ("gpus_per_node", 1024)):
        check_flag(name, getattr(options, name), 0, most)
    for name in ("restart_pause_s", "wait_s"):
        check_flag(name, getattr(options, name), 0, LONGEST_S)
