"""The actor threads of one process, as the main thread starts, feeds, reads and stops them."""

from collections.abc import Callable, Mapping, Sequence
import functools
import time
from types import TracebackType

from absl import logging
import jax
import numpy as np

from podrl.config.config import Config
from podrl.envs.opening import make_pool
from podrl.envs.seeds import env_seeds
from podrl.envs.source import Pool, Source
from podrl.experience.actors import Actor
from podrl.experience.episodes import Episode
from podrl.experience.handoff import Rollout
from podrl.experience.layout import default_env_threads, make_layout
from podrl.experience.parameters import ParameterStore
from podrl.experience.programs import ActingPrograms
from podrl.experience.remote.env_workers import EnvWorkers
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
        actors: The actors, one per thread.
    """

    def __init__(
        self,
        config: Config,
        source: Source,
        topology: Topology,
        acting: Mapping[jax.Device, ActingPrograms | SlotPrograms],
        schedule: Schedule,
        annotate: Annotate | None = None,
    ):
        """Creates the actors without starting their threads.

        Args:
            config: The run's config.
            source: Creates the environments.
            topology: Which devices act and which learn.
            acting: The compiled acting programs of each of this process's actor devices.
            schedule: Which parameters generate which rollout.
            annotate: Marks for a profiler what each thread spends its time on.
        """
        self._timeout_s, self._schedule = config.actors.timeout_s, schedule
        self._parameters = ParameterStore(topology.local_actor_devices, keep=1 + schedule.max_lag)
        self._workers = _make_workers(config, source, topology, acting) if config.remote.env_workers else None
        source = self._workers.source if self._workers else source
        make: Callable[..., Actor] = Actor
        if self._workers and serves_arrivals(config):
            make = functools.partial(ServingActor, make_serving(config, self._workers, make_layout(config, topology)))
        self.actors = make_actors(config, source, topology, acting, self._parameters, schedule, annotate, make)

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
        check_lag(rollouts, self._schedule.versions(update))
        return rollouts

    def awaited(self) -> str:
        """Returns the names of the actors whose rollouts are still missing, for messages."""
        return ", ".join(actor.name for actor in self.actors if not actor.is_decided())

    def totals(self) -> dict[str, int]:
        """Returns the counts of this process's environment workers so far, by the keys of rows; none without."""
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

    def seeds(env_indices: np.ndarray, rollout: int) -> Sequence[int]:
        """Returns the environments' seeds: at rollout 0 from the run's seed alone, at later boundaries from both."""
        return env_seeds((config.seed, rollout) if rollout else config.seed, [int(env) for env in env_indices])

    def open_pool(env_indices: np.ndarray, rollout: int) -> Pool:
        own = seeds(env_indices, rollout)
        return make_pool(source, config.env, seeds=own, env_numbers=env_indices.tolist(), num_threads=num_threads)

    def make_actor(index: int, device: jax.Device) -> Actor:
        pools = [layout.env_indices(topology.process_index, index, pool) for pool in range(layout.pools_per_actor)]
        return make(
            name=f"actor {index}",
            device=device,
            programs=acting[device],
            make_pools=[functools.partial(open_pool, env_indices) for env_indices in pools],
            env_indices=pools,
            unroll_length=config.actors.unroll_length,
            schedule=schedule,
            parameters=parameters,
            local_learner=topology.local_learner,
            seeds=seeds,
            timeout_s=config.actors.timeout_s,
            patience_s=config.patience_s,
            info_keys=config.log.info_keys,
            annotate=annotate,
        )

    return [make_actor(index, device) for index, device in enumerate(devices)]


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
