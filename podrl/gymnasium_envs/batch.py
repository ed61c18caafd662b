"""Several Gymnasium environments that step one after the other and keep podrl's reset rule.

The rule is that of Gymnasium's `AutoresetMode.NEXT_STEP`: the final observation comes with the step that ended the
episode, and the next step resets instead. Gymnasium's own vector environments keep it too, but do not say which
environment failed, and its asynchronous one has a process for each environment and waits for it without a limit while
it opens and closes. Observations are stacked by Gymnasium's functions.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import gymnasium
from gymnasium.vector.utils import concatenate, create_empty_array
import numpy as np

from podrl.config import ConfigError


class EnvFailure(RuntimeError):
    """An environment raised; the message names it, the cause is what it raised."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """What `B` environments returned.

    Attributes:
        observation: as Gymnasium stacks it: an array [B, ...], or nested dictionaries of such.
        reward: [B] float32; 0 where the environment was reset.
        terminated: [B] bool; the step ended the episode by itself.
        ended: [B] bool; terminated or truncated.
    """

    observation: Any
    reward: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray


class EnvBatch:
    """Environments of one kind, each with a seed of its own. Nothing that it returns is written to later.

    Attributes:
        num_envs: B.
        observation_space: of one environment.
        action_space: of one environment.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        seeds: Sequence[int],
        *,
        first_index: int = 0,
        on_turn: Callable[[int], None] = lambda index: None,
    ):
        """Makes the environments.

        Args:
            make: makes one.
            seeds: [B], one per environment.
            first_index: of these environments in the pool, for messages.
            on_turn: told the index of an environment whenever it is its turn.
        """
        self._seeds = seeds
        self._first_index = first_index
        self._on_turn = on_turn
        self._envs: list[gymnasium.Env] = []
        self._ended = np.zeros(len(seeds), bool)
        self._action: Any = None
        for row in range(len(seeds)):
            self._envs.append(self._call(row, "its constructor", make))
        self.num_envs = len(seeds)
        self.observation_space = self._envs[0].observation_space
        self.action_space = self._envs[0].action_space

    def reset(self) -> Any:
        """Opens an episode in every environment, with its seed; returns the observations as `Steps` has them."""
        self._ended[:] = False
        opened = [
            self._call(row, "reset", lambda: env.reset(seed=self._seeds[row])[0])  # noqa: B023 (called at once)
            for row, env in enumerate(self._envs)
        ]
        return self._stack(opened)

    def send(self, action: np.ndarray) -> None:
        """Keeps actions [B, ...] in the environments' own units for `recv`."""
        self._action = action

    def recv(self) -> Steps:
        """Steps every environment, or resets it if its episode ended with the last step."""
        results = [self._step(row, self._action[row]) for row in range(len(self._envs))]
        observations, rewards, terminated, truncated = zip(*results, strict=True)
        ends = np.array(terminated, bool)
        self._ended = ends | np.array(truncated, bool)
        return Steps(
            observation=self._stack(observations),
            reward=np.array(rewards, np.float32),
            terminated=ends,
            ended=self._ended.copy(),
        )

    def step(self, action: np.ndarray) -> Steps:
        """`send` and `recv` in one."""
        self.send(action)
        return self.recv()

    def picture(self, row: int) -> Any:
        """What environment `row` renders."""
        return self._call(row, "render", self._envs[row].render)

    def close(self) -> None:
        """Closes all environments; may be called again."""
        while self._envs:
            self._envs.pop().close()

    def _step(self, row: int, action: Any) -> tuple[Any, float, bool, bool]:
        """Observation, reward, terminated and truncated of one environment."""
        env = self._envs[row]
        if self._ended[row]:
            return self._call(row, "reset", lambda: env.reset()[0]), 0.0, False, False
        observation, reward, terminated, truncated, _ = self._call(row, "step", lambda: env.step(action))
        return observation, float(reward), bool(terminated), bool(truncated)

    def _call(self, row: int, what: str, function: Callable[[], Any]) -> Any:
        """Calls an environment and names it if it raises."""
        self._on_turn(self._first_index + row)
        try:
            return function()
        except ConfigError:
            raise
        except Exception as error:
            raise EnvFailure(
                f"Environment {self._first_index + row} of the pool (seed {self._seeds[row]}) failed in {what}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _stack(self, observations: Sequence[Any]) -> Any:
        return stack(self.observation_space, observations)


def stack(space: gymnasium.Space, observations: Sequence[Any]) -> Any:
    """Observations of several environments as one new batch, in the dtypes of the space.

    Raises:
        KeyError, TypeError or ValueError: if they do not fit into the space; its bounds do not count.
    """
    empty: Any = create_empty_array(space, len(observations))
    return concatenate(space, observations, empty)
