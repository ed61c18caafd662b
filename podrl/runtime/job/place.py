"""A process's place in its job, found from its command line and environment; warns of launchers that podrl ignores."""

from collections.abc import Mapping

from absl import logging

from podrl.config import programs
from podrl.config.commandline import CommandLine
from podrl.config.config import check
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.platforms.tpu import JAX_PORT, is_of_kubernetes
from podrl.runtime.job.secret import VARIABLE

_SHELL = f"'exec {programs.typed_command('train')} ... --coordinator=HOST:PORT --process_count=$%s --process_index=$%s'"
# Variables with a process's index and the number of processes, by launcher; the first one present counts.
_UNREAD = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    "MVAPICH": ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    "MPICH or Intel MPI": ("PMI_RANK", "PMI_SIZE"),
}
# Variables of `jax.distributed.initialize()`, for which podrl has flags or its own detection.
_JAXS = (
    *("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    *("JAX_LOCAL_DEVICE_IDS", JAX_PORT),
)
_STARTERS = {
    "torchrun": "torchrun --nproc_per_node=N --no_python",
    "MVAPICH": "mpiexec -n N",
    "MPICH or Intel MPI": "mpiexec -n N",
}


def find_place(environ: Mapping[str, str], command: CommandLine) -> Membership:
    """Returns this process's place: from its flags, or from what a platform says of itself.

    Raises:
        ConfigError: if the flags are incomplete, or contradict each other or what a platform says.
    """
    given = {name: getattr(command, name) for name in ("coordinator", "process_count", "process_index")}
    if not command.alone:
        return find_membership(environ, **given)
    for name, value in given.items():
        check(value is None, f"--alone is for a single process, but --{name}={value} is of a job. Give one of them.")
    return Membership(platform="alone")


def warn_of_unread_launcher(environ: Mapping[str, str], membership: Membership, *, alone: bool) -> None:
    """Warns if several processes were started and each would train alone.

    Args:
        environ: the process's environment variables.
        membership: the process's place.
        alone: whether the user says that it is the only process.
    """
    _warn_of_jaxs(environ, membership)
    if alone or membership.platform != "alone":
        return
    for launcher, (rank, size) in _UNREAD.items():
        index, count = environ.get(rank, ""), environ.get(size, "")
        if index.isdigit() and count.isdigit() and int(count) > 1:
            logging.warning(
                "%s=%s and %s=%s, as %s sets them, say that this is one of %s processes, but podrl does not read them: "
                f"%s runs of one process each would start. For one job of all, export one {VARIABLE} and have each "
                f"process read its own variables: {_STARTERS[launcher]} sh -c {_SHELL}; if this is meant to be one "
                "process, add --alone.",
                *(rank, index, size, count, launcher, count, count, size, rank),
            )
            return


def _warn_of_jaxs(environ: Mapping[str, str], membership: Membership) -> None:
    """Warns of JAX's variables of a process's place, which podrl does not read, except for a port on TPUs."""
    reads_port = membership.platform in ("tpu", "gke") and not is_of_kubernetes(environ.get(JAX_PORT, ""))
    found = [name for name in _JAXS if environ.get(name) and not (name == JAX_PORT and reads_port)]
    if not found:
        return
    made = [name for name in found if is_of_kubernetes(environ[name])]
    logging.warning(
        "podrl does not read %s%s. A job's processes meet where --coordinator=HOST:PORT says, with --process_count and "
        "--process_index, or where the platform does. This is %s.",
        ", ".join(f"{name}={environ[name]}" for name in found),
        f" ({', '.join(made)}: Kubernetes sets it for a service of that name)" if made else "",
        "the only process" if membership.process_count == 1 else f"one of {membership.process_count} processes",
    )
