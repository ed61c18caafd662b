"""The actor workers of one process of a run, as its learner uses them.

Once all have come, and are admitted as environment workers are, each is told which actors it has, compiles, and says
so. Then the learner grants rollouts, and parameters cross the wire only if they act:

    learner: START {channels, process, layout, schedule, takes_newest, num_threads}   -> STARTED {}
    learner: PARAMS version and arrays, in pieces
    learner: GO rollout {version}, to one actor                       -> from this actor: ROLLOUT, in pieces
    learner: DRIFT version {drift}                                    -> PULL, to get PARAMS, or nothing

The last is for `determinism='free'` with `remote.publish='drift'`. An actor owes exactly the rollouts that were
granted, in order. FAILED {text, is_mistake} may come from any actor.

With `determinism='free'` workers may be lost and return (`podrl.experience.remote.actor_links`).
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
import threading
from types import TracebackType
from typing import Any

from absl import logging

from podrl.config.config import Config, check
from podrl.experience.layout import Layout, default_env_threads, make_layout
from podrl.experience.remote.actor_channel import lost
from podrl.experience.remote.actor_links import ActorLinks
from podrl.experience.remote.actor_parameters import ActorParameters
from podrl.experience.remote.actor_programs import RemoteActing
from podrl.experience.remote.connection import EnvWorkerError
from podrl.experience.remote.endpoint import address_of_process, make_endpoint
from podrl.experience.remote.env_workers import import_server, read_secret
from podrl.experience.remote.grpc_options import PING_EVERY_S, SERVERS_MARGIN_S
from podrl.experience.remote.messages import HEAD_BYTES, LONGEST_JSON_BYTES, Kind
from podrl.experience.remote.remote_actor import RemoteActor
from podrl.experience.remote.roles import ACTORS
from podrl.experience.remote.rollouts import RolloutCodec
from podrl.experience.remote.traffic import ROW_PREFIX
from podrl.experience.remote.trees import PIECE_BYTES
from podrl.experience.remote.versions import Publishing
from podrl.experience.schedule import Schedule
from podrl.experience.transfer import join_rollouts
from podrl.mesh import Topology
from podrl.runtime.waiting import wait_for
from podrl.types import PyTree

_MARGIN_S = 10.0
_MOST_ROLLOUTS = 2**30


class ActorWorkers:
    """The workers, their actors, and the parameters on their way to them.

    A context manager: it listens from the start to the end, which the workers are told.

    Attributes:
        actors: This process's actors, in the order in which the learner takes their rollouts.
    """

    def __init__(self, config: Config, topology: Topology, acting: RemoteActing, schedule: Schedule):
        """Creates them without listening.

        Args:
            config: The run's config, with `remote.actor_workers` above 0.
            topology: Which devices learn.
            acting: What crosses the wire.
            schedule: The run's.

        Raises:
            ConfigError: If they do not divide, the address is wrong, or there is no secret or no gRPC.
        """
        self._config, self._topology, self._schedule = config, topology, schedule
        remote, self._layout = config.remote, make_layout(config, topology)
        self._num_workers = _workers_of_process(config, self._layout)
        address = address_of_process(remote.address, topology.process_index, topology.num_processes)
        endpoint = make_endpoint("remote.address", address, remote.certificates, "remote.certificates")
        self._is_local = endpoint.is_local
        self._server = import_server("remote.actor_workers")(
            endpoint,
            read_secret(os.environ, address, is_local=endpoint.is_local, certificates=endpoint.certificates),
            dataclasses.asdict(config),
            num_workers=self._num_workers,
            longest_bytes=max(HEAD_BYTES + PIECE_BYTES, LONGEST_JSON_BYTES),
            longest_answer_s=max(1.0, remote.timeout_s - SERVERS_MARGIN_S - PING_EVERY_S),
            replaces=not schedule.exact,
            role=ACTORS,
        )
        codec = RolloutCodec(acting.rollout, self._layout.pools_per_actor)
        self.actors = [
            RemoteActor(
                index,
                topology.local_learner,
                config.actors.timeout_s,
                first=schedule.first,
                env_indices=self._layout.pools_of(topology.process_index, index),
                marks_cuts=config.agent.update_shape.sequences is not None,
            )
            for index in range(self._layout.num_actors)
        ]
        publishing = Publishing(remote, schedule, acting.drift, self._num_workers)
        self._parameters = ActorParameters(publishing, acting.params, self.actors)
        self._measures = acting.drift is not None
        self._links = ActorLinks(
            self._server,
            self.actors,
            codec,
            self._start_fields,
            num_workers=self._num_workers,
            first=schedule.first,
            replaces=not schedule.exact,
            starting_s=remote.join_timeout_s,
            alone_s=remote.alone_s(config.actors.timeout_s),
            wake=self._parameters.wake,
        )
        self._changed = threading.Condition()
        self._have_started = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="parameters", daemon=True)

    def __enter__(self) -> "ActorWorkers":
        """Starts listening."""
        self._server.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)
        self._thread.join(_MARGIN_S)
        logging.info("%s", self.describe_traffic())

    def wait(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Waits until all workers have come and compiled.

        Raises:
            TimeoutError: If they do not in time.
            ActorError, ConfigError: If one of them fails before.
            Stopped: If the run has to stop before.
        """
        timeout_s = 2 * self._config.remote.join_timeout_s + _MARGIN_S  # The thread has its own, which say more.
        with self._changed:
            wait_for(
                self._changed,
                lambda: self._have_started or self._error is not None,
                timeout_s=timeout_s,
                blame=lambda: f"The actor workers did not start within {timeout_s:g} s.",
                should_stop=should_stop,
            )
            if self._error is not None:
                raise self._error

    def stop(self) -> None:
        """Publishes nothing more."""
        self._parameters.stop()

    def stop_waiting(self) -> None:
        """Ends every wait for workers that have not come, as the run has to stop."""
        self._server.stop_waiting()

    def publish(self, version: int, params: PyTree) -> None:
        """Decides about an update's parameters, and sends them if they act, with the number of each next rollout."""
        taken = [actor.newest for actor in self.actors if actor.newest is not None] if self._measures else []
        self._parameters.publish(version, params, tuple(join_rollouts(taken, self._topology)))

    def versions(self, rollout: int) -> range:
        """Returns the versions that may have made a rollout, which has come; asked once for each."""
        return self._parameters.versions(rollout, exact=self._schedule.exact)

    def describe_traffic(self) -> str:
        """Returns what was sent and received so far, for people."""
        traffic = self._server.traffic
        params, rollouts = (
            (traffic.messages[last], (traffic.bytes[last] + traffic.bytes[part]) / 1e6)
            for last, part in ((Kind.PARAMS, Kind.PART_OF_PARAMS), (Kind.ROLLOUT, Kind.PART_OF_ROLLOUT))
        )
        return (
            f"Actor workers: {self._parameters.sent:,} versions of parameters in {params[0]:,} PARAMS messages of "
            f"{params[1]:,.1f} MB, and {rollouts[0]:,} ROLLOUT messages of {rollouts[1]:,.1f} MB; "
            f"{self._server.refusals.count} connections refused."
        )

    def totals(self) -> dict[str, int]:
        """Returns what was sent, received and refused so far, by the keys of rows."""
        return {**self._server.traffic.totals(), f"{ROW_PREFIX}refused": self._server.refusals.count}

    def _run(self) -> None:
        """Starts the workers, and sends what is published until the end."""
        try:
            self._server.wait(timeout_s=self._config.remote.join_timeout_s)
            self._links.start_all()
            with self._changed:
                self._have_started = True
                self._changed.notify_all()
            self._parameters.send_all(self._links)
        except EnvWorkerError as error:
            self._fail(lost(error))
        except BaseException as error:  # noqa: BLE001 (raised in the main thread)
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Ends every wait for the workers with an error."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
        for actor in self.actors:
            actor.fail(error)

    def _start_fields(self, channels: Mapping[int, int], first: int) -> dict[str, Any]:
        """Returns what a worker is told of its actors, whose channels these are, and of their first rollout."""
        chosen, schedule = self._config.actors.env_threads, self._schedule
        last = schedule.last if schedule.exact else first + _MOST_ROLLOUTS  # It may make those of others, too.
        return {
            "channels": channels,
            "process": self._topology.process_index,
            "layout": dataclasses.asdict(self._layout),
            "schedule": {"first": first, "last": last, "every": schedule.every},
            "takes_newest": not schedule.exact,
            "num_threads": chosen or (default_env_threads(self._layout) if self._is_local else 0),
        }


def check_actor_workers(config: Config, layout: Layout) -> None:
    """Raises `ConfigError`, before anything is compiled, if the run cannot have the actor workers it asks for."""
    if (remote := config.remote).actor_workers:
        _workers_of_process(config, layout)
        check(
            config.determinism == "exact" or remote.publish == "every" or layout.num_processes == 1,
            "remote.publish='drift' with determinism='free' takes a job of one process: each would find other workers' "
            "parameters drifted. Use determinism=exact, or remote.publish=every.",
        )
        make_endpoint("remote.address", remote.address, remote.certificates, "remote.certificates")
        import_server("remote.actor_workers")


def _workers_of_process(config: Config, layout: Layout) -> int:
    """Returns the workers of each process."""
    count, processes = config.remote.actor_workers, layout.num_processes
    check(
        count % processes == 0,
        f"remote.actor_workers={count} does not divide over {processes} processes. Use a multiple of {processes}.",
    )
    check(
        count <= layout.num_actors * processes,
        f"remote.actor_workers={count} are more than there are actors: each of {processes} process(es) has "
        f"{layout.num_actors} actor threads. Use at most {layout.num_actors * processes}, or raise "
        "actors.threads_per_device.",
    )
    return count // processes
