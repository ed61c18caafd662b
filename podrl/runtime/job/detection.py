"""Finds a process's place in its job: alone, or one of several. Imports no JAX, so mistakes show at once.

Flags take precedence; then come the variables of SLURM, Open MPI or a TPU machine (`podrl.runtime.job.platforms`). Each
platform has its own way to agree on the coordinator: the address at which process 0 expects the others.
"""

from collections.abc import Callable, Mapping
import dataclasses

from podrl.config.config import ConfigError, check
from podrl.runtime.job.addresses import check_address
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.platforms.openmpi import openmpi_membership
from podrl.runtime.job.platforms.slurm import slurm_membership
from podrl.runtime.job.platforms.tpu import check_no_tpu_worker, gke_membership, tpu_membership
from podrl.runtime.job.tpu_metadata import tpu_metadata


def find_membership(
    environ: Mapping[str, str],
    *,
    coordinator: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
    metadata: Callable[[str], str | None] = tpu_metadata,
) -> Membership:
    """Finds this process's place in its job.

    Args:
        environ: the process's environment variables.
        coordinator: value of the flag --coordinator; replaces the platform's choice.
        process_count: value of the flag --process_count.
        process_index: value of the flag --process_index.
        metadata: returns the value that a TPU machine's metadata server has for a key; None on other machines.

    Raises:
        ConfigError: if the flags are incomplete or contradict the platform, or the platform's facts are incomplete.
        MetadataError: if a TPU machine's metadata server does not answer.
    """
    if coordinator is not None:
        check_address(coordinator)
    found = slurm_membership(environ) or openmpi_membership(environ, coordinator) or gke_membership(environ)
    if found is None and None in (process_count, process_index):
        found = tpu_membership(environ, metadata)
    if process_count is None and process_index is None:
        check(
            coordinator is None or (found is not None and found.process_count > 1),
            f"--coordinator={coordinator} needs --process_count and --process_index too: nothing here says how many "
            "processes there are.",
        )
        if found is None:
            check_no_tpu_worker(environ)
            return Membership(platform="alone")
        return dataclasses.replace(found, coordinator=coordinator) if coordinator else found
    if process_count is None or process_index is None:
        given, missing = ("count", "index") if process_index is None else ("index", "count")
        raise ConfigError(f"--process_{given} is given, but --process_{missing} is not. Give both, or none of them.")
    if found is not None and found.process_count > 1:
        check(
            (process_count, process_index) == (found.process_count, found.process_index),
            f"--process_index={process_index} --process_count={process_count} contradicts {found.job}, in which this "
            f"is process {found.process_index} of {found.process_count}. Remove these flags, or take --alone.",
        )
        return dataclasses.replace(found, coordinator=coordinator or found.coordinator)
    check(
        coordinator is not None or process_count == 1,
        f"--process_count={process_count} needs --coordinator=HOST:PORT, an address of process 0's host that all "
        "the others reach, the same for all.",
    )
    return Membership(
        platform="flags",
        process_index=process_index,
        process_count=process_count,
        coordinator=coordinator if process_count > 1 else None,
    )
