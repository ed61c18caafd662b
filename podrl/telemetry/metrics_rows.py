"""The learner's account of itself: turns finished updates into rows of metrics.

The metrics of an update are fetched when the next one is in flight, so that reading them holds nothing up. The clock of
a row is not that of its writing but that of its update's end, which is looked for wherever the main thread waits.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from podrl.agents.parts.nonfinite import check_finite
from podrl.experience.episodes import EpisodeWindow
from podrl.ops.fingerprint import extend, to_hex
from podrl.runtime.devices import is_ready
from podrl.runtime.ledger import Ledger, pooled, shares
from podrl.runtime.waiting import wait_until
from podrl.telemetry.episode_gatherer import EpisodeGatherer
from podrl.telemetry.metrics_file import Row
from podrl.telemetry.rates import START_KEY, WALL_KEY, End, RateMeter, Rates
from podrl.types import Counters, Metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pending:
    """An update in flight, whose metrics are still on the device."""

    counters: Counters
    metrics: Metrics
    fingerprint: jax.Array | None
    episodes: Mapping[str, float] | None


class Journal:
    """Keeps episodes, rates and ledgers, and writes a row every few updates.

    Attributes:
        rates: of the newest row, and the average without warm-up, in env steps per second.
        chain: of the fingerprints of every `every_updates`-th update; other rows show it with their own fingerprints
            added but leave it as it is, so that it does not depend on where a run was stopped.
    """

    def __init__(
        self,
        *,
        begun: int,
        every_updates: int,
        last_update: int,
        episodes: EpisodeWindow,
        gatherer: EpisodeGatherer,
        chain: str,
        frames_per_step: int,
        start_s: float,
        warm_up: int,
        timeout_s: float,
        stop_on_nonfinite: bool,
        learner: Ledger,
        actors: Sequence[Ledger],
        write: Callable[[Row], None],
    ):
        """Starts empty.

        Args:
            begun: learner steps before this start, for its first row.
            every_updates: updates between rows; the first and the last update have a row too.
            last_update: number of the last update.
            episodes: that returns are averaged over.
            gatherer: brings those of other processes.
            chain: of the fingerprints so far.
            frames_per_step: emulator frames per env step.
            start_s: when the run's clock was at 0, by `time.perf_counter`: less what its starts before took.
            warm_up: updates at the start that rates leave out; see `RateMeter`.
            timeout_s: how long an update may take.
            stop_on_nonfinite: whether an update whose loss or gradient is not finite is an error.
            learner: the main thread's ledger.
            actors: the actor threads'.
            write: takes a finished row.
        """
        self.rates = Rates(float("nan"), float("nan"))
        self.chain = chain
        self._start = {START_KEY: begun}  # until a row has said so
        self._every_updates, self._last_update = every_updates, last_update
        self._window, self._gatherer = episodes, gatherer
        self._frames_per_step = frames_per_step
        self._meter = RateMeter(warm_up)
        self._start_s = start_s
        self._learner, self._actors = learner, actors
        self._last_spent_s = self.mark().spent_s
        self._write = write
        self._timeout_s = timeout_s
        self._stop_on_nonfinite = stop_on_nonfinite
        self._skipped = 0  # since the last row
        self._pending: _Pending | None = None
        self._end: End | None = None  # of the pending update, as soon as it is known

    @property
    def episode_return(self) -> float | None:
        """Mean return of the newest episodes; None if none has finished."""
        return self._window.summary().get("episode/return")

    @property
    def wall_s(self) -> float:
        """The run's clock now."""
        return time.perf_counter() - self._start_s

    @property
    def num_episodes(self) -> int:
        """Number of episodes behind `episode_return`."""
        return len(self._window)

    def record_episodes(self) -> dict[str, Any]:
        """The newest episodes and their number, for a checkpoint; on the first process those of the whole job."""
        return self._episodes().record()

    def wants_row(self, counters: Counters) -> bool:
        """Whether the update that was just counted gets a row, so that its fingerprints are worth computing."""
        update = counters.learner_steps
        return update in (1, self._last_update) or update % self._every_updates == 0

    def add(
        self,
        counters: Counters,
        metrics: Metrics,
        fingerprint: jax.Array | None,
        episodes: Sequence[tuple[float, int]],
        end: End | None = None,
    ) -> None:
        """Takes an update that was just launched, and settles the one before it: waits for it and writes its row.

        Args:
            counters: after this update.
            metrics: still on the device.
            fingerprint: `Learner.fingerprint`, on the device; None if this update has no row.
            episodes: (return, length) of the episodes that ended in its rollouts.
            end: of the update; None if it is in flight.
        """
        self._gatherer.add(counters.learner_steps, episodes)
        summary = self._episodes().summary() if fingerprint is not None else None
        self.settle()
        self._pending = _Pending(counters=counters, metrics=metrics, fingerprint=fingerprint, episodes=summary)
        self._end = end
        self.look()  # Some programs end before their launch returns: on a CPU those that call Python.

    def mark(self) -> End:
        """The end of an update that is seen to end now."""
        spent_s = {"learner": self._learner.seconds(), "actors": pooled(actor.seconds() for actor in self._actors)}
        return End(ended_s=time.perf_counter(), spent_s=spent_s)

    def look(self) -> bool:
        """Whether the newest update has ended on its devices; keeps when that was first seen. Waits for nothing."""
        if self._pending is not None and self._end is None and is_ready(self._pending.metrics):
            self._end = self.mark()
        return self._pending is None or self._end is not None

    def wait_for_update(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Waits until the newest update has ended on its devices, or `unless` holds.

        Raises:
            TimeoutError: if neither comes in time.
        """
        pending = self._pending
        if pending is None:
            return
        with self._learner.spend("learn"):
            wait_until(
                lambda: self.look() or unless(),
                timeout_s=self._timeout_s,
                blame=lambda: (
                    f"The learner waited {self._timeout_s:.0f} s for update {pending.counters.learner_steps} to end on "
                    "its devices. If updates are this slow, raise actors.timeout_s."
                ),
            )

    def settle(self, fingerprint: jax.Array | None = None) -> None:
        """Waits for the newest update and writes its row if it has one.

        Args:
            fingerprint: makes a row of an update that had none: the last one of a run that was stopped.

        Raises:
            TimeoutError: if the update does not end in time.
            NonFiniteError: if its loss or gradient is not finite.
        """
        self.wait_for_update()
        pending, self._pending = self._pending, None
        end, self._end = self._end, None
        if pending is None or end is None:
            return
        self._meter.add(pending.counters.env_steps, end.ended_s)
        if self._stop_on_nonfinite:
            check_finite(pending.counters.learner_steps, pending.metrics)
        elif float(pending.metrics["grad/skipped"]):
            self._skipped += 1
            if self._gatherer.is_first:
                logging.warning("Update %d was skipped: it is not finite.", pending.counters.learner_steps)
        fingerprint = fingerprint if pending.fingerprint is None else pending.fingerprint
        if fingerprint is not None:
            with self._learner.spend("log"):
                self._write_row(pending, end, np.asarray(fingerprint))

    def _write_row(self, pending: _Pending, end: End, fingerprint: np.ndarray) -> None:
        counters = pending.counters
        self.rates = self._meter.read()
        rate = self.rates.recent
        start, self._start = self._start, {}
        self._write(
            {
                **dataclasses.asdict(counters),
                "env_steps_per_second": rate,
                "frames_per_second": rate * self._frames_per_step,
                **(self._episodes().summary() if pending.episodes is None else pending.episodes),
                **{name: float(value) for name, value in jax.device_get(dict(pending.metrics)).items()},
                **self._count_skipped(),
                WALL_KEY: end.ended_s - self._start_s,
                **start,
                **self._time_shares(end),
                **self._chain_on(counters.learner_steps, fingerprint),
            }
        )

    def _episodes(self) -> EpisodeWindow:
        """The newest episodes, those of the newest update included."""
        newest, count = self._gatherer.gather()
        self._window.add([total for total, _ in newest], [length for _, length in newest], older=count - len(newest))
        return self._window

    def _chain_on(self, update: int, fingerprint: np.ndarray) -> dict[str, str]:
        """The fingerprints of an update, [2, 2] uint32, and the chain with them."""
        params, batch = map(to_hex, fingerprint)
        chain = extend(self.chain, params, batch)
        if update % self._every_updates == 0:
            self.chain = chain
        return {"fingerprint": chain, "fingerprint/params": params, "fingerprint/batch": batch}

    def _count_skipped(self) -> dict[str, int]:
        """Updates skipped since the last row, if any may be."""
        skipped, self._skipped = self._skipped, 0
        return {} if self._stop_on_nonfinite else {"grad/skipped": skipped}

    def _time_shares(self, end: End) -> dict[str, float]:
        """Fractions of the time since the last row's end that the learner's and all actors' threads spent on what."""
        before, self._last_spent_s = self._last_spent_s, end.spent_s
        row = {}
        for who, spent_s in end.spent_s.items():
            for bucket, share in shares(before[who], spent_s).items():
                if spent_s[bucket] > 0:
                    row[f"time/{who}/{bucket}"] = share
        return row
