"""The reports of a run while it trains: rows of metrics to its files and the terminal, and advice on speed."""

from collections.abc import Callable, Mapping
import dataclasses
import time
from typing import Any

from absl import logging
import numpy as np

from podrl.config.config import Config
from podrl.evaluation.atari_scores import human_normalised
from podrl.evaluation.episodes import Episodes
from podrl.evaluation.evaluator import ROW_KEY
from podrl.experience.episodes import INFO, mean_numbers
from podrl.experience.schedule import make_schedule
from podrl.mesh import Topology
from podrl.runtime.ledger import Ledger
from podrl.telemetry.bottleneck import BottleneckFinder, has_rate, suggest_shorter
from podrl.telemetry.display import Display
from podrl.telemetry.metrics_file import Row
from podrl.telemetry.rates import BEFORE_KEY
from podrl.telemetry.seeds_display import SeedsDisplay
from podrl.telemetry.writer import MetricsWriter
from podrl.types import Counters, Snapshot


class Reporter:
    """Writes rows and shows them on the terminal. In a job of several processes only the first has a reporter."""

    def __init__(
        self,
        config: Config,
        topology: Topology,
        writer: MetricsWriter,
        display: Display | SeedsDisplay,
        ledger: Ledger,
        start: Snapshot | None,
        check_folder: Callable[[], None] = lambda: None,
        *,
        start_s: float,
        advises: bool,
        label: str = "",
    ):
        """Creates a reporter that starts where `start` ended.

        Args:
            config: The run's config.
            topology: The run's devices.
            writer: Writes rows to the run's files.
            display: Shows rows on the terminal.
            ledger: The main thread's ledger.
            start: The snapshot that the run resumes from; None if it begins.
            check_folder: Called before each row; raises FolderLostError if the folder is no longer the run's.
            start_s: When the run's clock started in this process, by `time.perf_counter`.
            advises: Whether to log what limits the speed.
            label: Begins messages about evaluations.
        """
        self._label = label
        self._config = config
        self._num_episodes = start.episodes.get("count", 0) if start else 0  # At the last boundary.
        self._has_warned = False
        self._env_id = config.env.id
        self._display = display
        self._check_folder = check_folder
        self._ledger = ledger
        self._finder = BottleneckFinder(config, topology) if advises else None
        self._awaits_rate = True
        before_s = (start.wall_s or 0.0) if start else 0.0
        self._start_s = start_s - before_s
        self._before = {BEFORE_KEY: before_s}  # Written with the first row only.
        self._writer = writer

    def write_row(self, row: Row) -> None:
        """Writes and shows a row of the learner. Raises FolderLostError if the folder is no longer the run's."""
        self._check_folder()
        self._write(row)
        self._display.update(row)
        if self._awaits_rate and has_rate(row):
            self._awaits_rate = False
            if suggestion := suggest_shorter(self._config, row):
                logging.info("%s", suggestion)
        if self._finder and (advice := self._finder.add(row)):
            logging.info("What limits the speed: %s.", advice)

    def _write(self, row: Row) -> None:
        before, self._before = self._before, {}
        self._writer.write({**row, **before}, row["learner_steps" if self._config.is_offline else "env_steps"])

    def before_checkpoint(self, snapshot: Snapshot) -> None:
        """Syncs all rows so far to their files, and warns if no episode has ended since the boundary before."""
        self._writer.sync()
        every, update = make_schedule(self._config).every, snapshot.counters.learner_steps
        if every == 0 or update % every or self._config.topology.placement == "anakin" or self._config.is_offline:
            return
        before, self._num_episodes = self._num_episodes, snapshot.episodes.get("count", 0)
        if self._num_episodes == before and not self._has_warned:
            self._has_warned = True
            logging.warning(
                "No episode has ended in the %d updates up to %d. Environments are opened anew at every checkpoint, so "
                "an episode of more than %s steps never ends. Raise checkpoint.every_updates=%d.",
                every,
                update,
                f"{every * self._config.actors.unroll_length:,}",
                every,
            )

    def write_evaluation(self, counters: Counters, episodes: Episodes) -> None:
        """Writes and logs the results of an evaluation's episodes."""
        row = make_row(self._env_id, counters, episodes, time.perf_counter() - self._start_s)
        with self._ledger.spend("log"):
            self._write(row)
        logging.info(
            "%sEvaluated update %s: return %.2f (mean of %d episodes, median %.2f)",
            self._label,
            f"{row['learner_steps']:,}",
            row["evaluate/return"],
            row["evaluate/episodes"],
            row["evaluate/return_median"],
        )


def make_row(env_id: str, counters: Counters, episodes: Episodes, wall_s: float) -> Mapping[str, Any]:
    """Returns a row with the results of an evaluation, at the counters of the update that was evaluated."""
    mean = float(episodes.returns.mean())
    normalised = human_normalised(env_id, mean)
    return {
        **dataclasses.asdict(counters),
        ROW_KEY: mean,
        "evaluate/return_median": float(np.median(episodes.returns)),
        "evaluate/length": float(episodes.lengths.mean()),
        "evaluate/episodes": len(episodes.returns),
        **{f"evaluate/{INFO}{name}": mean for name, mean in mean_numbers(episodes.numbers).items()},
        **({} if normalised is None else {"evaluate/human_normalised": normalised}),
        "time/wall_s": wall_s,
    }
