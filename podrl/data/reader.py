"""Reads the samples of a run ahead of its learner, in a thread; every wait has a timeout."""

from collections import deque
from collections.abc import Mapping, Sequence
import dataclasses
import threading

import jax
import numpy as np

from podrl.data.data_set import DataSet
from podrl.data.gathering import WindowRows, gather_samples
from podrl.data.samplers import RecordedDraws, StreamRule, count_starts, draw_key, draw_recorded
from podrl.data.window import Window, WindowPlan
from podrl.runtime.ledger import Ledger
from podrl.runtime.waiting import wait_for
from podrl.types import Sample

_JOIN_S = 10.0
_BUCKETS = ("read", "gather", "wait_learner")


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
        size = 1 << max(len(episodes) - 1, 0).bit_length()  # Few sizes, each compiled once.
        padded = [
            np.concatenate([values[episodes], np.zeros(size - len(episodes), values.dtype)])
            for values in (stream.priority, self._starts)
        ]
        with jax.default_device(_host_device()):
            key = draw_key(self._plan.seed, stream.number, update)
            drawn = draw_recorded(*padded, self._plan.num_batches, self._plan.batch, key)
        return jax.device_get(drawn)

    def load(self, update: int) -> None:
        """Reads what the window of an update needs.

        Raises:
            DataError: If a shard is damaged.
        """
        self._rows.move(self._windows.at(update))

    def samples(self, update: int) -> dict[str, Sample]:
        """Makes this process's samples of an update, [K, T, columns of B], by stream; `load` comes first."""
        held, found = self._rows.held, {}
        for stream in self._plan.streams:
            drawn = self.draw(stream, update).share(self._columns)
            weight = stream.weight[self._rows.episodes]
            found[stream.name] = gather_samples(held, drawn, self._plan.length, weight, self._plan.before)
        return found


class SampleReader:
    """Makes the samples of one update after another in a thread, some updates ahead.

    Attributes:
        ledger: The thread's time: `read` from the disk, `gather` in memory, `wait_learner`.
    """

    def __init__(self, sampler: HostSampler, *, first: int, last: int, ahead: int = 2, timeout_s: float = 120.0):
        """Starts the thread.

        Args:
            sampler: Makes the samples.
            first: The first update to make samples for.
            last: The last one.
            ahead: Updates whose samples are kept ready at most.
            timeout_s: How long the learner waits for samples.
        """
        self.ledger = Ledger("data reader", _BUCKETS)
        self._sampler, self._next, self._last = sampler, first, last
        self._ahead, self._timeout_s = ahead, timeout_s
        self._changed, self._ready = threading.Condition(), deque[tuple[int, Mapping[str, Sample]]]()
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="data-reader", daemon=True)
        self._thread.start()

    def take(self, update: int) -> Mapping[str, Sample]:
        """Returns the samples of an update; updates are taken in order.

        Raises:
            DataError: If a shard is damaged.
            TimeoutError: If they are not there in time.
        """
        with self._changed:
            wait_for(
                self._changed,
                lambda: bool(self._ready) or self._error is not None,
                timeout_s=self._timeout_s,
                blame=lambda: f"The learner waited {self._timeout_s:.0f} s for recorded data: {self.doing()}.",
            )
            if self._error is not None and not self._ready:
                raise self._error
            number, samples = self._ready.popleft()
            self._changed.notify_all()
        if number != update:
            raise RuntimeError(f"Found samples of update {number}, expected those of update {update}.")
        return samples

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
                    self._sampler.load(self._next)
                with self.ledger.spend("gather"):
                    samples = self._sampler.samples(self._next)
                with self.ledger.spend("wait_learner"), self._changed:
                    # The learner may compile or evaluate for hours; it closes the reader when it ends.
                    while not (self._closed or len(self._ready) < self._ahead):
                        self._changed.wait(1.0)
                    if self._closed:
                        return
                    self._ready.append((self._next, samples))
                    self._next += 1
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 (the learner raises it)
            with self._changed:
                self._error = error
                self._changed.notify_all()


def _host_device() -> jax.Device:
    """Returns the host's CPU as a device, or what there is."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
