"""A trace of a few updates: what every thread and every device did, and when.

JAX's profiler records the programs that devices execute and, by name, the buckets that podrl's threads spend their
time in (`podrl.runtime.ledger`), so that one picture shows what overlaps and which thread waits for which. No update
is launched while the file is written, which takes seconds: the rates of a profiled run are too low.
"""

import time
from types import TracebackType

from absl import logging
from etils import epath
import jax

from podrl.runtime.ledger import Annotate

SKIPPED_UPDATES = 5  # Updates in which the pipeline fills and caches warm up.
TRACED_UPDATES = 5


class Profiler:
    """Owns the trace of one window of updates: opens it, closes it, and logs where it is.

    A process can have one trace at a time, so it must be closed in any case: use it as a context.

    Attributes:
        last_update: number of the run's last update.
        annotate: shows a named span in the trace, for ledgers; None if nothing is to be profiled.
    """

    def __init__(self, folder: epath.PathLike, *, last_update: int, enabled: bool = True):
        """Prepares a trace that starts with a later update.

        Args:
            folder: folder that the trace is written to.
            last_update: number of the run's last update; may be changed until the first update.
            enabled: false for a profiler that does nothing.
        """
        self._folder = epath.Path(folder)
        self.last_update = last_update
        self._window: range | None = None
        self._waiting, self._tracing = enabled, False
        self._newest = 0
        self._step: jax.profiler.StepTraceAnnotation | None = None
        self.annotate: Annotate | None = jax.profiler.TraceAnnotation if enabled else None

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def before_update(self, update: int) -> None:
        """Starts or stops the trace when it is time; call it before every update, or call of several, from one thread.

        Args:
            update: number of the next update.
        """
        self._end_step()
        self._window = self._window or choose_window(update, self.last_update)
        if self._waiting and update >= self._window.start:
            self._window = range(update, max(update + 1, self._window.stop))
            self._start()
        # The previous update (or call) may still run on its devices; the one before that has ended.
        if self._tracing and self._newest >= self._window.stop:
            self._stop(range(self._window.start, self._newest))
        self._newest = update
        if self._tracing:
            self._step = jax.profiler.StepTraceAnnotation("update", step_num=update)
            self._step.__enter__()

    def close(self) -> None:
        """Stops the trace if it is running; may be called twice."""
        self._end_step()
        if self._tracing and self._window is not None:
            self._stop(range(self._window.start, min(self._window.stop, self._newest + 1)))
        if self._waiting and self._newest:
            self._waiting = False
            logging.info("Nothing was profiled: the run ended within its first %d updates.", SKIPPED_UPDATES)

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # A span for every call of a Python function would hide all others.
        jax.profiler.start_trace(self._folder, profiler_options=options)
        self._waiting, self._tracing = False, True

    def _stop(self, window: range) -> None:
        start_s = time.perf_counter()
        self._tracing = False
        jax.profiler.stop_trace()
        path = max(self._folder.glob("plugins/profile/*/*.trace.json.gz"))  # Folders are named by their time.
        logging.info(
            "Profiled updates %d to %d, written in %.1f s: open %s in https://ui.perfetto.dev, or pip install xprof "
            "and run xprof --logdir=%s",
            window.start,
            window.stop - 1,
            time.perf_counter() - start_s,
            path,
            self._folder,
        )

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None


def choose_window(first: int, last: int) -> range:
    """Returns the updates to trace in a run from `first` to `last`; in a short run its end and part of the warm-up."""
    stop = min(first + SKIPPED_UPDATES + TRACED_UPDATES, last + 1)
    return range(max(first, stop - TRACED_UPDATES), stop)
