"""A process that steps a share of a pool's environments: `python -m podrl.envs.workers.worker`, started by podrl.

It receives requests (a method of `EnvBatch` and its arguments) on the connection with a given file descriptor, and
answers each with `(True, result)` or `(False, (is_mistake, message, traceback))`. It ends when the connection does, and
with the process that started it, whatever its environments do meanwhile.
"""

import contextlib
import faulthandler
from multiprocessing.connection import Connection
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

from podrl.config.config import ConfigError
from podrl.config.user_modules import give_way
from podrl.envs.workers.batch import EnvBatch
from podrl.envs.workers.progress import BusyEnvironment
from podrl.runtime import stop_signals
from podrl.runtime.signal_handlers import KeptHandlers
from podrl.runtime.streams import keep_printing

_LOOKS_S = 1.0  # Seconds between checks that the parent still runs.


def main(connection_fd: int, progress_fd: int) -> None:
    """Serves requests until the connection ends.

    Args:
        connection_fd: file descriptor of the connection to the parent.
        progress_fd: file descriptor of the file in which the parent reads the worker's progress.
    """
    stop_signals.ignore()  # What stops the run stops the parent, which may first finish an update.
    keep_printing()
    give_way()
    faulthandler.enable()  # A crash shows the environment's name in its stack.
    with KeptHandlers(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)) as kept:
        threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
        _serve(Connection(connection_fd), BusyEnvironment(progress_fd), kept)


def _serve(connection: Connection, progress: BusyEnvironment, kept: KeptHandlers) -> None:
    """Answers requests until the connection ends, and closes the environments."""
    batch: EnvBatch | None = None
    while (request := _receive(connection)) is not None:
        method, arguments = request
        try:
            if method == "open":
                makes, seeds, first_index = arguments
                batch = EnvBatch(makes, seeds, first_index=first_index, on_turn=progress.write)
                result = (batch.observation_space, batch.action_space)
            else:
                result = getattr(batch, method)(*arguments)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (raised in the parent)
            _answer(connection, False, (isinstance(error, ConfigError), str(error), traceback.format_exc()))
        else:
            _answer(connection, True, result)
        if method != "step":  # Environments usually register handlers in other methods.
            kept.renew()
    if batch is not None:
        batch.close()


def _receive(connection: Connection) -> Any:
    """Returns the next request; None if the parent has closed the connection."""
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        return None


def _answer(connection: Connection, succeeded: bool, result: Any) -> None:
    with contextlib.suppress(ConnectionError):  # The parent has closed the connection; the next `_receive` notices.
        connection.send((succeeded, result))


def _leave_with(parent: int) -> None:
    """Ends this process when its parent has ended, even from within an environment that never returns."""
    while os.getppid() == parent:
        time.sleep(_LOOKS_S)
    os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
