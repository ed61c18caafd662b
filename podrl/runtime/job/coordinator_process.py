"""The coordinator as a process: see `coordinator`; `coordinator_start` starts it."""

import json
import os
import resource
import socket
import sys

from podrl.runtime import stop_signals
from podrl.runtime.job.coordinator import Coordinator
from podrl.runtime.job.entrance import MOST_STRANGERS
from podrl.runtime.job.secret import VARIABLE

_OTHER_FILES = 64


def main(arguments: str) -> None:
    """Runs the coordinator until the last process of the job has left.

    Args:
        arguments: arguments of `Coordinator` as JSON, with the number of the listener's file and without the secret,
            which is passed in the environment: every user of the host can read arguments.
    """
    # Stop signals reach a whole group of processes, and this one has to outlive the others.
    stop_signals.ignore()
    options = json.loads(arguments)
    _allow_files(options["count"] + MOST_STRANGERS + _OTHER_FILES)
    secret = os.fsencode(os.environ.pop(VARIABLE))
    Coordinator(socket.socket(fileno=options.pop("listener")), **options, secret=secret).run()
    # Ends without a shutdown: JAX's service would wait for running calls, and complain of clients that died.
    os._exit(0)


def _allow_files(count: int) -> None:
    """Raises the limit of open files, which every connection counts against, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limited, most = soft != resource.RLIM_INFINITY, hard if hard != resource.RLIM_INFINITY else count
    if limited and soft < min(count, most):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, most), hard))


if __name__ == "__main__":
    main(sys.argv[1])
