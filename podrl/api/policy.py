"""A run's agent to act in any loop over Gymnasium environments, with numpy arrays in and out."""

import os
from typing import Any

import gymnasium
import jax
import numpy as np

from podrl.api.border import Border, add_mask, allow_all_where_none_is, check_batch, gymnasium_border, plain_border
from podrl.config.config import ConfigError, check_one_of
from podrl.config.paths import absolute
from podrl.config.user_modules import add_working_folder
from podrl.evaluation.play import POLICIES, ActInSteps, compile_act, episode_keys
from podrl.runs import inspection
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.jax_start import tell_platforms
from podrl.runtime.machine import jax_plugins, skip_absent_tpu
from podrl.runtime.xla_flags import require_determinism, suit_xla_to_cpu
from podrl.saved_run import SavedRun, open_run, read_config
from podrl.types import PyTree, Timestep


class Policy:
    """A run's agent, whose parameters do not change; it remembers what its network does, such as frames or an LSTM.

    Attributes:
        run: The run that it is of: its config, its spec, and the counters of its checkpoint.
    """

    def __init__(self, run: SavedRun, border: Border, *, policy: str, device: jax.Device):
        """Takes over a saved run; `load_policy` makes one."""
        self.run = run
        self._border, self._policy, self._device = border, policy, device
        self._compiled: dict[int, tuple[ActInSteps, PyTree]] = {}  # By the number of environments.
        self._num_envs: int | None = None
        self.reset()

    def __repr__(self) -> str:
        """Says what it is: `<Policy of ppo_catch on Catch-v0, update 782, greedy>`."""
        config, update = self.run.config, self.run.counters.learner_steps
        return f"<Policy of {config.name} on {config.env.id}, update {update}, {self._policy}>"

    def reset(self, num_envs: int | None = None, *, seed: int = 1, stream: int = 0) -> None:
        """Forgets everything, and makes ready for new episodes.

        Args:
            num_envs: Environments that step together, whose observations and actions have an axis [num_envs] in front.
                None for one environment without such an axis.
            seed: Seed of what a sampled policy draws.
            stream: Index of an independent stream of that seed, as evaluations of several updates have them.

        Raises:
            ValueError: If `num_envs` is below 1.
        """
        if num_envs is not None and num_envs < 1:
            raise ValueError(
                f"num_envs={num_envs} must be at least 1. Leave it out for one environment without a batch axis."
            )
        self._num_envs = num_envs
        size = self._size
        if size not in self._compiled:
            agent, spec = self.run.agent, self.run.spec
            self._compiled[size] = compile_act(agent, spec, policy=self._policy, num_envs=size, device=self._device)
        self._act, self._carry = self._compiled[size]
        self._keys = episode_keys(seed, stream, size, self._device)
        self._step = 0

    def act(self, observation: Any, *, first: Any = None, reward: Any = None, info: Any = None) -> Any:
        """Returns the next action.

        Args:
            observation: What the environment returned, or a vector environment for all of its environments.
            first: Whether it opens an episode, a bool or [num_envs] of them; by default true in the first call after
                `reset`, and false in all others. The network then forgets what came before.
            reward: What came with it, a number or [num_envs] of them; needed with `network.last_reward` alone.
            info: What came with it; needed where the action mask is in it (`env.action_mask=info:NAME`) alone.

        Returns:
            An action of the environment's own action space, or those of a vector environment.

        Raises:
            ValueError: If the observation is of another shape, or the policy sees rewards or a mask and is given none.
        """
        is_single, border = self._num_envs is None, self._border
        opens = np.array(np.broadcast_to(self._step == 0 if first is None else np.asarray(first, bool), self._size))
        if border.mask_name:
            observation = add_mask(observation, info, border.mask_name, self.run.spec, None if is_single else opens)
        raw = border.stack(observation) if is_single else observation
        encoded = allow_all_where_none_is(border.encode(raw), self.run.spec)
        check_batch(encoded, self.run.spec, self._size)
        if reward is None and self.run.config.network.last_reward and not opens.all():
            raise ValueError("This policy sees its last reward (network.last_reward). Add reward=... to act().")
        earned = np.where(opens, 0, np.zeros(self._size) if reward is None else np.asarray(reward))
        ones = np.ones(self._size, np.float32)
        timestep = Timestep(observation=encoded, reward=earned.astype(np.float32), discount=ones, first=opens)
        inputs = jax.device_put((timestep, np.int32(self._step)), self._device)
        action, self._carry = self._act(self.run.params, inputs[0], self._carry, self._keys, inputs[1])
        self._step += 1
        decoded = border.decode(np.asarray(action))
        return decoded[0] if is_single else border.join(decoded)

    @property
    def _size(self) -> int:
        return 1 if self._num_envs is None else self._num_envs


def load_policy(
    workdir: str | os.PathLike,
    *,
    step: int | None = None,
    policy: str = "greedy",
    env: gymnasium.Env | gymnasium.vector.VectorEnv | None = None,
    device: jax.Device | None = None,
) -> Policy:
    """Loads the agent of a run, which may be in progress.

    Args:
        workdir: The run's folder.
        step: The update whose checkpoint to take; the newest by default.
        policy: `greedy` takes what the agent rates highest, `sampled` acts as in training.
        env: An environment whose spaces say how observations and actions look; by default they are those of the run's
            own environment where that is Gymnasium's or EnvPool's. Others have podrl's own form
            (docs/reference/observations.md).
        device: Device to act on; by default JAX's first.

    Raises:
        ConfigError: If there is no such run or checkpoint, or `env` is another kind of environment.
        CheckpointError: If the checkpoint is damaged.
    """
    check_one_of("policy", policy, POLICIES)
    run, device = open_saved(workdir, step, device)
    return Policy(run, _find_border(run, env), policy=policy, device=device)


def open_saved(
    workdir: str | os.PathLike, step: int | None, device: jax.Device | None = None
) -> tuple[SavedRun, jax.Device]:
    """Opens a saved run in a process set up as that of an evaluation is, as far as JAX has not started.

    Args:
        workdir: The run's folder.
        step: The update whose checkpoint to take; None for the newest.
        device: Device for the parameters; by default JAX's first.

    Returns:
        The run, and the device.

    Raises:
        ConfigError: If there is no such run or checkpoint.
        CheckpointError: If the checkpoint is damaged.
    """
    folder = absolute(os.fspath(workdir))
    add_working_folder()  # Its environment may be a module of the user's.
    check_jax_settings(os.environ, jax_plugins())
    skip_absent_tpu(os.environ, jax_plugins())
    tell_platforms(os.environ)
    suit_xla_to_cpu(os.environ, jax_plugins())
    try:
        run = inspection.find_run(folder)
        config = inspection.read_checkpoint(run, step, lambda chosen: read_config(folder, chosen))
    except ConfigError as error:
        raise ConfigError(str(error).replace("--step=", "step=").replace("--workdir=", "workdir=")) from None
    if config.determinism == "exact":
        require_determinism(os.environ, jax_plugins())
    device = device or jax.local_devices()[0]
    return open_run(folder, step, device), device


def _find_border(run: SavedRun, env: gymnasium.Env | gymnasium.vector.VectorEnv | None) -> Border:
    if isinstance(env, gymnasium.vector.VectorEnv):
        spaces = env.single_observation_space, env.single_action_space
    elif env is not None:
        spaces = env.observation_space, env.action_space
    elif run.source.make_spaces is not None:
        spaces = run.source.make_spaces(run.config.env)
    else:
        return plain_border(run.spec)
    return gymnasium_border(*spaces, run.config.env, run.spec)
