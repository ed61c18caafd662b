"""The commands of workers, `tools/env_worker.py` and `tools/actor_worker.py`: their flags, and how they end."""

import argparse
from collections.abc import Callable
import os
import signal
import sys
from types import FrameType

from absl import logging

from podrl.config.commandline import Parser
from podrl.config.config import ConfigError
from podrl.config.extras import install_command
from podrl.config.paths import absolute
from podrl.config.ranges import LONGEST_S, check_flag
from podrl.runtime import stop_signals
from podrl.runtime.job.secret import VARIABLE
from podrl.runtime.plain_logging import log_as
from podrl.runtime.process_exit import contained
from podrl.runtime.streams import keep_printing

_exit = os._exit  # Before a run replaces it.


def parse_worker_flags(argv: list[str], usage: str) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name; `usage` is its help.

    Raises:
        ConfigError: on an unknown flag or a value that cannot work.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=usage, allow_abbrev=False)
    parser.add_argument(
        "--connect",
        required=True,
        metavar="ADDRESS",
        help="the run's remote.address; or those of all its processes, with commas between, of which a worker of "
        "SLURM or Kubernetes takes one by its number",
    )
    parser.add_argument(
        "--worker_certificates",
        type=absolute,
        metavar="FOLDER",
        help="folder by make_job_credentials.py, or cert.pem, key.pem and ca.pem of this side, for TLS",
    )
    parser.add_argument(
        "--env_threads", type=int, default=0, help="threads of each pool (actors.env_threads, or cores over pools)"
    )
    parser.add_argument("--wait_s", type=float, default=600.0, help="how long the learner may take to be there (600)")
    parser.add_argument("--quiet", action="store_true", help="say only what is wrong")
    flags = parser.parse_args(argv[1:])
    check_flag("env_threads", flags.env_threads, 0, 4096)
    check_flag("wait_s", flags.wait_s, 0.001, LONGEST_S)
    return flags


def run_worker(flags: argparse.Namespace, program: str, load: Callable[[], Callable[..., None]]) -> int:
    """Serves the learner until its run ends, and returns the exit code.

    Args:
        flags: the result of `parse_worker_flags`.
        program: the program's name.
        load: () -> `podrl.experience.remote.worker.serve_learner`, or another function that takes the same.
    """
    os.environ.pop(VARIABLE, None)  # Environments have no part in the processes' own secret.
    os.environ["JAX_PLATFORMS"] = "cpu"  # Accelerators are the learner's.
    log_as("worker", quiet=flags.quiet)
    keep_printing()
    if flags.quiet:  # The launcher's run has ended before it had time for this worker, which is no news.
        signal.signal(signal.SIGTERM, lambda signum, frame: _exit(stop_signals.PREEMPTED))
    from podrl.experience.remote.choice import choose_learner
    from podrl.experience.remote.endpoint import make_endpoint
    from podrl.experience.remote.env_workers import read_secret
    from podrl.experience.remote.grpc_options import set_up_grpc

    set_up_grpc()
    try:
        from podrl.experience.remote.worker import LostLearnerError

        serve = load()
    except ImportError as error:
        raise ConfigError(f"{error}. Install what workers need: {install_command('workers')}") from None
    address = choose_learner(flags.connect, os.environ)
    endpoint = make_endpoint("--connect", address, flags.worker_certificates or "", "--worker_certificates")
    secret = read_secret(os.environ, address, is_local=endpoint.is_local, certificates=endpoint.certificates)
    signals = _Signals()
    try:
        with contained(by_ctrl_c=True):
            serve(
                endpoint,
                secret,
                wait_s=flags.wait_s,
                env_threads=flags.env_threads,
                begin=signals.begin,
                lose=signals.lose,
            )
    except LostLearnerError as error:
        sys.stderr.write(f"{program}: error: {error}\n")
        return 1
    return 0


class _Signals:
    """Lets this process serve a learner that was told to stop, too: it has an update to finish, and to save."""

    def __init__(self) -> None:
        self._urgency = stop_signals.Urgency()
        self._is_serving = False
        self._noted: int | None = None

    def begin(self) -> None:
        """From now on a learner is served: the first signal is only noted."""
        self._is_serving = True
        for signum in stop_signals.EXIT_CODES:
            signal.signal(signum, self._note)

    def lose(self) -> None:
        """The learner was lost: a signal ends this process, also one that was noted."""
        self._is_serving = False
        if self._noted is not None:
            _exit(stop_signals.EXIT_CODES[signal.Signals(self._noted)])

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._noted = signum
        if self._urgency.is_second(signum) or not self._is_serving:
            _exit(stop_signals.EXIT_CODES[signal.Signals(signum)])
        logging.warning("This worker ends when its run does; the same signal again ends it at once, and the run fails.")
