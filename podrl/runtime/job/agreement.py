"""Agreement between the processes of a job: values that they share before training, and when to stop.

Whatever decides what a process does next must be equal on all of them, or one waits in a reduction for others that
have left. So a process that is told to stop says so in a reduction, and all stop after the same update.
"""

from collections.abc import Callable
import json
from typing import Any, TypeVar

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from podrl.config.config import MISTAKE, ConfigError
from podrl.mesh import replicated
from podrl.runtime.interruption import Stop
from podrl.runtime.job.job import Job

_T = TypeVar("_T")


def from_first(job: Job, name: str, make: Callable[[], Any], timeout_s: float) -> Any:
    """Returns, on all processes, what the first process makes.

    Args:
        job: the job as this process sees it.
        name: name of the result, for messages.
        make: called on the first process only; returns what JSON can hold.
        timeout_s: seconds that the other processes wait for the result.

    Raises:
        ConfigError: on all processes, if it is raised on the first; the job is left in good order before that.
        TimeoutError: if the result does not arrive in time.
    """
    if job.process_count == 1:
        return make()
    made, mistake = None, ""
    if job.process_index == 0:
        try:
            made = make()
        except ConfigError as error:
            mistake = str(error)
    made, mistake = json.loads(job.exchange(name, json.dumps([made, mistake]), timeout_s)[0])
    if mistake:
        job.leave(MISTAKE)
        raise ConfigError(mistake)
    return made


def together(job: Job, name: str, make: Callable[[], _T], timeout_s: float) -> _T:
    """Returns what each process makes for itself; if one finds a mistake, all processes raise it.

    Args:
        job: the job as this process sees it.
        name: name of the result, for messages.
        make: called on every process.
        timeout_s: how much longer than the others a process may take, in seconds.

    Raises:
        ConfigError: on all processes, if it is raised on any; the job is left in good order before that.
        TimeoutError: if a process does not answer in time.
    """
    if job.process_count == 1:
        return make()
    made: _T | None = None
    mistake = ""
    try:
        made = make()
    except ConfigError as error:
        mistake = str(error)
    mistakes = job.exchange(name, mistake, timeout_s)
    if made is not None and not any(mistakes):
        return made
    job.leave(MISTAKE)
    process = next(process for process, text in enumerate(mistakes) if text)
    raise ConfigError(mistake or f"{job.name_of(process)}: {mistakes[process]}")


def make_stop(job: Job, learner: Mesh, stop_code: Callable[[], int]) -> tuple[Stop, Callable[[], None]]:
    """What tells a run to stop, and what every process calls before each update.

    Args:
        job: All processes.
        learner: The learner mesh of the whole job.
        stop_code: Returns the exit code of the signal that has come to this process; 0 if none has.
    """
    if job.process_count == 1:
        return Stop(code=stop_code, now=lambda: bool(stop_code())), lambda: None
    vote = StopVote(learner, stop_code)
    return Stop(code=vote, now=lambda: bool(stop_code()), alone=False), vote.cast


class StopVote:
    """Lets all processes learn, before the same update, whether any of them was told to stop.

    The devices count the votes cast before update n while they make that update, and the result is read before update
    n + 1, so that no process waits for it: a job stops at most two updates after the signal.
    """

    def __init__(self, learner: Mesh, stop_code: Callable[[], int]):
        """Compiles the reduction.

        Args:
            learner: the learner mesh of the whole job.
            stop_code: returns the exit code of the signal that this process received; 0 without one.
        """
        self._stop_code = stop_code
        self._devices = [device for device in learner.devices.flat if device.process_index == jax.process_index()]
        self._shape = (learner.size,)
        self._sharding = NamedSharding(learner, PartitionSpec(learner.axis_names))
        votes = jax.ShapeDtypeStruct(self._shape, np.int32, sharding=self._sharding)
        self._count = jax.jit(jnp.max, out_shardings=replicated(learner)).lower(votes).compile()
        self._counted: jax.Array | None = None

    def __call__(self) -> int:
        """Returns the highest exit code in the last vote; 0 if no process was told to stop."""
        return 0 if self._counted is None else int(self._counted)

    def cast(self) -> None:
        """Casts this process's vote; every process does so once before every update."""
        mine = np.full((1,), self._stop_code(), np.int32)
        votes = [jax.device_put(mine, device) for device in self._devices]
        self._counted = self._count(jax.make_array_from_single_device_arrays(self._shape, self._sharding, votes))
