"""Sets up the process of a run before JAX looks for devices: logging, memory, XLA's flags, compiled programs."""

from collections.abc import Iterator
import contextlib
import logging
import os
import sys
import warnings

import ml_collections

from podrl.assembly import resolve
from podrl.config.config import Config
from podrl.runtime.compilation_cache import use_compilation_cache
from podrl.runtime.container_limits import check_threads
from podrl.runtime.job.local_gpus import check_gpus
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.place import warn_of_unread_launcher
from podrl.runtime.machine import available_cores, jax_plugins, keep_freed_memory
from podrl.runtime.streams import keep_printing
from podrl.runtime.xla_flags import require_determinism, suit_xla_to_cpu
from podrl.telemetry.log_lines import configure_logging


def set_up_process(asked: ml_collections.ConfigDict, membership: Membership, *, alone: bool) -> Config:
    """Sets up logging, devices and memory of this process before JAX starts, and returns the run's config.

    Args:
        asked: The config with its overrides.
        membership: The process's place in its job.
        alone: Whether the user says that it is the only process.

    Raises:
        ConfigError: On a mistake in the config, or flags of XLA that do not go with it.
    """
    configure_logging(membership.process_index)
    keep_printing()
    warn_of_unread_launcher(os.environ, membership, alone=alone)
    check_gpus(os.environ, membership, jax_plugins())
    keep_freed_memory()
    suit_xla_to_cpu(os.environ, jax_plugins())
    check_threads(os.environ, available_cores())
    use_compilation_cache()
    config = resolve(asked)
    if config.determinism == "exact":
        require_determinism(os.environ, jax_plugins())
    return config


@contextlib.contextmanager
def borrowed_logging() -> Iterator[None]:
    """Lends a run the program's logging, warnings and streams, and gives them back at its end.

    Handlers that write to the terminal are set aside: absl removes them once per process, and with a later run's lines
    they would repeat podrl's and show those of libraries.
    """
    root, streams = logging.getLogger(), (sys.stdout, sys.stderr)
    handlers, level = list(root.handlers), root.level
    root.handlers[:] = [each for each in handlers if getattr(each, "stream", None) not in (*streams, sys.__stderr__)]
    with warnings.catch_warnings():
        try:
            yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            sys.stdout, sys.stderr = streams
