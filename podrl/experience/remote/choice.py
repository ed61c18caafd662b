"""Which of a job's processes an environment worker serves, where a scheduler has started both."""

from collections.abc import Mapping

from podrl.config.config import check
from podrl.runtime.job.platforms.variables import whole_variable

# A worker's number among all: of SLURM's tasks, or of Kubernetes' pods.
_NUMBERS = ("SLURM_PROCID", "JOB_COMPLETION_INDEX")


def choose_learner(addresses: str, environ: Mapping[str, str]) -> str:
    """Returns the address of the learner's process that this worker serves: the workers take turns.

    Args:
        addresses: one address, or several with commas between, one of each of the job's processes.
        environ: environment variables; one has this worker's number, if there are several addresses.

    Raises:
        ConfigError: if there are several addresses, and none of the variables.
    """
    choice = addresses.split(",")
    if len(choice) == 1:
        return addresses
    numbers = [number for name in _NUMBERS if (number := whole_variable(environ, name)) is not None]
    check(
        bool(numbers),
        f"--connect={addresses} names {len(choice)} processes, and neither {' nor '.join(_NUMBERS)} says which of them "
        "this worker serves. Name one.",
    )
    return choice[numbers[0] % len(choice)]
