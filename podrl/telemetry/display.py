"""The terminal output of a run.

On a terminal it is a small panel that stays below the log lines; in a log file (SLURM, CI, a pipe) one plain line per
row of metrics; at the end of both a short summary. Everything goes to stdout, and log lines to stderr.
"""

from collections.abc import Callable, Mapping
import dataclasses
import logging
import math
import sys
import time
from types import TracebackType
from typing import Any

from absl import logging as absl_logging
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from podrl.telemetry.panel import PANEL_WIDTH, Progress, make_panel, plain_line
from podrl.telemetry.readable import duration
from podrl.telemetry.summary import Summary, summary_text
from podrl.types import Counters

REFRESHES_PER_SECOND = 4


class Display:
    """Shows phases, progress and the summary of one run; a context manager that restores the terminal.

    Only the main thread calls its methods. Code that ends the process without leaving the context (a watchdog) calls
    `close` first; otherwise the terminal's cursor stays hidden.
    """

    def __init__(
        self,
        name: str,
        env_id: str,
        total: int,
        workdir: Any,
        console: Console | None = None,
        *,
        counts: str = "env_steps",
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the display; entering the context shows the panel.

        Args:
            name: the run's name.
            env_id: the environment's id.
            total: env steps at which the run ends, or what `counts` says.
            workdir: the run's folder, a path or a string.
            console: console to write to; None is stdout, where the terminal wraps long lines.
            counts: what the run's length counts, a key of rows: `env_steps`, or `learner_steps` for updates.
            interval_s: least seconds between two plain lines; the first and the last row are always shown.
            clock: monotonic seconds.
        """
        self._title = f"{name} on {env_id}"
        self._total, self._counts = total, counts
        self._workdir = str(workdir)
        # Rich takes any stream for a terminal if FORCE_COLOR is set, as in a notebook, even one that cannot redraw
        # lines.
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
        """Starts the panel in the lower lines of the terminal, if there is one."""
        if self._redraws and self._console.is_terminal and not self._console.is_dumb_terminal:
            on_terminal = sys.stderr.isatty()
            self._live = Live(
                get_renderable=self._panel,
                console=self._console,
                refresh_per_second=REFRESHES_PER_SECOND,
                redirect_stderr=on_terminal,
            )
            self._live.start(refresh=True)
            if on_terminal:  # absl still holds the former stderr, and would write across the panel.
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
        """Shows what the run does now (before training: 'compiling', 'restoring'); its duration is shown when it ends.

        A phase ends with the next phase, update, row or summary.
        """
        self._end_phase()
        self._phase = (text, self._clock())
        if self._live is None:
            self._print(Text(f"{text} ..."))

    def advance(self, ended: Counters) -> None:
        """Sets how many updates have ended, since not all have a row. The first call sets where the run begins."""
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
        """Shows the summary of the run instead of the panel."""
        self._end_phase()
        if self._live is not None:
            self._live.transient = True
        self.close()
        self._print(summary_text(summary, self._title, self._workdir))

    def close(self) -> None:
        """Shows the last row if it was held back, and restores the terminal; may be called twice."""
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
        """Ends the current phase, if there is one, and shows its duration."""
        if self._phase is None:
            return
        text, start_s = self._phase
        self._phase = None
        self._print(Text(f"{text}: {duration(self._clock() - start_s)}"))

    def _estimate(self, row: Mapping[str, Any]) -> float | None:
        """Returns the seconds left, from the rate since the first row that this process saw; None at that row."""
        steps, ended_s = row[self._counts], row.get("time/wall_s", math.nan)
        if self._first_point is None:
            self._first_point = (ended_s, steps)
        seconds, done = ended_s - self._first_point[0], steps - self._first_point[1]
        return max(self._total - steps, 0) * seconds / done if done > 0 else None

    def _print(self, text: Text) -> None:
        """Prints literally: no markup, and in a log file no wrapping."""
        self._console.print(text, soft_wrap=True)

    def _print_line(self, now: float) -> None:
        """Prints the newest row as a plain line."""
        self._line_s = now
        self._unshown = False
        progress = Progress(self._total, now - self._start_s, self._left_s, self._counts)
        self._print(Text(plain_line(self._row, progress)))

    def _panel(self) -> RenderableType:
        """Returns the current panel; called by the thread that refreshes it."""
        row, ended, phase, now = self._row, self._ended, self._phase, self._clock()
        if ended is not None and ended.learner_steps > row.get("learner_steps", 0):
            row = {**row, **dataclasses.asdict(ended)}
        doing = None if phase is None else f"{phase[0]} ...  {duration(now - phase[1])}"
        progress = Progress(self._total, now - self._start_s, self._left_s, self._counts)
        # A terminal echoes Ctrl-C as two characters behind the panel; without room for them the panel slips by a line.
        width = min(PANEL_WIDTH, self._console.width - 3)
        return make_panel(self._title, self._workdir, row, progress, doing, width)
