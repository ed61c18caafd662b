"""What the person in front of the run sees.

On a terminal a small panel that stays below the log lines; in a log file (SLURM, CI, a pipe) one plain line per row of
metrics; at the end of both a short summary. Everything goes to stdout, and log lines to stderr.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import importlib.util
import logging
import math
import os
import sys
import time
from types import TracebackType
from typing import Any
import warnings

from absl import flags
from absl import logging as absl_logging
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from podrl.telemetry.panel import PANEL_WIDTH, Progress, Summary, duration, make_panel, plain_line, summary_text
from podrl.types import Counters

REFRESHES_PER_SECOND = 4
# Libraries whose log lines below ERROR say nothing to the user of podrl; some of them log as absl does.
QUIET_LIBRARIES = ("orbax", "etils", "flax", "tensorstore", "tensorboardX")
# Modules that log an exception, from up to four threads, and raise it as well: whoever called reports it in one line.
RAISING_MODULES = (
    "orbax/checkpoint/checkpoint_manager.py",
    "orbax/checkpoint/_src/checkpointers/async_checkpointer.py",
    "orbax/checkpoint/_src/futures/future.py",
)


class Display:
    """Shows phases, progress and the summary of one run; a context manager that gives the terminal back.

    Only the main thread calls its methods. Anything that ends the process without leaving the context (a watchdog)
    calls `close` first, or the terminal keeps its cursor hidden.
    """

    def __init__(
        self,
        name: str,
        env_id: str,
        total_env_steps: int,
        workdir: Any,
        console: Console | None = None,
        *,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Shows nothing yet.

        Args:
            name: the run's name.
            env_id: the environment's.
            total_env_steps: where the run ends.
            workdir: the run's folder, a path or a string.
            console: where to write; None is stdout, where long lines are left to the terminal to wrap.
            interval_s: least seconds between two plain lines; the first and the last row are always shown.
            clock: seconds, monotonic.
        """
        self._title = f"{name} on {env_id}"
        self._total_env_steps = total_env_steps
        self._workdir = str(workdir)
        # FORCE_COLOR, which a notebook sets, makes any stream a terminal for Rich; not one that takes lines back.
        self._redraws = console is not None or sys.stdout.isatty()
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._interval_s = interval_s
        self._clock = clock
        self._start_s = clock()
        self._phase: tuple[str, float] | None = None
        self._row: Mapping[str, Any] = {}
        self._ended: Counters | None = None
        self._first_point: tuple[float, float] | None = None
        self._left_s: float | None = None
        self._line_s = -math.inf
        self._unshown = False
        self._live: Live | None = None
        self._redirected: tuple[logging.StreamHandler, Any] | None = None

    def __enter__(self) -> "Display":
        """Takes the lower lines of the terminal, if there is one."""
        if self._redraws and self._console.is_terminal and not self._console.is_dumb_terminal:
            on_terminal = sys.stderr.isatty()
            self._live = Live(
                get_renderable=self._panel,
                console=self._console,
                refresh_per_second=REFRESHES_PER_SECOND,
                redirect_stderr=on_terminal,
            )
            self._live.start(refresh=True)
            if on_terminal:  # absl holds the stderr of before, and would write across the panel.
                handler = absl_logging.get_absl_handler().python_handler
                self._redirected = (handler, handler.setStream(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end_phase()
        self.close()

    def phase(self, text: str) -> None:
        """Says what the run does now (before training: 'compiling', 'restoring'); its time is shown when it ends.

        A phase ends with the next phase, update, row or summary.
        """
        self._end_phase()
        self._phase = (text, self._clock())
        if self._live is None:
            self._print(Text(f"{text} ..."))

    def advance(self, ended: Counters) -> None:
        """Says how many updates have ended; not all have a row. The first call says where the run begins."""
        if self._ended is not None and ended != self._ended:
            self._end_phase()
        self._ended = ended

    def update(self, row: Mapping[str, Any]) -> None:
        """Shows a row of metrics (keys as in `metrics.jsonl`, time as `time/learner/<bucket>` in fractions)."""
        self._end_phase()
        now = self._clock()
        self._left_s = self._estimate(row)
        self._row = dict(row)
        self._unshown = self._live is None
        if self._unshown and now - self._line_s >= self._interval_s:
            self._print_line(now)

    def summary(self, summary: Summary) -> None:
        """Shows how the run ended, in place of the panel."""
        self._end_phase()
        if self._live is not None:
            self._live.transient = True
        self.close()
        self._print(summary_text(summary, self._title, self._workdir))

    def close(self) -> None:
        """Shows the last row if it was held back, and gives the terminal back; may be called twice."""
        if self._redirected is not None:
            handler, stream = self._redirected
            handler.setStream(stream)
            self._redirected = None
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._unshown:
            self._print_line(self._clock())

    def _end_phase(self) -> None:
        """Says how long the running phase took, if there is one."""
        if self._phase is None:
            return
        text, start_s = self._phase
        self._phase = None
        self._print(Text(f"{text}: {duration(self._clock() - start_s)}"))

    def _estimate(self, row: Mapping[str, Any]) -> float | None:
        """Seconds left, from the rate since the first row that this process saw; None at that row."""
        steps, ended_s = row["env_steps"], row.get("time/wall_s", math.nan)
        if self._first_point is None:
            self._first_point = (ended_s, steps)
        seconds, done = ended_s - self._first_point[0], steps - self._first_point[1]
        return max(self._total_env_steps - steps, 0) * seconds / done if done > 0 else None

    def _print(self, text: Text) -> None:
        """Prints literally: no markup, and in a log file no wrapping."""
        self._console.print(text, soft_wrap=True)

    def _print_line(self, now: float) -> None:
        """Prints the newest row as a plain line."""
        self._line_s = now
        self._unshown = False
        progress = Progress(self._total_env_steps, now - self._start_s, self._left_s)
        self._print(Text(plain_line(self._row, progress)))

    def _panel(self) -> RenderableType:
        """The panel as of now; called by the thread that refreshes it."""
        row, ended, phase, now = self._row, self._ended, self._phase, self._clock()
        if ended is not None and ended.learner_steps > row.get("learner_steps", 0):
            row = {**row, **dataclasses.asdict(ended)}
        doing = None if phase is None else f"{phase[0]} ...  {duration(now - phase[1])}"
        progress = Progress(self._total_env_steps, now - self._start_s, self._left_s)
        # A terminal echoes Ctrl-C as two characters behind the panel; they need room, or the panel slips a line.
        width = min(PANEL_WIDTH, self._console.width - 3)
        return make_panel(self._title, self._workdir, row, progress, doing, width)


def configure_logging(process_index: int) -> None:
    """Short log lines, `[p0 12:00:01] text`, and silence from libraries.

    Libraries log from WARNING up, those in `QUIET_LIBRARIES` from ERROR up, but for the exceptions of
    `RAISING_MODULES`. Python warnings outside of podrl, and all of
    resources left open, are hidden unless the user asked for them (`python -W`).
    """
    if not flags.FLAGS.is_parsed():  # podrl parses flags of its own; absl would complain that it parsed none.
        flags.FLAGS.mark_as_parsed()
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.INFO)
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(_Formatter(f"[p{process_index} %(asctime)s] %(message)s", datefmt="%H:%M:%S"))
    if _is_wanted not in handler.filters:
        handler.addFilter(_is_wanted)
    for library in ("jax", "tensorflow", "h5py", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module=r"podrl(\.|$)")
        # What an interrupt left open is closed at exit; that is nothing to tell whoever pressed Ctrl-C.
        warnings.filterwarnings("ignore", category=ResourceWarning)


class _Formatter(logging.Formatter):
    """Names the level of whatever is not INFO."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The prefix and the message."""
        if record.levelno != logging.INFO:
            record.message = f"{record.levelname}: {record.message}"
        return super().formatMessage(record)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Drops what quiet libraries log below ERROR, and exceptions that are raised too."""
    if record.levelno >= logging.ERROR:
        return not (record.exc_info and record.pathname.startswith(_installed(RAISING_MODULES)))
    library = record.name.partition(".")[0]
    return not (library in QUIET_LIBRARIES or record.pathname.startswith(_installed(QUIET_LIBRARIES)))


@functools.cache
def _installed(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Where folders and files of libraries lie: through absl all log as one, and are known by their file only.

    A name in a path says nothing by itself: podrl may lie in somebody's folder of that name.
    """
    found = []
    for path in paths:
        library, _, rest = path.partition("/")
        spec = importlib.util.find_spec(library)
        for folder in spec.submodule_search_locations or () if spec else ():
            found.append(os.path.join(folder, rest))
    return tuple(found)
