"""Starts a run: sets up its process before JAX looks for devices, and then puts its parts together."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import logging
import os
import sys
import warnings

import ml_collections

from podrl.assembly import assemble, resolve
from podrl.config.config import Config
from podrl.evaluation.endless import check_evaluation
from podrl.loops.interface import Assembly
from podrl.loops.recorded_start import check_same_data
from podrl.runs.workdir import saved_network
from podrl.runtime.compilation_cache import use_compilation_cache
from podrl.runtime.container_limits import check_threads
from podrl.runtime.job.agreement import from_first, together
from podrl.runtime.job.job import Job
from podrl.runtime.job.local_gpus import check_gpus
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.place import warn_of_unread_launcher
from podrl.runtime.machine import available_cores, jax_plugins, keep_freed_memory
from podrl.runtime.streams import keep_printing
from podrl.runtime.watchdog import Watchdog
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


def assemble_job(config: Config, job: Job, on_stall: Callable[[], None], resumes_in: str | None = None) -> Assembly:
    """Puts the parts of a run together on every process, and tries whether its evaluations can end.

    Args:
        config: The run's config.
        job: All processes.
        on_stall: Called by the watchdog before it ends a process that stands still.
        resumes_in: Folder that may hold the run; None if it begins anew.

    Raises:
        ConfigError: On all processes, if the parts do not fit together on one of them.
    """
    with Watchdog(config.watchdog_s, on_stall=on_stall) as watchdog:  # An environment may hang in its constructor.
        assembly = together(
            job,
            "parts of the run",
            lambda: assemble(config, watching=watchdog.during, network_before=saved_network(resumes_in)),
            config.actors.timeout_s,
        )
        check_same_data(assembly, job)
        parts = (assembly.config, assembly.source, assembly.spec)
        can_end = functools.partial(check_evaluation, *parts, watching=watchdog.during)
        from_first(job, "evaluation", can_end, timeout_s=config.patience_s)
    return assembly
