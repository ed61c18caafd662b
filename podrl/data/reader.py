"""Reads the samples of a run ahead of its learner, in a thread; every wait has a timeout."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import threading
from typing import Any

import jax
import numpy as np

from podrl.data.data_set import DataSet
from podrl.data.gathering import HeldRows, WindowRows, gather_samples
from podrl.data.samplers import RecordedDraws, StreamRule, count_starts, draw_key, draw_recorded
from podrl.data.window import Window, WindowPlan
from podrl.runtime.ledger import Annotate, Ledger
from podrl.runtime.waiting import Stopped, wait_for
from podrl.types import Sample

_JOIN_S = 10.0
_BUCKETS = ("read", "gather", "transfer", "wait_learner")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """What a run draws at each update; the same on all processes.

    Attributes:
        streams: The streams.
        num_batches: K, learner steps of an update.
        batch: B, samples of the whole job in each.
        length: T, steps of a sample; 1 for transitions.
        before: R, rows before each sample, see `podrl.data.gathering.gather_samples`.
        fit: Whether sequences must end within their episode, see `podrl.data.samplers.count_starts`.
        window: Which episodes are in memory.
        seed: The run's seed.
    """

    streams: Sequence[StreamRule]
    num_batches: int
    batch: int
    length: int = 1
    before: int = 1
    fit: bool = False
    window: Window = dataclasses.field(default_factory=Window)
    seed: int


class HostSampler:
    """Makes the samples of any update, in host memory; each process makes its own columns."""

    def __init__(self, data: DataSet, plan: SamplePlan, columns: slice):
        """Takes the memory of the window, and reads nothing yet.

        Args:
            data: The data set.
            plan: What to draw.
            columns: The samples of each batch that this process needs.
        """
        self._data, self._plan, self._columns = data, plan, columns
        self._windows = WindowPlan(plan.window, data.facts.length, plan.seed)
        self._rows = WindowRows(data, self._windows)
        self._starts = count_starts(data.facts.length, plan.length, fit=plan.fit)

    def draw(self, stream: StreamRule, update: int) -> RecordedDraws:
        """Returns what the whole batches of one stream are made of at an update, as numpy arrays."""
        episodes = self._windows.episodes(self._windows.at(update))
        padded = [pad_episodes(values[episodes]) for values in (stream.priority, self._starts)]
        with jax.default_device(_host_device()):
            key = draw_key(self._plan.seed, stream.number, update)
            drawn = draw_recorded(*padded, self._plan.num_batches, self._plan.batch, key)
        return jax.device_get(drawn)

    def load(self, update: int, beat: Callable[[], object] = lambda: None) -> None:
        """Reads what the window of an update needs.

        Args:
            update: The update.
            beat: Called after each read, to show that there is progress.

        Raises:
            DataError: If a shard is damaged.
        """
        self._rows.move(self._windows.at(update), beat)

    @property
    def held(self) -> HeldRows:
        """The rows of the window that `load` has read."""
        return self._rows.held

    def samples(self, update: int) -> dict[str, Sample]:
        """Makes this process's samples of an update, [K, T, columns of B], by stream; `load` comes first."""
        held, found = self._rows.held, {}
        for stream in self._plan.streams:
            drawn = self.draw(stream, update).share(self._columns)
            weight = stream.weight[self._rows.episodes]
            found[stream.name] = gather_samples(held, drawn, self._plan.length, weight, self._plan.before)
        return found


def pad_episodes(values: np.ndarray) -> np.ndarray:
    """Returns [W] values with zeros behind them: few sizes, for each of which drawing is compiled once."""
    size = 1 << max(len(values) - 1, 0).bit_length()
    return np.concatenate([values, np.zeros(size - len(values), values.dtype)])


class SampleReader:
    """Makes the samples of one update after another in a thread, some updates ahead.

    Attributes:
        ledger: The thread's time: `read` from the disk, `gather` in memory, `transfer` to devices, `wait_learner`.
    """

    def __init__(
        self,
        sampler: HostSampler,
        *,
        first: int,
        last: int,
        ahead: int = 2,
        timeout_s: float = 120.0,
        put: Callable[[Mapping[str, Sample]], Any] = lambda samples: samples,
        annotate: Annotate | None = None,
    ):
        """Starts the thread.

        Args:
            sampler: Makes the samples.
            first: The first update to make samples for.
            last: The last one.
            ahead: Updates whose samples are kept ready at most.
            timeout_s: How long the learner waits for samples.
            put: Takes the samples of an update to where they are needed; what it returns is kept ready.
            annotate: Shows a profiler what the thread spends its time on.
        """
        self.ledger = Ledger("data reader", _BUCKETS, annotate)
        self._sampler, self._next, self._last, self._put = sampler, first, last, put
        self._ahead, self._timeout_s = ahead, timeout_s
        self._changed, self._ready = threading.Condition(), deque[tuple[int, Any]]()
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="data-reader", daemon=True)
        self._thread.start()

    def take(self, update: int, should_stop: Callable[[], bool] = lambda: False) -> Any:
        """Returns the samples of an update, as `put` returned them; updates are taken in order.

        Args:
            update: The update.
            should_stop: Asked every second of a wait; None is returned if it is true first.

        Raises:
            DataError: If a shard is damaged.
            TimeoutError: If they are not there in time.
        """
        with self._changed:
            try:
                wait_for(
                    self._changed,
                    self.is_decided,
                    timeout_s=self._timeout_s,
                    blame=lambda: (
                        f"The learner waited {self._timeout_s:.0f} s for recorded data: {self.doing()}. If reading is "
                        "this slow, raise actors.timeout_s."
                    ),
                    should_stop=should_stop,
                )
            except Stopped:
                return None
            if self._error is not None and not self._ready:
                raise self._error
            number, samples = self._ready.popleft()
            self._changed.notify_all()
        if number != update:
            raise RuntimeError(f"Found samples of update {number}, expected those of update {update}.")
        return samples

    def is_decided(self) -> bool:
        """Returns whether `take` would return or raise at once."""
        return bool(self._ready) or self._error is not None

    def is_alive(self) -> bool:
        """Returns whether the thread runs; it ends after its last update."""
        return self._thread.is_alive()

    def doing(self) -> str:
        """Describes what the thread does, for messages."""
        bucket, since_s = self.ledger.doing()
        return f"the data reader is at update {self._next}, for {since_s:.0f} s in {bucket!r}"

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            while self._next <= self._last:
                with self.ledger.spend("read"):
                    self._sampler.load(self._next, self._beat)
                with self.ledger.spend("gather"):
                    samples = self._sampler.samples(self._next)
                with self.ledger.spend("transfer"):
                    ready = self._put(samples)
                with self.ledger.spend("wait_learner"), self._changed:
                    # The learner may compile or evaluate for hours; it closes the reader when it ends.
                    while not (self._closed or len(self._ready) < self._ahead):
                        self._changed.wait(1.0)
                    if self._closed:
                        return
                    self._ready.append((self._next, ready))
                    self._next += 1
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 (the learner raises it)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _beat(self) -> None:
        """Lets the watchdog see progress, and ends a long read if the learner has."""
        with self.ledger.spend("read"):
            if self._closed:
                raise Stopped


def _host_device() -> jax.Device:
    """Returns the host's CPU as a device, or what there is."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
