"""A process's place in its job. Imports no JAX, so mistakes show at once."""

import dataclasses
import socket

from podrl.config.config import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Membership:
    """A process's place in its job.

    Attributes:
        platform: where the place was found: 'alone', 'flags', 'slurm', 'openmpi', 'tpu' or 'gke'.
        process_index: index of the process, from 0.
        process_count: number of processes in the job.
        coordinator: 'host:port' where process 0 expects the others; None in a job of one process.
        local_index: index among the job's processes on this host, from 0.
        processes_here: number of the job's processes on this host, as far as the platform says.
        job: the job's name, for people; empty if it has none.
        hosts: host of every process, by index; empty where the platform does not say.
        host: this process's host.
    """

    platform: str
    process_index: int = 0
    process_count: int = 1
    coordinator: str | None = None
    local_index: int = 0
    processes_here: int = 1
    job: str = ""
    hosts: tuple[str, ...] = ()
    host: str = dataclasses.field(default_factory=socket.gethostname)

    def __post_init__(self) -> None:
        """Checks that the numbers fit together."""
        index, count = self.process_index, self.process_count
        check(count >= 1, f"--process_count={count} must be at least 1.")
        check(
            0 <= index < count,
            f"--process_index={index} must be between 0 and {count - 1}, because there are {count} processes.",
        )

    def describe(self) -> str:
        """Returns one line for the log."""
        if self.process_count == 1:
            return f"{self.job}: the only process" if self.job else "One process"
        name = f"{self.job}: process" if self.job else "Process"
        coordinator = f", coordinator {self.coordinator}"
        return f"{name} {self.process_index} of {self.process_count} on {self.host}{coordinator}"

    def name_of(self, index: int) -> str:
        """Returns a process's name for people: `process 1 (node2)`."""
        return f"process {index} ({self.hosts[index]})" if index < len(self.hosts) else f"process {index}"
