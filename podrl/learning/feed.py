"""Brings the samples of a data set to the learner: ahead of need from host memory, or in the update itself."""

from collections.abc import Callable, Mapping
import dataclasses
from types import TracebackType

import jax
from jax.sharding import Mesh
import numpy as np

from podrl.config.config import Config, ConfigError
from podrl.data.manifest import DataError
from podrl.data.reader import HostSampler, SampleReader
from podrl.experience.layout import Layout
from podrl.learning.intake import recorded_sharding
from podrl.learning.recorded import HeldData, Recorded, hold, put_whole
from podrl.mesh import Topology
from podrl.runtime.ledger import Annotate, Ledger
from podrl.runtime.watchdog import Watchdog, Watched
from podrl.types import PyTree, Sample


class Feed:
    """The samples of a run, one update after the other; a context that closes its thread.

    `open_feed` makes it.
    """

    def __init__(self, config: Config, recorded: Recorded, mesh: Mesh, sampler: HostSampler):
        """Takes a sampler that has loaded what the first update needs, and starts nothing."""
        self._config = config
        self._recorded, self._mesh, self._sampler = recorded, mesh, sampler
        self._reader: SampleReader | None = None
        self._held: HeldData | None = None

    def start(self, *, first: int, last: int, annotate: Annotate | None = None) -> None:
        """Puts the rows on the devices, or starts the thread that puts samples there.

        Args:
            first: Updates done before the first one.
            last: Updates done at the end of the run.
            annotate: Shows a profiler what the thread spends its time on.
        """
        if self._recorded.on_devices:
            self._held = hold(self._recorded, self._sampler, self._mesh)
            del self._sampler  # And with it the rows in host memory.
            return
        self._reader = SampleReader(
            self._sampler,
            first=first,
            last=last - 1,
            ahead=self._config.data.prefetch,
            timeout_s=self._config.actors.timeout_s,
            put=lambda samples: samples_to_learner(samples, self._mesh),
            annotate=annotate,
        )

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()

    def take(self, update: int, should_stop: Callable[[], bool]) -> PyTree | None:
        """Returns what an update is given; None if the run has to stop before it is there.

        Args:
            update: Updates done before it; taken in order.
            should_stop: Asked every second of a wait.

        Raises:
            DataError: If a shard is damaged.
            TimeoutError: If the samples are not there in time.
        """
        if should_stop():
            return None
        if self._reader is not None:
            return self._reader.take(update, should_stop)
        number = put_whole(np.asarray(update, np.int32), self._mesh)
        return dataclasses.replace(self._held, update=number)  # type: ignore[type-var]

    def is_ready(self) -> bool:
        """Returns whether `take` would return or raise at once."""
        return self._reader is None or self._reader.is_decided()

    @property
    def ledgers(self) -> list[Ledger]:
        """The ledger of the thread, if there is one."""
        return [] if self._reader is None else [self._reader.ledger]

    def watch(self, watchdog: Watchdog) -> None:
        """Registers the thread with the watchdog."""
        if (reader := self._reader) is not None:
            watchdog.watch(Watched(ledger=reader.ledger, doing=reader.doing, is_alive=reader.is_alive))

    def awaited(self) -> str:
        """Describes what the learner waits for, for messages."""
        return "" if self._reader is None else f"; {self._reader.doing()}"


def open_feed(
    config: Config,
    recorded: Recorded,
    layout: Layout,
    topology: Topology,
    *,
    update: int,
    beat: Callable[[], object] = lambda: None,
) -> Feed:
    """Opens the feed of a run, and reads the rows that its first update needs.

    Args:
        config: The run's config.
        recorded: The data set and what is drawn.
        layout: Which samples are this process's.
        topology: The devices.
        update: Updates done before the first one.
        beat: Called after each read.

    Raises:
        ConfigError: If a shard is damaged.
    """
    mine = layout.env_indices(topology.process_index, 0, 0)
    sampler = HostSampler(recorded.data, recorded.plan, slice(int(mine[0]), int(mine[-1]) + 1))
    try:
        sampler.load(update, beat)
    except DataError as error:
        raise ConfigError(f"data.path: {error}") from None
    return Feed(config, recorded, topology.learner, sampler)


def samples_to_learner(samples: Mapping[str, Sample], learner: Mesh) -> dict[str, Sample]:
    """Starts moving this process's samples [K, T, its columns of B] to its devices; returns the arrays of the job."""
    return jax.tree.map(
        lambda x, sharding: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
        dict(samples),
        recorded_sharding(learner, samples),
    )
