"""Several Gymnasium environments that step in sequence and keep podrl's reset rule.

The rule is that of Gymnasium's `AutoresetMode.NEXT_STEP`: the final observation comes with the step that ended the
episode, and the next step resets instead. Gymnasium's own vector environments keep it too, but do not say which
environment failed; the asynchronous one has a process for each environment, and waits for it without a timeout while
it opens and closes. Observations are stacked by Gymnasium's functions.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import gymnasium
from gymnasium.vector.utils import concatenate, create_empty_array
import numpy as np

from podrl.envs.workers import calls
from podrl.envs.workers.calls import EnvFailure as EnvFailure  # Exported for code that catches it.
from podrl.envs.workers.calls import WrongReturn, misfit, named_caller
from podrl.envs.workers.info import InfoTally, Numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """The results of one step of `B` environments.

    Attributes:
        observation: observations as Gymnasium stacks them: an array [B, ...], or nested dictionaries of arrays.
        reward: [B] float32; 0 where the environment was reset.
        terminated: [B] bool; the step ended the episode by itself.
        ended: [B] bool; terminated or truncated.
        numbers: numbers of `info` of the episodes that ended, as `record_info` asked for.
    """

    observation: Any
    reward: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray
    numbers: Numbers = dataclasses.field(default_factory=dict)


class EnvBatch:
    """Environments of one kind, each with a seed of its own. It never writes to what it has returned.

    Attributes:
        num_envs: number of environments, B.
        observation_space: observation space of one environment.
        action_space: action space of one environment.
    """

    def __init__(
        self,
        makes: Sequence[Callable[[], gymnasium.Env]],
        seeds: Sequence[int],
        *,
        first_index: int = 0,
        on_turn: Callable[[int], None] = lambda index: None,
    ):
        """Makes the environments.

        Args:
            makes: [B] functions that make one environment each.
            seeds: [B], one per environment.
            first_index: index of the first of these environments in the pool, for messages.
            on_turn: called with the index of each environment before it is called.
        """
        self._seeds = seeds
        self._first_index = first_index
        self._on_turn = on_turn
        self._names = [f"Environment {first_index + row} of the pool (seed {seed})" for row, seed in enumerate(seeds)]
        self._callers = [named_caller(name) for name in self._names]
        self._envs: list[gymnasium.Env] = []
        self._ended = np.zeros(len(seeds), bool)
        self._action: Any = None
        self._tally: InfoTally | None = None
        for row, make in enumerate(makes):
            self._envs.append(self._call(row, "its constructor", make))
        self.num_envs = len(seeds)
        self.observation_space = self._envs[0].observation_space
        self.action_space = self._envs[0].action_space

    def record_info(self, keys: Sequence[str]) -> None:
        """Makes steps have the numbers of `info` that `keys` ask for (`log.info_keys`); called before `reset`."""
        self._tally = InfoTally(keys, self.num_envs, warns=self._first_index == 0)

    def reset(self) -> Any:
        """Opens an episode in every environment, with its seed; returns observations stacked as in `Steps`."""
        self._ended[:] = False
        opened = [
            self._call(row, "reset", lambda: calls.call_reset(env, seed=self._seeds[row]))  # noqa: B023 (called at once)
            for row, env in enumerate(self._envs)
        ]
        return self._stack(opened, np.ones(len(self._envs), bool))

    def send(self, action: np.ndarray) -> None:
        """Keeps actions [B, ...] in the environments' own units for `recv`."""
        self._action = action

    def recv(self) -> Steps:
        """Steps every environment, or resets it if its episode ended with the last step."""
        results = [self._step(row, self._action[row]) for row in range(len(self._envs))]
        first = self._ended
        observations, rewards, terminated, truncated, infos = zip(*results, strict=True)
        ends = np.array(terminated, bool)
        self._ended = ends | np.array(truncated, bool)
        return Steps(
            observation=self._stack(observations, first),
            reward=np.array(rewards, np.float32),
            terminated=ends,
            ended=self._ended.copy(),
            numbers={} if self._tally is None else self._tally.add_rows(infos, first, self._ended),
        )

    def step(self, action: np.ndarray) -> Steps:
        """Calls `send` and `recv`."""
        self.send(action)
        return self.recv()

    def picture(self, row: int) -> Any:
        """Returns what environment `row` renders."""
        return self._call(row, "render", self._envs[row].render)

    def close(self) -> None:
        """Closes all environments, the last one first, and logs their errors; may be called again."""
        while self._envs:
            env, row = self._envs.pop(), len(self._envs)
            self._on_turn(self._first_index + row)
            calls.call_close(env, self._names[row])

    def _step(self, row: int, action: Any) -> tuple[Any, float, bool, bool, Any]:
        """Returns observation, reward, terminated, truncated and info of one environment; a reset has no info."""
        env = self._envs[row]
        if self._ended[row]:
            return self._call(row, "reset", calls.call_reset, env), 0.0, False, False, {}
        return self._call(row, "step", calls.call_step, env, action)

    def _call(self, row: int, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls an environment; an error names it."""
        self._on_turn(self._first_index + row)
        return self._callers[row](what, function, *arguments)

    def _stack(self, observations: Sequence[Any], first: np.ndarray) -> Any:
        """Stacks observations to one batch; an error names the environment whose observation does not fit."""
        try:
            return stack(self.observation_space, observations)
        except (KeyError, TypeError, ValueError):
            for row in range(len(observations)):
                what = "reset" if first[row] else "step"
                self._call(row, what, check_fits, self.observation_space, observations[row], what)
            raise


def check_fits(space: gymnasium.Space, observation: Any, what: str) -> None:
    """Raises `WrongReturn` unless an observation that `what` returned fits into the space, except for its bounds."""
    try:
        stack(space, [observation])
    except (KeyError, TypeError, ValueError) as error:
        raise WrongReturn(f"{what}() {misfit(space, observation, error)}") from error


def stack(space: gymnasium.Space, observations: Sequence[Any]) -> Any:
    """Stacks observations of several environments to a new batch, in the dtypes of the space.

    Raises:
        KeyError, TypeError or ValueError: if they do not fit into the space; its bounds are not checked.
    """
    empty: Any = create_empty_array(space, len(observations))
    return concatenate(space, observations, empty)
