"""The signals that stop a run, and what they do before and after it.

`stand` belongs on a command's first line: it imports nothing slow. The kernel drops a signal without a handler if the
process is number 1 of its container, so that without `stand` SIGTERM would do nothing until the kubelet's SIGKILL.
During a run `podrl.runtime.interruption` takes over.

Processes that serve a run, such as those of environments, ignore these signals: a scheduler sends them to all
processes, and a process that has to save needs the others until then.
"""

from collections.abc import Callable, Iterator
import contextlib
import math
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from podrl.runtime.container_limits import explain_limit

INTERRUPTED = 130  # A shell's exit code for a command that Ctrl-C ended.
PREEMPTED = 75  # EX_TEMPFAIL in sysexits.h: try the same command again.
# Signals by which schedulers announce the end; the kernel sends XCPU at a limit of CPU time, once a second.
NOTICES = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
EXIT_CODES = {signal.SIGINT: INTERRUPTED} | dict.fromkeys((signal.SIGTERM, signal.SIGHUP, *NOTICES), PREEMPTED)
_SAME_S = 1.0  # `timeout` and some schedulers signal a process and then its group: that counts once.
_watched = False  # Whether a thread handles the signals whose handler is `_leave`.
_exit = os._exit  # Before a run replaces it.


class Urgency:
    """Tells a second request to stop, which means at once, from a first request that was sent twice."""

    def __init__(self) -> None:
        """Starts without any request."""
        self._first_s: float | None = None
        self._notice_s = math.inf

    def is_second(self, signum: int) -> bool:
        """Counts a signal and returns whether it is a second request to stop.

        Notices are no requests, since SIGTERM follows them in any case. Nor are signals that come together with the
        first notice: a launcher that received the notice too sends SIGTERM for it.
        """
        now_s = time.monotonic()
        if signum in NOTICES:
            self._notice_s = min(now_s, self._notice_s)
            if self._first_s is not None and abs(self._notice_s - self._first_s) <= _SAME_S:
                self._first_s = None
            return False
        if abs(now_s - self._notice_s) <= _SAME_S:
            return False
        if self._first_s is None:
            self._first_s = now_s
            return False
        return signum != signal.SIGHUP and now_s - self._first_s > _SAME_S


def stand() -> None:
    """Makes these signals end the process with their exit code from now on, as there is nothing to save yet.

    A signal that is ignored, or has a handler, is left alone.
    """
    for signum in EXIT_CODES:
        if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(signum, _leave)


def raise_ctrl_c() -> None:
    """Makes Ctrl-C a `KeyboardInterrupt` again, after which calls that wait for other programs clean up."""
    if signal.getsignal(signal.SIGINT) == _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def stands(signum: signal.Signals) -> bool:
    """Returns whether a signal has no handler except that of `stand`."""
    return signal.getsignal(signum) in (signal.SIG_DFL, _leave)


@contextlib.contextmanager
def ending_waits(tell: Callable[[str, int], None]) -> Iterator[None]:
    """Lets signals end the process even while the main thread is in a call to C that returns late or never.

    Args:
        tell: called with the reason why this process is about to end, and its exit code.
    """
    global _watched
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reading, tell), name="signals", daemon=True)
    watcher.start()
    _watched = True
    try:
        yield
    finally:
        _watched = False
        signal.set_wakeup_fd(before)
        os.close(writing)  # Ends the watching thread.
        watcher.join()
        os.close(reading)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Blocks these signals in processes started meanwhile until they `ignore` them, so that none takes effect."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Ignores these signals, in a process that serves another one and ends with it."""
    for signum in EXIT_CODES:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)


def _watch(reading: int, tell: Callable[[str, int], None]) -> None:
    while numbers := os.read(reading, 1):
        signum = numbers[0]
        if signum in EXIT_CODES and signal.getsignal(signum) == _leave:
            stopping = signal.Signals(signum)
            tell(f"told to stop by {stopping.name}", EXIT_CODES[stopping])
            _end(signum)


def _leave(signum: int, frame: FrameType | None) -> Any:
    """Ends the process, unless a thread is about to do so; a signal handler."""
    if not _watched:
        _end(signum)


def _end(signum: int) -> None:
    stopping = signal.Signals(signum)
    said, code = f"stopped by {stopping.name}, with no update in progress.", EXIT_CODES[stopping]
    if stopping == signal.SIGINT:
        said = "interrupted before anything was begun."
        if limit := explain_limit():
            said, code = f"error: {limit}", 1
    with contextlib.suppress(OSError):
        os.write(2, f"podrl: {said}\n".encode())
    _exit(code)
