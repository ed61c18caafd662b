"""The actors of one process, as the main thread starts, feeds, reads and stops them: threads, or actor workers'."""

from collections.abc import Callable, Mapping, Sequence
import functools
import time
from types import TracebackType

from absl import logging
import jax

from podrl.config.config import Config
from podrl.envs.source import Source
from podrl.experience.actor_making import make_actor
from podrl.experience.actors import Actor
from podrl.experience.episodes import Episode
from podrl.experience.handoff import Rollout
from podrl.experience.layout import default_env_threads, make_layout
from podrl.experience.parameters import ParameterStore
from podrl.experience.programs import ActingPrograms
from podrl.experience.remote.actor_programs import RemoteActing
from podrl.experience.remote.actor_workers import ActorWorkers
from podrl.experience.remote.env_workers import EnvWorkers
from podrl.experience.remote.remote_actor import RemoteActor
from podrl.experience.remote.serving import ServingActor
from podrl.experience.remote.serving_setup import make_serving
from podrl.experience.remote.slots import SlotPrograms
from podrl.experience.schedule import Schedule, serves_arrivals
from podrl.mesh import Topology
from podrl.runtime.ledger import Annotate
from podrl.runtime.waiting import Stopped
from podrl.runtime.watchdog import Watchdog, Watched
from podrl.types import PyTree

_JOIN_S = 10.0


class ActorThreads:
    """The actors of this process, in the fixed order in which the learner takes their rollouts.

    A context manager that stops every thread on exit. A thread that does not end in time is logged by name and left to
    end with the process.

    Attributes:
        actors: The actors, one per thread here or in an actor worker.
    """

    def __init__(
        self,
        config: Config,
        source: Source,
        topology: Topology,
        acting: Mapping[jax.Device, ActingPrograms | SlotPrograms] | RemoteActing,
        schedule: Schedule,
        annotate: Annotate | None = None,
    ):
        """Creates the actors without starting their threads.

        Args:
            config: The run's config.
            source: Creates the environments.
            topology: Which devices act and which learn.
            acting: The compiled acting programs of each of this process's actor devices; what is needed in their place
                if actor workers act.
            schedule: Which parameters generate which rollout.
            annotate: Marks for a profiler what each thread spends its time on.
        """
        self._timeout_s, self._versions = config.actors.timeout_s, schedule.versions
        self._parameters: ParameterStore | ActorWorkers
        self._workers: EnvWorkers | ActorWorkers | None = None
        self.actors: Sequence[Actor | RemoteActor]
        if isinstance(acting, RemoteActing):
            self._parameters = self._workers = workers = ActorWorkers(config, topology, acting, schedule)
            self.actors, self._versions = workers.actors, workers.versions
            return
        self._parameters = store = ParameterStore(topology.local_actor_devices, keep=1 + schedule.max_lag)
        make: Callable[..., Actor] = Actor
        if config.remote.env_workers:
            self._workers = environments = _make_workers(config, source, topology, acting)
            source = environments.source
            if serves_arrivals(config):
                serving = make_serving(config, environments, make_layout(config, topology))
                make = functools.partial(ServingActor, serving)
        self.actors = make_actors(config, source, topology, acting, store, schedule, annotate, make)

    def __enter__(self) -> "ActorThreads":
        if self._workers:
            self._workers.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parameters.stop()
        if self._workers:
            self._workers.stop_waiting()
        for actor in self.actors:
            actor.stop()
        deadline = time.monotonic() + min(self._timeout_s, _JOIN_S)
        stuck = [actor.name for actor in self.actors if not actor.join(max(0.0, deadline - time.monotonic()))]
        if stuck:
            logging.error("%s did not end; leaving without.", ", ".join(stuck))
        if self._workers:
            self._workers.__exit__(kind, error, trace)

    def start(self) -> None:
        """Starts every thread."""
        for actor in self.actors:
            actor.start()

    def watch(self, watchdog: Watchdog) -> None:
        """Registers every thread with the watchdog."""
        for actor in self.actors:
            watchdog.watch(Watched(ledger=actor.ledger, doing=actor.doing, is_alive=actor.is_alive))

    def publish(self, version: int, params: PyTree) -> None:
        """Starts copying parameters to every actor device as `version`, the number of updates that made them."""
        self._parameters.publish(version, params)

    def are_decided(self) -> bool:
        """Returns whether `take` would return or raise at once."""
        return all(actor.is_decided() for actor in self.actors)

    def take(self, update: int, should_stop: Callable[[], bool]) -> list[Rollout] | None:
        """Waits for the next rollout of every actor; returns None if the run has to stop before all arrive.

        Args:
            update: How many updates were made before. It decides which parameters must have generated the rollouts.
            should_stop: Called every second of a wait.

        Raises:
            TimeoutError: If a rollout does not arrive in time.
            ActorError: If an actor failed.
            RuntimeError: If a rollout was generated with other parameters.
        """
        if should_stop():
            return None
        try:
            if self._workers:
                self._workers.wait(should_stop)
            rollouts = [actor.take(should_stop) for actor in self.actors]
        except Stopped:
            return None
        check_lag(rollouts, self._versions(update))
        return rollouts

    def awaited(self) -> str:
        """Returns the names of the actors whose rollouts are still missing, for messages."""
        return ", ".join(actor.name for actor in self.actors if not actor.is_decided())

    def totals(self) -> dict[str, int]:
        """Returns the counts of this process's workers so far, by the keys of rows; none without."""
        return self._workers.totals() if self._workers else {}

    def nonfinite(self, rollout: int) -> list[str]:
        """Describes the values in this rollout that are not finite, one text per actor that saw some."""
        return [text for actor in self.actors if (text := actor.nonfinite.of(rollout))]


def _make_workers(
    config: Config, source: Source, topology: Topology, acting: Mapping[jax.Device, ActingPrograms | SlotPrograms]
) -> EnvWorkers:
    """Creates the environment workers of this process, which do not listen yet."""
    timestep = next(iter(acting.values())).timestep
    return EnvWorkers(config, source, make_layout(config, topology), timestep, topology.process_index)


def make_actors(
    config: Config,
    source: Source,
    topology: Topology,
    acting: Mapping[jax.Device, ActingPrograms | SlotPrograms],
    parameters: ParameterStore,
    schedule: Schedule,
    annotate: Annotate | None = None,
    make: Callable[..., Actor] = Actor,
) -> list[Actor]:
    """Creates this process's actors, not yet started, in the order in which the learner takes their rollouts."""
    layout = make_layout(config, topology)
    num_threads = config.actors.env_threads or default_env_threads(layout)
    devices = [d for d in topology.local_actor_devices for _ in range(config.actors.threads_per_device)]

    return [
        make_actor(
            config,
            source,
            layout,
            index,
            process_index=topology.process_index,
            device=device,
            programs=acting[device],
            schedule=schedule,
            parameters=parameters,
            local_learner=topology.local_learner,
            num_threads=num_threads,
            timeout_s=config.actors.timeout_s,
            annotate=annotate,
            make=make,
        )
        for index, device in enumerate(devices)
    ]


def check_lag(rollouts: Sequence[Rollout], versions: range) -> None:
    """Raises RuntimeError unless every rollout was generated with one of these versions of the parameters."""
    for index, rollout in enumerate(rollouts):
        if rollout.version not in versions:
            expected = f"{versions.start}" + (f" to {versions[-1]}" if len(versions) > 1 else "")
            raise RuntimeError(
                f"Found a rollout of actor {index} made with parameters {rollout.version}; expected {expected}."
            )


def finished_episodes(rollouts: Sequence[Rollout]) -> list[Episode]:
    """Returns the episodes that ended, in the fixed order of actors, rows and pools."""
    return [episode for rollout in rollouts for episode in rollout.episodes]
