"""Environment workers that a process starts for itself, on its own host, with no launcher around it."""

from collections.abc import Sequence
import contextlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
from types import TracebackType

from podrl.config.programs import start_arguments
from podrl.experience.remote.endpoint import UNIX
from podrl.runtime.job.secret import FILE_VARIABLE, make_secret
from podrl.runtime.waiting import Patience

_GRACE_S = 5.0  # Until workers that have not ended with their learner are killed.


class OwnWorkers:
    """Processes with a socket and a secret of their own; a context manager that ends them.

    Attributes:
        address: Where they look for their learner.
        secret_file: The file with their secret.
    """

    def __init__(self, count: int, wait_s: float) -> None:
        """Starts them.

        Args:
            count: Their number.
            wait_s: Seconds that they wait for their learner.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="podrl-")
        self.address = f"{UNIX}{self._folder.name}/workers"
        self.secret_file = Path(self._folder.name) / "secret"
        with open(self.secret_file, "w", opener=_open_private) as file:
            file.write(make_secret())
        flags = ("--connect", self.address, "--wait_s", str(wait_s), "--quiet")
        command = [sys.executable, *start_arguments("env_worker"), *flags]
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                self._processes.append(self._start(command))
        except OSError:
            _end(self._processes)
            self._folder.cleanup()
            raise

    def __enter__(self) -> "OwnWorkers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits a moment for the workers, whose learner has told them to end, and kills those that are left."""
        _end(self._processes)
        self._folder.cleanup()

    def check(self) -> bool:
        """Returns whether all workers run.

        Raises:
            RuntimeError: If one has ended.
        """
        for process in self._processes:
            if (code := process.poll()) is not None:
                raise RuntimeError(
                    f"The environment worker in process {process.pid} ended with exit code {code}; it says why."
                )
        return True

    def _start(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            env={**os.environ, FILE_VARIABLE: str(self.secret_file)},
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the learner, which ends them.
        )


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    patience = Patience(_GRACE_S)
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience.left_s())
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o600)
