"""A pool in an environment worker, and the thread that opens, steps and closes it."""

import dataclasses
import queue
import threading
import traceback
from typing import Any

from absl import logging

from podrl.config.config import ConfigError, EnvConfig
from podrl.config.env_numbers import with_number
from podrl.envs.info import record_info
from podrl.envs.opening import make_pool
from podrl.envs.pools.checks import close_pool
from podrl.envs.source import Source, load_source
from podrl.experience.remote.messages import Head, Kind, pack_fields, read_fields, read_head
from podrl.experience.remote.timesteps import TimestepCodec, action_layout, timestep_shape
from podrl.runtime.machine import available_cores
from podrl.runtime.process_exit import describe_error


@dataclasses.dataclass
class Environments:
    """The environments that a worker makes; their source is loaded once the first pool is asked for.

    Attributes:
        env: The section `env` of the run's config.
        env_threads: Threads of each pool; 0 leaves them to the learner, or to this host's cores.
    """

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


class PoolThread:
    """A pool and the thread that steps it.

    Attributes:
        requests: Messages of the learner's; None ends the thread.
        thread: Ends once the environments are closed.
    """

    def __init__(self, channel: int, environments: Environments, outgoing: "queue.SimpleQueue[bytes | None]"):
        """Starts the thread.

        Args:
            channel: The pool's number on the connection.
            environments: The environments to make.
            outgoing: Takes the answers.
        """
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
        self._ended_numbers = record_info(self._pool, fields["info_keys"], always=fields["tells_ends"])
        return self._pool.reset()

    def _close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            close_pool(pool)
