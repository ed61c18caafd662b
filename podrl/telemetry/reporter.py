"""What a run tells while it trains: rows of metrics into its files and onto the terminal, and advice."""

from collections.abc import Callable, Mapping
import dataclasses
import time
from typing import Any

from absl import logging
import numpy as np

from podrl.config.config import Config
from podrl.evaluation.atari_scores import human_normalised
from podrl.evaluation.evaluator import ROW_KEY
from podrl.evaluation.play import Episodes
from podrl.experience.schedule import make_schedule
from podrl.mesh import Topology
from podrl.runtime.ledger import Ledger
from podrl.telemetry.bottleneck import BottleneckFinder, has_rate, suggest_shorter
from podrl.telemetry.display import Display
from podrl.telemetry.metrics_file import Row
from podrl.telemetry.rates import BEFORE_KEY
from podrl.telemetry.writer import MetricsWriter
from podrl.types import Counters, Snapshot


class Reporter:
    """Writes and shows. In a job of several processes the first one has it."""

    def __init__(
        self,
        config: Config,
        topology: Topology,
        writer: MetricsWriter,
        display: Display,
        ledger: Ledger,
        start: Snapshot | None,
        check_folder: Callable[[], None] = lambda: None,
        *,
        start_s: float,
        advises: bool,
    ):
        """Has nothing to tell yet.

        Args:
            config: of the whole run.
            topology: what it runs on.
            writer: keeps rows.
            display: shows them on the terminal.
            ledger: of the main thread.
            start: where the run goes on; None if it begins.
            check_folder: raises FolderLostError if the folder was seen to be lost; called before each row.
            start_s: when the run's clock went on in this process, by `time.perf_counter`.
            advises: whether to say what limits the speed.
        """
        self._config = config
        self._num_episodes = start.episodes.get("count", 0) if start else 0  # at the last boundary
        self._has_warned = False
        self._env_id = config.env.id
        self._display = display
        self._check_folder = check_folder
        self._ledger = ledger
        self._finder = BottleneckFinder(config, topology) if advises else None
        self._awaits_rate = True
        before_s = (start.wall_s or 0.0) if start else 0.0
        self._start_s = start_s - before_s
        self._before = {BEFORE_KEY: before_s}  # Until a row has said so.
        self._writer = writer

    def write_row(self, row: Row) -> None:
        """Takes a row of the learner's; raises FolderLostError if the folder is no longer the run's."""
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
        self._writer.write({**row, **before}, row["env_steps"])

    def before_checkpoint(self, snapshot: Snapshot) -> None:
        """Has all rows so far in their files, and warns if no episode has ended since the boundary before."""
        self._writer.sync()
        every, update = make_schedule(self._config).every, snapshot.counters.learner_steps
        if every == 0 or update % every or self._config.topology.placement == "anakin":
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
        """Takes the episodes of an evaluation."""
        row = make_row(self._env_id, counters, episodes, time.perf_counter() - self._start_s)
        with self._ledger.spend("log"):
            self._write(row)
        logging.info(
            "Evaluated update %s: return %.2f (mean of %d episodes, median %.2f)",
            f"{row['learner_steps']:,}",
            row["evaluate/return"],
            row["evaluate/episodes"],
            row["evaluate/return_median"],
        )


def make_row(env_id: str, counters: Counters, episodes: Episodes, wall_s: float) -> Mapping[str, Any]:
    """A row of metrics, of the update that was evaluated."""
    mean = float(episodes.returns.mean())
    normalised = human_normalised(env_id, mean)
    return {
        **dataclasses.asdict(counters),
        ROW_KEY: mean,
        "evaluate/return_median": float(np.median(episodes.returns)),
        "evaluate/length": float(episodes.lengths.mean()),
        "evaluate/episodes": len(episodes.returns),
        **({} if normalised is None else {"evaluate/human_normalised": normalised}),
        "time/wall_s": wall_s,
    }
