"""A pool whose environments step in an environment worker; to an actor it is a pool like any other."""

from collections.abc import Sequence
import functools
from typing import Any

from absl import logging
import numpy as np

from podrl.envs.info import Numbers
from podrl.experience.remote.arrays import ArrayLayout, ArraySpec
from podrl.experience.remote.connection import Channel, EnvWorkerError, WorkerConnection
from podrl.experience.remote.messages import HEAD_BYTES, Head, Kind, pack_fields
from podrl.experience.remote.timesteps import TimestepCodec
from podrl.experience.succession import CLOSING_S
from podrl.runtime.waiting import Stopped
from podrl.types import Timestep


class RemotePool:
    """A batch of environments in a worker that exchanges timesteps; see `podrl.envs.source.Pool`, `podrl.envs.info`."""

    def __init__(
        self,
        connection: WorkerConnection,
        codec: TimestepCodec,
        *,
        seeds: Sequence[int],
        env_numbers: Sequence[int],
        num_threads: int,
        num_pools: int,
        timeout_s: float,
        opening_s: float,
        tells_ends: bool = False,
    ):
        """Opens a channel; the worker makes the environments at `reset`.

        Args:
            connection: the worker's.
            codec: reads timesteps of these environments.
            seeds: [B], one per environment.
            env_numbers: [B]; the environments' numbers in the job.
            num_threads: threads that step the pool; 0 leaves it to the worker.
            num_pools: pools of the learner's that the worker has.
            timeout_s: seconds that the worker may take for a step.
            opening_s: seconds that it may take to make the environments.
            tells_ends: whether `ended_numbers` has each episode that ends, also if no numbers are asked for.
        """
        self._codec, self._timeout_s, self._opening_s = codec, timeout_s, opening_s
        self._opening: dict[str, Any] = {
            "seeds": list(seeds),
            "env_numbers": list(env_numbers),
            "num_threads": num_threads,
            "num_pools": num_pools,
            "info_keys": [],
            "tells_ends": tells_ends,
        }
        self._channel: Channel | None = connection.open_channel()
        self._was_reset, self._sent = False, False
        self._actions: ArrayLayout | None = None
        self.ended_numbers: Numbers = {}

    def record_info(self, keys: Sequence[str]) -> None:
        """Starts recording numbers of `info`; see `podrl.envs.info.InfoPool`."""
        self._require(not self._was_reset, "record_info() after reset()")
        self._opening["info_keys"] = list(keys)

    def reset(self) -> Timestep:
        """Makes the environments, each with its seed, and opens an episode in each.

        Raises:
            EnvWorkerError, ConfigError, TimeoutError: as in `Channel.answer`; so does `recv`.
        """
        self._require(not self._sent, "reset() while a step is running; call recv() first")
        self._require(not self._was_reset, "reset() twice")
        self._was_reset = True
        self._open_channel().request(Kind.OPEN, lambda head: pack_fields(head, **self._opening))
        return self._answer(self._opening_s)

    def send(self, action: np.ndarray) -> None:
        """Starts one step with action [B, ...] of the spec's `actions`."""
        self._require(self._was_reset, "send() before reset()")
        self._require(not self._sent, "send() twice without recv()")
        if self._actions is None:
            spec = ArraySpec("action", action.dtype.name, tuple(action.shape))
            self._actions = ArrayLayout((spec,), HEAD_BYTES)
        encode = functools.partial(_encode_action, self._actions, action)
        self._open_channel().request(Kind.ACT, encode)
        self._sent = True

    def recv(self) -> Timestep:
        """Waits for the step that `send` started."""
        self._require(self._sent, "recv() without send(), which would never return")
        self._sent = False
        return self._answer(self._timeout_s)

    def close(self) -> None:
        """Waits until the worker has closed the environments; a lost worker has none."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            if self._sent:  # Stopped within a step.
                channel.answer(Kind.STEP, timeout_s=self._timeout_s)
            if self._was_reset:
                channel.request(Kind.CLOSE, pack_fields)
                channel.answer(Kind.CLOSED, timeout_s=CLOSING_S, gives_up=False)
        except (EnvWorkerError, Stopped):  # Nothing is left to close.
            pass
        except TimeoutError:
            logging.warning("%s: an environment hangs in close. The run continues.", channel.connection.name)
        finally:
            channel.connection.forget(channel)

    def _answer(self, timeout_s: float) -> Timestep:
        channel = self._open_channel()
        message = channel.answer(Kind.STEP, timeout_s=timeout_s)
        try:
            timestep, self.ended_numbers = self._codec.decode(message)
        except ValueError as error:
            channel.connection.lose(f"it sent another timestep than the run's: {error}")
            channel.connection.check()
            raise
        return timestep

    def _open_channel(self) -> Channel:
        """Returns the channel, unless the pool was closed."""
        self._require(self._channel is not None, "use after close()")
        return self._channel  # type: ignore[return-value]

    def _require(self, condition: bool, mistake: str) -> None:
        """Raises `RuntimeError` if calls come in an order that cannot work."""
        if not condition:
            raise RuntimeError(f"Environment pool: {mistake}.")


def _encode_action(layout: ArrayLayout, action: np.ndarray, head: Head) -> bytes:
    return layout.encode(head.pack(), [action])
