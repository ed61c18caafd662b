"""Gymnasium environments as a pool, in the actor's thread or in worker processes.

Processes (`env.workers`) pay off where a worker's share of a step takes much longer than a message there and back,
0.1 ms: not for CartPole.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from podrl.config.config import ConfigError, EnvConfig, check
from podrl.envs.action_masks import MaskCheck, fit_to_mask, random_actions
from podrl.envs.encodings import Encoding
from podrl.envs.observations import make_encoding
from podrl.envs.spaces import ActionEncoding, make_action_encoding
from podrl.envs.workers import calls
from podrl.envs.workers.batch import EnvBatch, Steps, check_fits, stack
from podrl.envs.workers.calls import EnvFailure, WrongReturn, named_caller
from podrl.envs.workers.importable import check_importable
from podrl.envs.workers.info import Numbers
from podrl.envs.workers.processes import WorkerBatch
from podrl.envs.workers.statistics import warn_of_statistics, with_statistics
from podrl.types import EnvSpec, Timestep

MakeEnv = Callable[[], gymnasium.Env]


def try_out(make: MakeEnv, config: EnvConfig, *, frames_per_step: int = 1) -> EnvSpec:
    """Makes an environment, tries a reset and a step, and describes it.

    Raises:
        ConfigError: if podrl cannot train on it, or it violates Gymnasium's interface.
    """
    if config.workers:
        check_importable(config.id, (*config.wrappers, *config.training_wrappers))
    env = named_caller(f"env.id={config.id!r}")("its constructor", make)
    for name in ("observation_space", "action_space"):
        check(
            isinstance(getattr(env, name, None), gymnasium.Space),
            f"env.id={config.id!r} has no {name}: set self.{name} to a gymnasium.spaces.Space in its constructor.",
        )
    warn_of_statistics(with_statistics(env))
    encoding, actions = make_encodings(env.observation_space, env.action_space, config)
    _try(env, encoding, actions, config)
    calls.call_close(env, f"env.id={config.id!r}")
    return EnvSpec(
        id=config.id,
        observation=encoding.struct,
        actions=actions.actions,
        frames_per_step=frames_per_step,
        observed=encoding.text,
        env_before=encoding.env_before,
    )


def make_batch(
    makes: Sequence[MakeEnv], seeds: Sequence[int], config: EnvConfig, *, in_process: bool = False
) -> EnvBatch | WorkerBatch:
    """Makes one environment per seed, by the functions `makes` [B], in `config.workers` processes if that is not 0.

    Raises:
        ConfigError: as in `makes`.
        ValueError: if there are no seeds.
    """
    if not seeds:
        raise ValueError("A pool needs seeds; found none.")
    if in_process or not config.workers:
        return EnvBatch(makes, seeds)
    return WorkerBatch(makes, seeds, num_workers=config.workers, timeout_s=config.worker_timeout_s)


class GymnasiumPool:
    """A batch of Gymnasium environments that exchanges timesteps; see `podrl.envs.source.Pool`, `podrl.envs.info`."""

    def __init__(self, batch: EnvBatch | WorkerBatch, config: EnvConfig):
        """Takes over `batch`, which no other code may step."""
        self._batch: EnvBatch | WorkerBatch | None = batch
        self._num_envs = batch.num_envs
        self._encoding, self._actions = make_encodings(batch.observation_space, batch.action_space, config)
        self._masks = MaskCheck(self._actions, self._encoding, config.id)
        self._ended: Any = None  # [B] bool: the last timestep ended the episode.
        self._sent = False
        self.ended_numbers: Numbers = {}

    def record_info(self, keys: Sequence[str]) -> None:
        """Starts recording numbers of `info`; see `podrl.envs.info.InfoPool`."""
        self._open_batch().record_info(keys)

    def reset(self) -> Timestep:
        """Opens an episode in every environment, with its seed."""
        batch = self._open_batch()
        self._require(not self._sent, "reset() while a step is running; call recv() first")
        observation, none = batch.reset(), np.zeros(self._num_envs, bool)
        steps = Steps(observation=observation, reward=none.astype(np.float32), terminated=none, ended=none)
        return self._timestep(steps, first=~none)

    def send(self, action: np.ndarray) -> None:
        """Starts one step with action [B, ...] of the spec's `actions`; without workers, `recv` makes it."""
        batch = self._open_batch()
        self._require(self._ended is not None, "send() before reset()")
        self._require(not self._sent, "send() twice without recv()")
        expected = (self._num_envs, *self._actions.actions.struct.shape)
        if action.shape != expected:
            raise ValueError(f"Found action of shape {action.shape}; expected {expected}.")
        batch.send(self._actions.decode(action))
        self._sent = True

    def recv(self) -> Timestep:
        """Waits for the step that `send` started.

        Raises:
            EnvFailure: if an environment raised, or its process died; the message names it.
            TimeoutError: if a worker does not answer in time; the message names the environment that it is busy with.
        """
        batch = self._open_batch()
        self._require(self._sent, "recv() without send()")
        steps = batch.recv()
        self._sent = False
        return self._timestep(steps, first=self._ended)

    def picture(self, env: int) -> np.ndarray:
        """Returns a picture that environment `env` renders, uint8 [H, W, 3].

        Raises:
            ConfigError: if it renders anything else.
        """
        batch = self._open_batch()
        self._require(self._ended is not None, "picture() before reset()")
        self._require(not self._sent, "picture() while a step is running; call recv() first")
        picture = batch.picture(env) if isinstance(batch, EnvBatch) else None
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,)):
            raise ConfigError(
                f"The environment's render() gives no picture: found {calls.describe_value(picture)}; expected "
                "uint8[H, W, 3]."
            )
        return picture

    def close(self) -> None:
        """Closes the environments and ends their processes."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.close()

    def _timestep(self, steps: Steps, first: Any) -> Timestep:
        self._ended, self.ended_numbers = steps.ended, steps.numbers
        discount: Any = np.where(steps.terminated, 0.0, 1.0).astype(np.float32)
        reward: Any = steps.reward
        observation = self._encoding.encode(steps.observation)
        timestep = Timestep(observation=observation, reward=reward, discount=discount, first=first)
        return self._masks.checked(timestep, steps.ended)

    def _open_batch(self) -> EnvBatch | WorkerBatch:
        """Returns the environments, unless they were closed."""
        if self._batch is None:
            raise RuntimeError("Environment pool: use after close().")
        return self._batch

    def _require(self, condition: bool, mistake: str) -> None:
        """Raises `RuntimeError` if calls come in an order that cannot work."""
        if not condition:
            raise RuntimeError(f"Environment pool: {mistake}.")


def make_encodings(
    observation: gymnasium.Space, action: gymnasium.Space, config: EnvConfig
) -> tuple[Encoding, ActionEncoding]:
    """Returns how observations and actions are encoded; a mask belongs to both."""
    actions = make_action_encoding(action, config.id)
    encoding = make_encoding(observation, config, actions.actions)
    return encoding, fit_to_mask(actions, encoding, config)


def _try(env: gymnasium.Env, encoding: Encoding, actions: ActionEncoding, config: EnvConfig) -> None:
    """Raises `ConfigError` if a reset or a step of a new environment violates Gymnasium's interface."""
    name, space = f"env.id={config.id!r}", env.observation_space
    call = named_caller(name)
    try:
        opened = call("reset", _reset, env)
        check_fits(space, opened, "reset")
        zero, first = np.zeros(1, np.float32), np.ones(1, bool)
        seen = Timestep(observation=encoding.encode(stack(space, [opened])), reward=zero, discount=zero, first=first)
        action = actions.decode(random_actions(actions.actions, np.random.default_rng(0), seen))[0]
        check_fits(space, call("step", calls.call_step, env, action)[0], "step")
    except WrongReturn as error:
        raise ConfigError(f"{name}: {error}") from error
    except EnvFailure as error:
        if isinstance(error.__cause__, WrongReturn):
            raise ConfigError(str(error)) from error
        raise


def _reset(env: gymnasium.Env) -> Any:
    """Returns the first observation of a seeded episode."""
    try:
        return calls.call_reset(env, seed=0)
    except TypeError as error:
        if "seed" not in str(error):
            raise
        raise WrongReturn("reset() must take a seed: def reset(self, *, seed=None, options=None).") from error
