"""Turns finished updates into rows of metrics.

The clock of a row is not that of its writing but that of its update's end, which the main thread looks for wherever it
waits.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from podrl.agents.parts.nonfinite import check_finite
from podrl.experience.episodes import Episode, EpisodeWindow
from podrl.ops.fingerprint import extend, to_hex
from podrl.runtime.ledger import Ledger, pooled, shares
from podrl.telemetry.episode_gatherer import EpisodeGatherer
from podrl.telemetry.metrics_file import Row
from podrl.telemetry.rates import FIRST_KEY, SAMPLES_KEY, START_KEY, WALL_KEY, End, RateMeter, Rates
from podrl.types import Counters, Metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """An update that was launched.

    Attributes:
        counters: After this update.
        metrics: Scalars, perhaps still on the device.
        fingerprint: [2 or 3, 2] uint32, perhaps still on the device; None if the update has no row.
        gathered: Statistics of the newest episodes, this update's included, and counts so far; None if the update has
            no row.
    """

    counters: Counters
    metrics: Metrics
    fingerprint: jax.Array | None
    gathered: Mapping[str, float] | None


class MetricsRows:
    """Keeps episodes, rates and time shares, and writes a row every few updates.

    Attributes:
        rates: Of the newest row, and the average without warm-up, in env steps per second, or samples of a data set.
        chain: Of the fingerprints of every `every_updates`-th update. Other rows show it with their own fingerprints
            added but leave it as it is, so that it does not depend on where a run was stopped.
        ended: After the newest update that has ended.
        whose: What messages add to an update's number.
    """

    def __init__(
        self,
        *,
        begun: Counters,
        every_updates: int,
        last_update: int,
        episodes: EpisodeWindow,
        gatherer: EpisodeGatherer,
        chain: str,
        frames_per_step: int,
        start_s: float,
        warm_up: int,
        stop_on_nonfinite: bool,
        learner: Ledger,
        actors: Sequence[Ledger],
        write: Callable[[Row], None],
        whose: str = "",
        samples_per_update: int = 0,
    ):
        """Starts without a row.

        Args:
            begun: Before this start; its learner steps are in the first row.
            every_updates: Updates between rows; the first and the last update have a row too.
            last_update: Number of the last update.
            episodes: The newest episodes, which returns are averaged over.
            gatherer: Brings the episodes of other processes.
            chain: The chain of fingerprints so far.
            frames_per_step: Emulator frames per env step.
            start_s: When the run's clock was at 0, by `time.perf_counter`: earlier than this process by what the run's
                earlier starts took.
            warm_up: Updates at the start that rates leave out; see `RateMeter`.
            stop_on_nonfinite: Whether an update whose loss or gradient is not finite is an error.
            learner: The main thread's ledger.
            actors: The actor threads' ledgers.
            write: Takes a finished row.
            whose: What messages add to an update's number: ` of seed 3`; empty if there is one seed.
            samples_per_update: Samples of a data set that an update learns from. Rates are then of these, and `actors`
                are the threads that bring them; 0 for a run that learns from experience of its own.
        """
        self.rates = Rates(float("nan"), float("nan"))
        self.chain = chain
        self.ended = begun
        self.whose = whose
        self._start: dict[str, float] = {START_KEY: begun.learner_steps}  # Until a row has said so.
        self._every_updates, self._last_update = every_updates, last_update
        self._window, self._gatherer = episodes, gatherer
        self._frames_per_step = frames_per_step
        self._meter = RateMeter(warm_up)
        self._start_s = start_s
        self._learner, self._actors = learner, actors
        self._samples_per_update = samples_per_update
        self._last_spent_s = self.mark().spent_s
        self._write = write
        self._stop_on_nonfinite = stop_on_nonfinite
        self._skipped = 0  # Since the last row.
        self._without_row: tuple[Update, End] | None = None  # The newest update, if it has no row.

    @property
    def episode_return(self) -> float | None:
        """Mean return of the newest episodes; None if none has finished."""
        return self._window.summary().get("episode/return")

    @property
    def num_episodes(self) -> int:
        """Number of episodes behind `episode_return`."""
        return len(self._window)

    @property
    def wall_s(self) -> float:
        """The run's clock now."""
        return time.perf_counter() - self._start_s

    def record_episodes(self) -> dict[str, Any]:
        """Returns the newest episodes and their number, for a checkpoint; on the first process those of all."""
        return self._episodes().record()

    def mark(self) -> End:
        """Returns the end of an update that is seen to end now."""
        others = pooled(ledger.seconds() for ledger in self._actors)
        spent_s = {"learner": self._learner.seconds(), "data" if self._samples_per_update else "actors": others}
        return End(ended_s=time.perf_counter(), spent_s=spent_s)

    def launched(
        self,
        counters: Counters,
        metrics: Metrics,
        episodes: Sequence[Episode],
        fingerprint: Callable[[], jax.Array],
    ) -> Update:
        """Returns the record of an update that was just launched, which `enter` takes when it has ended.

        Args:
            counters: After this update.
            metrics: Of this update, perhaps still on the device.
            episodes: The episodes that ended in its rollouts.
            fingerprint: Launches `Learner.fingerprint`; called if the update has a row.
        """
        self._gatherer.add(counters.learner_steps, episodes)
        update = counters.learner_steps
        if update not in (1, self._last_update) and update % self._every_updates:
            return Update(counters=counters, metrics=metrics, fingerprint=None, gathered=None)
        hashes = fingerprint()  # Is computed while other processes' episodes are waited for.
        return Update(counters=counters, metrics=metrics, fingerprint=hashes, gathered=self._gather())

    def enter(self, update: Update, end: End) -> None:
        """Takes an update that has ended, and writes its row if it has one.

        Raises:
            NonFiniteError: If its loss or gradient is not finite.
        """
        if self._start:
            self._start.setdefault(FIRST_KEY, end.ended_s - self._start_s)
        samples = update.counters.learner_steps * self._samples_per_update
        self._meter.add(samples or update.counters.env_steps, end.ended_s)
        if self._stop_on_nonfinite:
            check_finite(update.counters.learner_steps, update.metrics, self.whose)
        elif float(update.metrics["grad/skipped"]):
            self._skipped += 1
            if self._gatherer.is_first:
                logging.warning("Update %d%s was skipped: it is not finite.", update.counters.learner_steps, self.whose)
        self.ended = update.counters
        self._without_row = (update, end) if update.fingerprint is None else None
        if update.fingerprint is not None:
            self._write_row(update, end, update.fingerprint)

    def leave_out(self) -> None:
        """Gives the newest update no row any more: a checkpoint follows, which holds it."""
        self._without_row = None

    def finish(self, fingerprint: Callable[[], jax.Array]) -> None:
        """Writes a row of the newest update if it had none: the last one of a run that was stopped."""
        if self._without_row is not None:
            self._write_row(*self._without_row, fingerprint())
            self._without_row = None

    def _write_row(self, update: Update, end: End, fingerprint: jax.Array) -> None:
        with self._learner.spend("log"):
            counters = update.counters
            self.rates = self._meter.read()
            is_offline = self._samples_per_update > 0
            rate = 0.0 * self.rates.recent if is_offline else self.rates.recent  # Stays NaN before the first rate.
            start, self._start = self._start, {}
            self._write(
                {
                    **dataclasses.asdict(counters),
                    "env_steps_per_second": rate,
                    "frames_per_second": rate * self._frames_per_step,
                    **({SAMPLES_KEY: self.rates.recent} if is_offline else {}),
                    **(self._gather() if update.gathered is None else update.gathered),
                    **{name: float(value) for name, value in jax.device_get(dict(update.metrics)).items()},
                    **self._count_skipped(),
                    WALL_KEY: end.ended_s - self._start_s,
                    **start,
                    **self._time_shares(end),
                    **self._chain_on(counters.learner_steps, np.asarray(fingerprint)),
                }
            )

    def _gather(self) -> dict[str, float]:
        """Returns statistics of the newest episodes, and counts so far, of all processes."""
        return {**self._episodes().summary(), **self._gatherer.totals}

    def _episodes(self) -> EpisodeWindow:
        """The newest episodes, those of the newest update included."""
        newest, count = self._gatherer.gather()
        self._window.add(newest, older=count - len(newest))
        return self._window

    def _chain_on(self, update: int, fingerprint: np.ndarray) -> dict[str, str]:
        """Returns the fingerprints of `Learner.fingerprint`, and the chain with those of parameters and batch."""
        params, batch, *replay = map(to_hex, fingerprint)
        chain = extend(self.chain, params, batch)
        if update % self._every_updates == 0:
            self.chain = chain
        row = {"fingerprint": chain, "fingerprint/params": params, "fingerprint/batch": batch}
        return row | dict(zip(("fingerprint/replay",), replay, strict=False))

    def _count_skipped(self) -> dict[str, int]:
        """Returns the number of updates skipped since the last row, if any may be."""
        skipped, self._skipped = self._skipped, 0
        return {} if self._stop_on_nonfinite else {"grad/skipped": skipped}

    def _time_shares(self, end: End) -> dict[str, float]:
        """Returns what the learner's and all actors' threads spent the time since the last row's end on, in shares."""
        before, self._last_spent_s = self._last_spent_s, end.spent_s
        row = {}
        for who, spent_s in end.spent_s.items():
            for bucket, share in shares(before[who], spent_s).items():
                if spent_s[bucket] > 0:
                    row[f"time/{who}/{bucket}"] = share
        return row
