"""Worker processes that share a pool's environments: environments in Python would otherwise wait for each other.

Each is a fresh interpreter, not a fork: a process with JAX has threads, which do not survive one. It imports no JAX,
ignores signals of the terminal and the scheduler, and ends with the process that started it.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
from multiprocessing import Pipe
from multiprocessing.connection import Connection
import os
import signal
import subprocess
import sys
from typing import Any

from absl import logging
import gymnasium
import numpy as np

from podrl.config.config import ConfigError
from podrl.config.programs import ROOT
from podrl.envs.workers.batch import Steps
from podrl.envs.workers.calls import EnvFailure
from podrl.envs.workers.progress import BusyEnvironment
from podrl.runtime.stop_signals import held_back
from podrl.runtime.waiting import Patience

_PROGRAM = "podrl.envs.workers.worker"
_GRACE_S = 2.0  # Time for a worker to end.
_CLOSING_S = 10.0  # Time for a worker to close its environments.
_OPENING_S = 60.0  # Time for a worker to start and make them: modules are imported, and all processes start at once.


class WorkerTraceback(Exception):
    """A worker process's printed traceback, as the cause of the error here."""

    def __str__(self) -> str:
        return f"in a worker process:\n{self.args[0]}"


@dataclasses.dataclass(kw_only=True)
class _Worker:
    """A process with environments `first` to `last` of the pool."""

    process: subprocess.Popen[bytes]
    connection: Connection
    progress: BusyEnvironment
    first: int
    last: int

    def busy_with(self) -> str:
        """Describes the worker's current work, for messages."""
        index = self.progress.read()
        return "before it had made any" if index is None else f"busy with environment {index}"


class WorkerBatch:
    """Environments divided among processes, with the interface of `EnvBatch` except pictures."""

    def __init__(
        self,
        makes: Sequence[Callable[[], gymnasium.Env]],
        seeds: Sequence[int],
        *,
        num_workers: int,
        timeout_s: float,
    ):
        """Starts the processes and makes the environments.

        Args:
            makes: [B] functions that make one environment each; must be picklable.
            seeds: [B], one per environment.
            num_workers: number of processes, at least 1; more than B are of no use and not started.
            timeout_s: seconds to wait for a reset or a step of a worker's environments; making them may always take a
                minute.

        Raises:
            EnvFailure: if an environment raises.
            TimeoutError: if an environment hangs; as in the other methods.
        """
        self.num_envs = len(seeds)
        self._timeout_s = timeout_s
        self._is_stuck = False
        self._workers: list[_Worker] = []
        try:
            for share in np.array_split(np.arange(len(seeds)), min(num_workers, len(seeds))):
                self._workers.append(_start(int(share[0]), int(share[-1])))
            shares = [(worker.first, slice(worker.first, worker.last + 1)) for worker in self._workers]
            self._request("open", [(list(makes[own]), list(seeds[own]), first) for first, own in shares])
            self.observation_space, self.action_space = self._answers(max(timeout_s, _OPENING_S))[0]
        except BaseException:
            self.close()
            raise

    def record_info(self, keys: Sequence[str]) -> None:
        """Makes steps have numbers of `info`, as `EnvBatch.record_info` does."""
        self._request("record_info", [(keys,)] * len(self._workers))
        self._answers(self._timeout_s)

    def reset(self) -> Any:
        """Opens an episode in every environment, as `EnvBatch.reset` does."""
        self._request("reset", [()] * len(self._workers))
        return _join(self._answers(self._timeout_s))

    def send(self, action: np.ndarray) -> None:
        """Starts a step with actions [B, ...] in the environments' own units."""
        shares = [action[worker.first : worker.last + 1] for worker in self._workers]
        self._request("step", [(share,) for share in shares])

    def recv(self) -> Steps:
        """Waits for the step that `send` started."""
        steps: list[Steps] = self._answers(self._timeout_s)
        return Steps(
            observation=_join([step.observation for step in steps]),
            reward=np.concatenate([step.reward for step in steps]),
            terminated=np.concatenate([step.terminated for step in steps]),
            ended=np.concatenate([step.ended for step in steps]),
            numbers={
                worker.first + env: numbers
                for worker, step in zip(self._workers, steps, strict=True)
                for env, numbers in step.numbers.items()
            },
        )

    def close(self) -> None:
        """Ends the processes, by force if they do not end by themselves; may be called again."""
        for worker in self._workers:
            worker.connection.close()
        patience = Patience(0.0 if self._is_stuck else _CLOSING_S)
        while self._workers:
            worker = self._workers.pop()
            while worker.process.poll() is None and patience.left_s():
                _wait_briefly(worker.process)
            if worker.process.poll() is None and not self._is_stuck:
                logging.warning(
                    "The worker process of environments %d to %d of the pool, in close %s, has not ended after %.0f s "
                    "and is killed. The run continues.",
                    *(worker.first, worker.last, worker.busy_with(), _CLOSING_S),
                )
            worker.process.kill()
            worker.process.wait()
            worker.progress.close()

    def _request(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        for worker, own in zip(self._workers, arguments, strict=True):
            try:
                worker.connection.send((method, own))
            except ConnectionError:
                self._report_death(worker)

    def _answers(self, timeout_s: float) -> list[Any]:
        """Returns one answer of each worker, in order."""
        patience = Patience(timeout_s)
        return [self._answer(worker, patience, timeout_s) for worker in self._workers]

    def _answer(self, worker: _Worker, patience: Patience, timeout_s: float) -> Any:
        while not worker.connection.poll(min(left_s := patience.left_s(), 1.0)):
            if not left_s:
                self._is_stuck = True
                raise TimeoutError(
                    f"The worker process of environments {worker.first} to {worker.last} of the pool has not answered "
                    f"for {timeout_s:g} s; it is {worker.busy_with()}. If that can be, raise "
                    "env.worker_timeout_s."
                )
        try:
            succeeded, result = worker.connection.recv()
        except (EOFError, ConnectionError):
            self._report_death(worker)
        if not succeeded:
            is_mistake, message, trace = result
            raise (ConfigError if is_mistake else EnvFailure)(message) from WorkerTraceback(trace)
        return result

    def _report_death(self, worker: _Worker) -> None:
        """Raises `EnvFailure` for a lost worker."""
        patience = Patience(_GRACE_S)
        while worker.process.poll() is None and patience.left_s():
            _wait_briefly(worker.process)
        code = worker.process.returncode
        how = "closed its connection" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += " (was there enough memory?)" if -code == signal.SIGKILL else ""
        raise EnvFailure(
            f"The worker process of environments {worker.first} to {worker.last} of the pool {how}, "
            f"{worker.busy_with()}."
        )


def _join(parts: Sequence[Any]) -> Any:
    """Concatenates nested dictionaries and tuples of arrays [b, ...]."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: _join([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(_join(entries) for entries in zip(*parts, strict=True))
    return np.concatenate(parts)


def _start(first: int, last: int) -> _Worker:
    """Starts a process for environments `first` to `last`, without making them."""
    ours, theirs = Pipe()
    progress = BusyEnvironment()
    try:
        with held_back():
            process = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM, str(theirs.fileno()), str(progress.fd)],
                pass_fds=(theirs.fileno(), progress.fd),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path), os.getcwd()]),
                    "JAX_PLATFORMS": "cpu",  # Accelerators belong to the parent.
                    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # There are workers for every core.
                },
            )
    finally:
        theirs.close()
    return _Worker(process=process, connection=ours, progress=progress, first=first, last=last)


def _wait_briefly(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
