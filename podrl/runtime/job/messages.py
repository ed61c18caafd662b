"""Messages about the processes of a job: which are missing when they meet, and how one was lost later."""

from collections.abc import Sequence

from podrl.runtime.job.addresses import is_loopback, split_address
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.secret import FILE_VARIABLE, VARIABLE
from podrl.runtime.job.time_limits import SILENT_S, STALE_S

_MOST_NAMES = 8
_MOST_PAIRS = 3


def list_processes(membership: Membership, processes: Sequence[int]) -> str:
    """Returns `processes 1 (node2), 3 (node4)`; `a process` if none is known."""
    if not processes:
        return "a process"
    names = [membership.name_of(index).removeprefix("process ") for index in processes[:_MOST_NAMES]]
    more = f" and {len(processes) - _MOST_NAMES} more" if len(processes) > _MOST_NAMES else ""
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(names)}{more}"


def did_not_come(membership: Membership, missing: Sequence[int], after_s: float) -> str:
    """Explains why the processes that have met end without the missing ones."""
    count = membership.process_count
    return (
        f"{capital(list_processes(membership, missing))} did not come to {membership.coordinator} within {after_s:g} s"
        f"; {count - len(missing)} of {count} processes are there. Look at what the missing ones say; if they only "
        f"start slowly, raise --join_timeout_s.{_loopback_hint(membership)}{_alone_hint(membership)}"
    )


def has_no_coordinator(membership: Membership, reason: str, after_s: float) -> str:
    """Explains the end of a process that never reached the coordinator."""
    address = membership.coordinator
    if membership.process_index == 0:
        return (
            f"This is process 0, on {membership.host}, but it does not reach itself at {address} ({reason}). "
            "--coordinator must be an address of this host."
        )
    return (
        f"{capital(membership.name_of(0))} did not answer at {address} within {after_s:g} s ({reason}). Look at what "
        "it says: does it run, on that host, with the same address, and does no firewall close that port? If it only "
        f"starts slowly, raise --join_timeout_s.{_loopback_hint(membership)}{_alone_hint(membership)}"
    )


def has_silent_coordinator(membership: Membership, after_s: float) -> str:
    """Explains the end of a process that reached the coordinator but got no answer."""
    return (
        f"The coordinator at {membership.coordinator}, a small process beside {membership.name_of(0)}, was reached, "
        f"but does not answer; the processes waited {after_s:g} s for each other. It was stopped, or its host hangs."
    )


def has_dead_coordinator(membership: Membership, code: int) -> str:
    """Explains the end of process 0 whose coordinator ended before all had met."""
    return (
        f"The coordinator of this job at {membership.coordinator}, a small process beside this one, ended with exit "
        f"code {code} before all processes had met. What it said of itself is above. Give the same command again."
    )


def has_no_service(membership: Membership, why: str) -> str:
    """Explains the end of all processes after they have met."""
    return (
        f"All processes have met at {membership.coordinator}, but the job cannot begin: {why}. Choose another port: "
        "--coordinator=HOST:PORT, the same for all processes."
    )


def does_not_reach(pairs: Sequence[str], ports: str) -> str:
    """Explains the end of all processes because some of them do not reach each other.

    Args:
        pairs: one text for each pair: which process does not reach which, and where.
        ports: the range from which the hosts choose the ports at which processes listen.
    """
    more = f"; and {len(pairs) - _MOST_PAIRS} more such pairs" if len(pairs) > _MOST_PAIRS else ""
    return (
        f"{capital('; '.join(pairs[:_MOST_PAIRS]))}{more}. Each two processes of a job connect at ports that their "
        f"systems choose from {ports}: open these between the hosts, or give --coordinator an address in a network in "
        "which they are open."
    )


def has_other_secret(membership: Membership) -> str:
    """Explains the end of a process whose secret differs from the coordinator's."""
    return (
        f"This is process {membership.process_index}, and what answers at {membership.coordinator} has another job "
        f"secret. Give all processes of a job the same {VARIABLE}, or the same {FILE_VARIABLE}; each job needs a port "
        "of its own."
    )


def was_lost(name: str, why: str, text: str, *, is_this_one: bool) -> str:
    """Explains how a process was lost.

    Args:
        name: the process's name: `process 1 (node2)`.
        why: the coordinator's word for the cause.
        text: the process's own explanation, if it gave one.
        is_this_one: whether the lost process is this one.
    """
    name = capital(name)
    if why == "failed":
        return f"{name} ended: {text}"
    if why == "gone":
        return f"{name} was lost: it was killed, or crashed. Its own output may say why."
    if why == "silent":
        return f"{name} was lost: its host does not answer any more."
    if is_this_one:
        return f"{name}, this one, stood still for more than {STALE_S} s: the others have given it up."
    return f"{name} is stuck: it has sent no heartbeat for {STALE_S} s. It was stopped, or its host hangs."


def coordinator_was_lost(name: str) -> str:
    """Explains that the coordinator beside process 0, which has this name, no longer answers."""
    return (
        f"The coordinator beside {name} has not answered for {SILENT_S:.0f} s: it was stopped, or its host hangs, or "
        "the network has failed."
    )


def host_was_lost(host: str) -> str:
    """Explains that the connection to the coordinator is lost, which lies on process 0's host."""
    return f"The connection to process 0's host ({host}) is lost: the host or the network has failed."


def capital(text: str) -> str:
    """Returns the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def _alone_hint(membership: Membership) -> str:
    """Returns a hint for the shell of `srun --pty`, whose variables are those of a whole step."""
    if membership.platform == "flags":
        return ""
    return f" If this process is to train by itself, whatever {membership.job} says, add --alone."


def _loopback_hint(membership: Membership) -> str:
    address = membership.coordinator or ""
    if not is_loopback(address):
        return ""
    return (
        f" {split_address(address)[0]} is every host's name for itself: if the processes are on several hosts, "
        "--coordinator must be an address of process 0's host that the others reach."
    )
