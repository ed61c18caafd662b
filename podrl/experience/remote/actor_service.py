"""An actor worker: acts with its own copy of the policy, in pools of its own, for a learner's process.

It runs the same actor threads as the learner's process would, with the same environments, seeds and keys. Only their
parameters come from the wire, and their rollouts go there.
"""

from collections.abc import Callable, Iterator, Mapping
import threading
import time
import traceback
from typing import Any

from absl import logging
import jax
import numpy as np

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config, ConfigError, TopologyConfig
from podrl.config.env_numbers import with_number
from podrl.envs.source import load_source
from podrl.experience.actor_making import make_actor
from podrl.experience.actors import Actor
from podrl.experience.layout import Layout, default_env_threads
from podrl.experience.programs import compile_acting, make_unroller
from podrl.experience.remote.actor_channel import ANY
from podrl.experience.remote.endpoint import Endpoint
from podrl.experience.remote.granted import GrantedParameters
from podrl.experience.remote.messages import Head, Kind, pack_fields, read_fields, read_head
from podrl.experience.remote.roles import ACTORS
from podrl.experience.remote.rollouts import RolloutCodec, SentRollout
from podrl.experience.remote.trees import Pieces, TreeCodec, to_pieces
from podrl.experience.remote.worker import Outgoing, attend
from podrl.experience.schedule import Schedule
from podrl.mesh import make_topology
from podrl.runtime.process_exit import describe_error
from podrl.runtime.waiting import Stopped
from podrl.types import EnvSpec

_CLOSING_S = 10.0

MakeAgent = Callable[[Config, EnvSpec], Agent]  # To act with, its network whole.


def serve_actors(
    endpoint: Endpoint,
    secret: bytes,
    *,
    wait_s: float,
    make_agent: MakeAgent,
    env_threads: int = 0,
    begin: Callable[[], None] = lambda: None,
    lose: Callable[[], None] = lambda: None,
) -> None:
    """Acts for a learner's process until its run ends.

    Args:
        endpoint: Where it listens.
        secret: The job's secret.
        wait_s: Seconds to wait until it is there, and has a place for this worker.
        make_agent: Makes the run's agent.
        env_threads: Threads of each pool; 0 for what the learner asks for, or else this host's cores over the actors.
        begin: Called once the learner has admitted this worker.
        lose: Called whenever the learner was lost that may admit it again.

    Raises:
        ConfigError, LostLearnerError: As in `podrl.experience.remote.worker.serve_learner`.
    """

    def serve(stream: Iterator[bytes], outgoing: Outgoing, config: Config) -> int:
        begin()
        logging.info("Acts in environments %s for the learner at %s.", config.env.id, endpoint.address)
        acting: ActingWorker | None = None
        try:
            for message in stream:
                head = read_head(message)
                if head.kind == Kind.END:
                    return int(read_fields(message).get("code", 1))
                if head.kind == Kind.START:
                    try:
                        acting = ActingWorker(config, read_fields(message), outgoing, make_agent, env_threads)
                    except Exception as error:  # noqa: BLE001 (raised in the learner's process)
                        outgoing.put(_failed(head.channel, head.number, error))
                        continue
                    outgoing.put(pack_fields(Head(Kind.STARTED, head.channel, head.number)))
                elif acting is not None:
                    acting.receive(head, message)
            return 1
        finally:
            if acting is not None:
                acting.stop()

    attend(endpoint, secret, ACTORS, serve, wait_s=wait_s, lose=lose)


class ActingWorker:
    """The actors of a worker, their parameters, and the threads that send their rollouts."""

    def __init__(
        self, config: Config, fields: Mapping[str, Any], outgoing: Outgoing, make_agent: MakeAgent, env_threads: int
    ):
        """Compiles acting; the actors start with the first grant, since other workers may compile for much longer.

        Args:
            config: The run's config.
            fields: What the learner says with START.
            outgoing: Takes messages to the learner.
            make_agent: Makes the run's agent.
            env_threads: As in `serve_actors`.
        """
        channels = {int(index): int(channel) for index, channel in fields["channels"].items()}
        layout, process = Layout(**fields["layout"]), int(fields["process"])
        source, device = load_source(config.env.source), jax.local_devices()[0]
        number = int(layout.env_indices(process, min(channels), 0)[0])
        spec = source.make_spec(with_number(config.env, number))
        unroller = make_unroller(config, make_agent(config, spec), spec, layout)
        programs = compile_acting(unroller, config.seed, device)
        topology = make_topology(TopologyConfig(), [device], process_index=device.process_index)
        self._schedule = Schedule(**fields["schedule"], max_lag=0, exact=True)  # See `GrantedParameters`.
        self._params = TreeCodec(unroller.params_shape)
        self._pieces = Pieces(self._params.size_bytes)
        self._codec = RolloutCodec(unroller.state_shape.rollout, layout.pools_per_actor)
        self._outgoing = outgoing
        takes_newest = bool(fields["takes_newest"])
        self._granted = {channel: GrantedParameters(takes_newest=takes_newest) for channel in channels.values()}
        self._max_drift, self._is_pulling = config.remote.max_drift, False
        threads = env_threads or fields["num_threads"] or max(1, default_env_threads(layout) // len(channels))
        self._actors = {
            channel: make_actor(
                config,
                source,
                layout,
                index,
                process_index=process,
                device=device,
                programs=programs,
                schedule=self._schedule,
                parameters=self._granted[channel],
                local_learner=topology.local_learner,
                num_threads=min(layout.envs_per_pool, threads),
                timeout_s=config.patience_s + config.actors.timeout_s,  # The learner has its own, which is shorter.
            )
            for index, channel in channels.items()
        }
        self._senders = [
            threading.Thread(target=self._send_rollouts, args=(channel, actor), name=f"sender {channel}", daemon=True)
            for channel, actor in self._actors.items()
        ]
        self._has_started = False

    def receive(self, head: Head, message: bytes) -> None:
        """Takes parameters, how far they have drifted, or a grant of a rollout.

        Raises:
            ValueError: If it is something else.
        """
        if head.kind == Kind.GO:
            self._granted[head.channel].grant(head.number, int(read_fields(message)["version"]))
            self._start()
        elif head.kind in (Kind.PARAMS, Kind.PART_OF_PARAMS):
            content = self._pieces.add(head, message, is_last=head.kind == Kind.PARAMS)
            if content is not None:
                self._is_pulling = False
                params = self._params.decode(content)[0]
                for granted in self._granted.values():
                    granted.add(head.number, params)
        elif head.kind == Kind.DRIFT:
            is_near = float(read_fields(message)["drift"]) < self._max_drift
            if not is_near and not self._is_pulling:
                self._is_pulling = True
                self._outgoing.put(Head(Kind.PULL, head.channel, head.number).pack())
        else:
            raise ValueError(f"{head.kind.name}, which an actor worker does not take")

    def stop(self) -> None:
        """Ends all threads; an environment that hangs is left to end with the process."""
        for granted in self._granted.values():
            granted.stop()
        if not self._has_started:
            return
        for actor in self._actors.values():
            actor.stop()
        deadline_s = time.monotonic() + _CLOSING_S
        for actor in self._actors.values():
            actor.join(max(0.0, deadline_s - time.monotonic()))

    def _start(self) -> None:
        """Starts all threads, once."""
        if not self._has_started:
            self._has_started = True
            for actor, sender in zip(self._actors.values(), self._senders, strict=True):
                actor.start()
                sender.start()

    def _send_rollouts(self, channel: int, actor: Actor) -> None:
        """Sends an actor's rollouts as they are made."""
        try:
            for number in self._schedule.rollouts:
                self._send(channel, number, actor)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 (raised in the learner's process)
            self._outgoing.put(_failed(channel, ANY, error.__cause__ or error))

    def _send(self, channel: int, number: int, actor: Actor) -> None:
        rollout = actor.take()
        sent = SentRollout(
            trajectories=jax.tree.map(np.asarray, rollout.trajectories),
            version=rollout.version,
            episodes=rollout.episodes,
            nonfinite=actor.nonfinite.of(number),
            spent_s=actor.ledger.seconds(),
        )
        content = self._codec.encode(sent)
        for message in to_pieces(Kind.ROLLOUT, Kind.PART_OF_ROLLOUT, channel, number + 1, content):
            self._outgoing.put(message)


def _failed(channel: int, number: int, error: BaseException) -> bytes:
    """Logs an error, and returns the message that tells the learner of it."""
    is_mistake = isinstance(error, ConfigError)
    logging.error("This worker failed: %s", "".join(traceback.format_exception(error)).rstrip())
    text = str(error) if is_mistake else describe_error(error)
    return pack_fields(Head(Kind.FAILED, channel, number), text=text, is_mistake=is_mistake)
