"""A process of its own for work that needs JAX: with other devices or cores than this one, or beside its threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
import multiprocessing
import os
import signal
import threading
from typing import Any, Self, TypeVar

import jax

from podrl.allocator import keep_freed_memory
from podrl.platforms import available_cores, give_xla_two_threads

T = TypeVar("T")

_LIMIT_S = 600.0  # Longer than measuring and tracing take.


class Child:
    """A process on the CPU that does what it is asked for, one thing after the other. It ends with this one."""

    def __init__(self, *, devices: int = 1, cores: Sequence[int] = ()):
        """Starts nothing yet.

        Args:
            devices: virtual CPU devices that it has.
            cores: that it is bound to; all that this process has if empty.
        """
        self._executor = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(devices, cores),
        )

    def __enter__(self) -> Self:
        """Starts nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self._executor.shutdown(cancel_futures=True)

    def ask(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a function returns there; raises what it raises.

        Args:
            function: of a module, as it is named there.
            arguments: that can be pickled.

        Raises:
            RuntimeError: if there is no answer in time.
        """
        asked = self._executor.submit(function, *arguments)
        try:
            return asked.result(timeout=_LIMIT_S)
        except (TimeoutError, BrokenExecutor) as error:
            raise RuntimeError(
                f"No answer of {function.__name__} in {_LIMIT_S:.0f} s: {type(error).__name__}."
            ) from error


def _begin(devices: int, cores: Sequence[int]) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # They are for the process that asks, whose group this is in.
        signal.signal(signum, signal.SIG_IGN)
    if cores:
        os.sched_setaffinity(0, cores)
    keep_freed_memory()
    give_xla_two_threads(os.environ, available_cores())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def _end_with_parent() -> None:
    """Ends this process when the one that asks is gone, whatever happened to it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)
