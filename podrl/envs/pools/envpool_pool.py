"""An EnvPool, or what has its calls, with podrl's interface."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from podrl.config.config import ConfigError
from podrl.envs.action_masks import MaskCheck
from podrl.envs.encodings import Encoding
from podrl.envs.spaces import ActionEncoding
from podrl.envs.workers.info import InfoTally, Numbers
from podrl.types import Timestep


class SynchronousPool:
    """A synchronous EnvPool, or `AleGames`, that exchanges timesteps; see `podrl.envs.source.Pool`.

    Attributes:
        extras: The environments' additional values for the newest timestep of `recv`, by its own names; each [B, ...].
        ended_numbers: see `podrl.envs.info.InfoPool`.
    """

    def __init__(self, env: Any, encoding: Encoding, action_encoding: ActionEncoding, *, num_envs: int, env_id: str):
        """Takes over `env`, which no other code may step."""
        self._env = env
        self._encoding = encoding
        self._action_encoding = action_encoding
        self._masks = MaskCheck(action_encoding, encoding, env_id)
        self._num_envs = num_envs
        self._ended: Any = None  # [B] bool: the last timestep ended the episode.
        self._sent = False
        self.extras: Mapping[str, Any] = {}
        self._tally: InfoTally | None = None
        self._change: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
        self.ended_numbers: Numbers = {}
        self._newest: Any = None  # The raw observation, for `picture`.

    def record_info(
        self, keys: Sequence[str], change: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    ) -> None:
        """Starts recording numbers of `extras`, or of what `change` makes of them; see `podrl.envs.info.InfoPool`."""
        self._tally, self._change = InfoTally(keys, self._num_envs), change

    def reset(self) -> Timestep:
        """Opens an episode in every environment."""
        env = self._open_env()
        self._require(not self._sent, "reset() while a step is running; call recv() first")
        observation, _ = env.reset()
        self._ended = np.zeros(self._num_envs, bool)
        return self._timestep(observation, reward=0.0, terminated=self._ended, first=~self._ended)

    def send(self, action: np.ndarray) -> None:
        """Starts one step with action [B, ...] of the spec's `actions`."""
        env = self._open_env()
        self._require(self._ended is not None, "send() before reset()")
        self._require(not self._sent, "send() twice without recv()")
        expected = (self._num_envs, *self._action_encoding.actions.struct.shape)
        if action.shape != expected:
            raise ValueError(f"Found action of shape {action.shape}; expected {expected}.")
        env.send(self._action_encoding.decode(action))
        self._sent = True

    def recv(self) -> Timestep:
        """Waits for the step that `send` started."""
        env = self._open_env()
        self._require(self._sent, "recv() without send(), which would never return")
        observation, reward, terminated, truncated, extras = env.recv()
        self._sent = False
        self.extras = extras
        first, self._ended = self._ended, terminated | truncated
        if self._tally is not None:
            info = extras if self._change is None else self._change(extras)
            self.ended_numbers = self._tally.add_columns(info, first, self._ended)
        # EnvPool reports a game that ends on its time limit as truncated; Atari's extras also say whether it is over.
        terminated = terminated | (self._ended & (extras.get("terminated", terminated) != 0))
        return self._timestep(observation, reward, terminated, first)

    def picture(self, env: int) -> np.ndarray:
        """Returns a picture of environment `env`, uint8 [H, W, 3].

        EnvPool draws it, unless observations are grids of numbers, which are pictures themselves.

        Raises:
            ConfigError: if EnvPool cannot draw it.
        """
        pool = self._open_env()
        self._require(self._newest is not None, "picture() before reset()")
        self._require(not self._sent, "picture() while a step is running; call recv() first")
        if is_grid(pool.observation_space):
            grid = self._newest[env].astype(np.float64)
            brightness = (grid - grid.min()) / max(np.ptp(grid), 1e-9)
            return np.repeat((255 * brightness).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
        try:
            return np.array(pool.render(env_ids=[env])[0])
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"EnvPool has no picture of this environment: {reason}.") from None

    def close(self) -> None:
        """Frees the C++ threads; a running step ends first."""
        self._env = None

    def _timestep(self, observation: Any, reward: Any, terminated: Any, first: Any) -> Timestep:
        """Applies the reset rule: rows that are `first` have reward 0 and discount 1."""
        self._newest = observation
        # Any: `Timestep` is annotated with the jax arrays that these become.
        reward = np.where(first, 0.0, reward).astype(np.float32)
        discount: Any = np.where(first | ~terminated, 1.0, 0.0).astype(np.float32)
        encoded = self._encoding.encode(observation)
        timestep = Timestep(observation=encoded, reward=reward, discount=discount, first=first)
        return self._masks.checked(timestep, self._ended)

    def _open_env(self) -> Any:
        """Returns the EnvPool, unless it was closed."""
        self._require(self._env is not None, "use after close()")
        return self._env

    def _require(self, condition: bool, mistake: str) -> None:
        """Raises `RuntimeError` if calls come in an order that cannot work."""
        if not condition:
            raise RuntimeError(f"Environment pool: {mistake}.")


def is_grid(space: gymnasium.Space) -> bool:
    """Returns whether observations are two-dimensional, such as Catch's: a picture with numbers for colours."""
    return isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 2
