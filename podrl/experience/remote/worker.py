"""An environment worker: connects to a learner's process and steps the pools that it asks for.

The main thread reads requests. Each pool has a thread, which opens, steps and closes it, since some environments can be
closed only by the thread that opened them.
"""

from collections.abc import Callable, Iterator
import dataclasses
import queue
import threading
import time
import traceback
from typing import Any

from absl import logging
import grpc

from podrl.config.config import ConfigError, EnvConfig
from podrl.config.env_numbers import with_number
from podrl.envs.info import record_info
from podrl.envs.opening import make_pool
from podrl.envs.pools.checks import close_pool
from podrl.envs.source import Source, load_source
from podrl.experience.remote.admission import RefusedError, apply
from podrl.experience.remote.door import KEEPALIVE_S, WORKERS_LIMIT_S, Door, channel_options
from podrl.experience.remote.messages import METHOD, SERVICE, Head, Kind, pack_fields, read_fields, read_head
from podrl.experience.remote.timesteps import TimestepCodec, action_layout, timestep_shape
from podrl.runtime.job.handshake import UnprovenError
from podrl.runtime.machine import available_cores
from podrl.runtime.process_exit import describe_error
from podrl.runtime.waiting import Patience

_ANSWER_S = 30.0  # For the learner's part of the admission.
_CLOSING_S = 10.0
_LONGEST_BYTES = 1 << 26  # Of a message from the learner: actions, or a config.
_SLICE_S = 1.0


class LostLearnerError(RuntimeError):
    """The learner was lost, or ended with an error; one clear line for the user."""


def serve_learner(
    door: Door, secret: bytes, *, wait_s: float, env_threads: int = 0, begin: Callable[[], None] = lambda: None
) -> None:
    """Serves a learner's process until its run ends.

    Args:
        door: where it listens.
        secret: the job's secret.
        wait_s: seconds to wait until it is there.
        env_threads: threads of each pool; 0 for what the learner asks for, or else this host's cores over the pools.
        begin: called once the learner has admitted this worker.

    Raises:
        ConfigError: if the learner does not admit this worker.
        LostLearnerError: if it does not answer in time, is lost, or its run failed.
    """
    with _connect(door, wait_s) as channel:
        outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        stream = channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter(outgoing.get, None))
        pools: dict[int, _PoolThread] = {}
        try:
            env = _apply(door, secret, stream, outgoing)
            begin()
            logging.info("Steps environments %s of the learner at %s.", env.id, door.address)
            code = _serve(stream, outgoing, pools, _Environments(env, env_threads))
        except grpc.RpcError as error:
            raise LostLearnerError(
                f"The learner at {door.address} was lost: {_reason(error)}. What it said itself may tell why."
            ) from None
        finally:
            _close(pools)
            outgoing.put(None)
            stream.cancel()
    if code:
        raise LostLearnerError(f"The learner's run at {door.address} ended with an error, which it says itself.")


@dataclasses.dataclass
class _Environments:
    """What the environments are, loaded once the first pool is asked for."""

    env: EnvConfig
    env_threads: int
    _loaded: tuple[Source, Any] | None = None
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def load(self, env_number: int) -> tuple[Source, Any]:
        """Returns the source and one environment's spec, for which the environment with this number is tried."""
        with self._lock:
            if self._loaded is None:
                source = load_source(self.env.source)
                self._loaded = source, source.make_spec(with_number(self.env, env_number))
            return self._loaded


class _PoolThread:
    """A pool and the thread that steps it."""

    def __init__(
        self,
        channel: int,
        environments: _Environments,
        outgoing: "queue.SimpleQueue[bytes | None]",
    ):
        self.requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._environments, self._outgoing = environments, outgoing
        self._pool: Any = None
        self.thread = threading.Thread(target=self._run, name=f"pool {channel}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        """Answers requests until the pool is to be closed."""
        while (message := self.requests.get()) is not None:
            head = read_head(message)
            if head.kind == Kind.CLOSE:
                self._close()
                self._outgoing.put(Head(Kind.CLOSED, head.channel, head.number).pack() + b"{}")
                return
            try:
                answer = self._answer(head, message)
            except BaseException as error:  # noqa: BLE001 (raised in the learner's process)
                logging.error("The environments failed: %s", "".join(traceback.format_exception(error)).rstrip())
                answer = pack_fields(
                    Head(Kind.FAILED, head.channel, head.number),
                    text=str(error) if isinstance(error, ConfigError) else describe_error(error),
                    is_mistake=isinstance(error, ConfigError),
                )
            self._outgoing.put(answer)
        self._close()

    def _answer(self, head: Head, message: bytes) -> bytes:
        if head.kind == Kind.OPEN:
            timestep = self._open(read_fields(message))
        else:
            actions, _ = self._actions.decode(message)
            self._pool.send(actions[0])
            timestep = self._pool.recv()
        return self._codec.encode(Head(Kind.STEP, head.channel, head.number), timestep, self._ended_numbers())

    def _open(self, fields: dict[str, Any]) -> Any:
        """Makes the environments and opens their episodes."""
        source, spec = self._environments.load(fields["env_numbers"][0])
        num_envs = len(fields["seeds"])
        self._codec = TimestepCodec(timestep_shape(spec, num_envs))
        self._actions = action_layout(spec, num_envs)
        share = max(1, available_cores() // fields["num_pools"])
        self._pool = make_pool(
            source,
            self._environments.env,
            seeds=fields["seeds"],
            env_numbers=fields["env_numbers"],
            num_threads=min(num_envs, self._environments.env_threads or fields["num_threads"] or share),
        )
        self._ended_numbers = record_info(self._pool, fields["info_keys"])
        return self._pool.reset()

    def _close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            close_pool(pool)


def _connect(door: Door, wait_s: float) -> grpc.Channel:
    """Returns a channel to a learner's process once it is there."""
    options = [
        *channel_options(_LONGEST_BYTES),
        ("grpc.keepalive_time_ms", 3 * KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", WORKERS_LIMIT_S * 1000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 2000),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if door.certificates:
        certificate, key, authority = door.read()
        channel = grpc.secure_channel(door.target, grpc.ssl_channel_credentials(authority, key, certificate), options)
    else:
        channel = grpc.insecure_channel(door.target, options)
    ready, patience = grpc.channel_ready_future(channel), Patience(wait_s)
    while True:
        try:
            ready.result(timeout=min(left_s := patience.left_s(), _SLICE_S))
            return channel
        except grpc.FutureTimeoutError:
            if not left_s:
                channel.close()
                raise LostLearnerError(
                    f"No learner answered at {door.address} within {wait_s:g} s. Does it run, with the same address in "
                    "remote.address, and with certificates of the same CA if any? If it only starts slowly, raise "
                    "--wait_s."
                ) from None


def _apply(door: Door, secret: bytes, stream: Any, outgoing: "queue.SimpleQueue[bytes | None]") -> EnvConfig:
    """Goes through the admission, and returns the environment's config."""
    limit = threading.Timer(_ANSWER_S, stream.cancel)
    limit.daemon = True
    limit.start()
    dialogue = apply(secret)
    next(dialogue)
    try:
        while True:
            outgoing.put(dialogue.send(next(stream)))
    except StopIteration as end:
        if end.value is None:
            raise LostLearnerError(f"What answers at {door.address} ended the connection.") from None
        return end.value
    except UnprovenError:
        raise ConfigError(
            f"The learner at {door.address} has another job secret. Give both the same PODRL_JOB_SECRET_FILE; each job "
            "on a host needs an address of its own."
        ) from None
    except RefusedError as error:
        raise ConfigError(f"This worker is of no use to the learner at {door.address}: {error}.") from None
    except ValueError as error:
        raise ConfigError(f"What answers at {door.address} is no learner of podrl's: {error}.") from None
    finally:
        limit.cancel()


def _serve(
    stream: Iterator[bytes],
    outgoing: "queue.SimpleQueue[bytes | None]",
    pools: dict[int, _PoolThread],
    environments: _Environments,
) -> int:
    """Passes requests to the pools' threads, and returns the exit code of the learner's run when it has ended."""
    for message in stream:
        head = read_head(message)
        if head.kind == Kind.END:
            return int(read_fields(message).get("code", 1))
        if head.kind == Kind.OPEN:
            pools[head.channel] = _PoolThread(head.channel, environments, outgoing)
        pools[head.channel].requests.put(message)
        if head.kind == Kind.CLOSE:
            del pools[head.channel]
    return 1


def _close(pools: dict[int, _PoolThread]) -> None:
    """Closes what is open; an environment that hangs is left to end with the process."""
    for pool in pools.values():
        pool.requests.put(None)
    deadline_s = time.monotonic() + _CLOSING_S
    for pool in pools.values():
        pool.thread.join(max(0.0, deadline_s - time.monotonic()))


def _reason(error: Any) -> str:
    details = error.details() if hasattr(error, "details") else ""
    return " ".join(str(details or error).split())[:300]
