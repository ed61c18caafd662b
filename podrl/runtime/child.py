"""A process of its own for work that needs JAX: with other devices or cores than this one, or beside its threads."""

import atexit
from collections.abc import Callable, Sequence
import multiprocessing
from multiprocessing.connection import Connection
import os
import threading
from typing import Any, Self, TypeVar

import jax

from podrl.runtime import stop_signals
from podrl.runtime.machine import keep_freed_memory
from podrl.runtime.xla_flags import suit_xla_to_cpu

_T = TypeVar("_T")

_LIMIT_S = 1200.0  # Longer than measuring and tracing take.


class Child:
    """A process on the CPU that does what it is asked for, one thing after the other. It ends with this one."""

    def __init__(self, *, devices: int = 1, cores: Sequence[int] = ()):
        """Starts with the first question, with so many virtual CPU devices, on these cores; on all if empty."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, devices, tuple(cores)))
        atexit.register(self.close)  # Python would wait for it.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it at once, whatever it does."""
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()

    def ask(self, function: Callable[..., _T], *arguments: Any, limit_s: float = _LIMIT_S) -> _T:
        """What a function of a module returns there; raises what it raises.

        Raises:
            RuntimeError: if there is no answer in time, or the process was ended.
        """
        if self._process.pid is None:
            with stop_signals.held_back():
                self._process.start()
        self._connection.send((function, arguments))
        if not self._connection.poll(limit_s):
            self.close()
            raise RuntimeError(f"{function.__name__} did not end within {limit_s:.0f} s in a process of its own.")
        try:
            error, found = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"{function.__name__} ended its process with exit code {self._process.exitcode}; -9 is often for want "
                "of memory."
            ) from None
        if error is not None:
            raise error
        return found


def _serve(connection: Connection, devices: int, cores: Sequence[int]) -> None:
    """What the process does."""
    stop_signals.ignore()  # They are for the process that asks, in this group.
    if cores:
        os.sched_setaffinity(0, cores)
    keep_freed_memory()
    suit_xla_to_cpu(os.environ)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    while True:
        function, arguments = connection.recv()
        answer: tuple[Exception | None, Any]
        try:
            answer = None, function(*arguments)
        except Exception as error:  # noqa: BLE001 (raised in the process that asked)
            answer = error, None
        connection.send(answer)


def _end_with_parent() -> None:
    """Ends this process when the one that asks is gone, whatever happened to it."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(0)
