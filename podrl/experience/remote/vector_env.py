"""Environments in environment workers as a vector environment of Gymnasium's, for programs that train by themselves.

It is for users of other libraries: podrl's own runs do not use it. It makes no JAX arrays, and so takes no accelerator.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
import contextlib
import dataclasses
import os
from typing import Any
import weakref

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
import jax
import numpy as np

from podrl.config.config import EnvConfig, check, check_one_of
from podrl.config.remote import NO_CERTIFICATES
from podrl.envs.settings import settle
from podrl.envs.source import load_source
from podrl.experience.remote.endpoint import make_endpoint
from podrl.experience.remote.env_workers import import_server, longest_bytes, read_secret
from podrl.experience.remote.gymnasium_spaces import action_space, observation_space
from podrl.experience.remote.own_workers import OwnWorkers
from podrl.experience.remote.pool import RemotePool
from podrl.experience.remote.timesteps import TimestepCodec, timestep_shape
from podrl.runtime.job.secret import FILE_VARIABLE
from podrl.runtime.machine import available_cores
from podrl.types import Timestep

_OPENING_S = 60.0  # Least time that a worker may take to make environments.
_SEEDS = 2**31
_OWN = ("id", "source")  # Keys of `EnvConfig` with parameters of their own here.


class RemoteVectorEnv(VectorEnv):
    """`B` environments that step in environment workers, here or on other hosts.

    Observations and actions have podrl's form: images are [H, W, C], dictionaries are joined, floats of actions in
    [-1, 1] span the environment's range (docs/reference/actions.md). Environments reset on the next step
    (`AutoresetMode.NEXT_STEP`): the step after the last of an episode ignores its action, and returns the first
    observation of the next episode, with reward 0.

    A worker that fails or is lost raises `RuntimeError` with its name, one that does not answer in time `TimeoutError`.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (so is the base class)

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        *,
        num_workers: int = 1,
        source: str = "gymnasium",
        address: str = "",
        certificates: str = NO_CERTIFICATES,
        info_keys: Sequence[str] = (),
        timeout_s: float = 60.0,
        join_timeout_s: float = 240.0,
        **env: Any,
    ):
        """Listens for its workers, or starts them.

        Args:
            env_id: The environment's name at its source, such as `CartPole-v1`, or `my_module:MyEnv`.
            num_envs: B, which the workers share.
            num_workers: Number of workers.
            source: Where the environment comes from: `gymnasium`, `envpool`, or another of `env.source`.
            address: Where to listen for workers, as `HOST:PORT` or `unix:PATH`; empty starts them on this host.
            certificates: Folder by `tools/make_job_credentials.py`, for an address that other hosts reach.
            info_keys: Numbers of environments' `info` to return with the last step of an episode, as `log.info_keys`.
            timeout_s: Seconds that a worker may take for a step.
            join_timeout_s: Seconds that all workers may take to come.
            env: Further keys of the config section `env`, such as `options`, `wrappers` or `max_episode_steps`.

        Raises:
            ConfigError: If the environment, the address or a setting is wrong, or gRPC is missing.
        """
        check(1 <= num_workers <= num_envs, f"num_workers={num_workers} must be from 1 to num_envs={num_envs}.")
        for name in env:
            check_one_of("setting", name, {field.name for field in dataclasses.fields(EnvConfig)} - {*_OWN})
        found = load_source(source)
        config = settle(found, EnvConfig(id=env_id, source=source, **env))
        check(found.gives_info, f"source={source!r} does not tell when it truncates an episode: it gives no info.")
        spec = found.make_spec(config)
        self.num_envs = num_envs
        self.single_observation_space = observation_space(spec.observation)
        self.single_action_space = action_space(spec.actions, env_id)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._action = spec.actions.struct
        self._info_keys, self._timeout_s, self._join_timeout_s = tuple(info_keys), timeout_s, join_timeout_s
        self._shares = np.array_split(np.arange(num_envs), num_workers)
        self._codecs = [TimestepCodec(timestep_shape(spec, len(share))) for share in self._shares]
        self._pools: list[RemotePool] = []
        self._own: OwnWorkers | None = None
        with contextlib.ExitStack() as stack:
            self._listen(stack, dataclasses.asdict(config), address, certificates)
            # Also where nothing calls `close`: the workers wait for a word.
            self._finalizer = weakref.finalize(self, stack.pop_all().close)

    def _listen(self, stack: contextlib.ExitStack, env: Mapping[str, Any], address: str, certificates: str) -> None:
        """Starts the server, and its workers if there is no address for them to come to."""
        environ: Mapping[str, str] = os.environ
        server = import_server("RemoteVectorEnv")
        if not address:
            self._own = stack.enter_context(OwnWorkers(len(self._shares), self._join_timeout_s))
            address, environ = self._own.address, {FILE_VARIABLE: str(self._own.secret_file)}
        endpoint = make_endpoint("address", address, certificates, "certificates")
        self._num_threads = max(1, available_cores() // len(self._shares)) if endpoint.is_local else 0
        self._server = stack.enter_context(
            server(
                endpoint,
                read_secret(environ, address, is_local=endpoint.is_local, certificates=endpoint.certificates),
                env,
                num_workers=len(self._shares),
                longest_bytes=max(longest_bytes(codec.layout) for codec in self._codecs),
                longest_answer_s=self._opening_s,
            )
        )

    @property
    def _opening_s(self) -> float:
        return max(self._timeout_s, _OPENING_S)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Makes the environments anew, and opens an episode in each; the first call waits for the workers.

        Args:
            seed: Of environment 0; environment i has `seed + i`, as in Gymnasium's own vector environments. Or one for
                each environment. By default they are drawn.
            options: Must be empty: no source passes them on.

        Returns:
            The observations [B, ...], and no infos.

        Raises:
            TimeoutError: If not all workers come in time, or one does not answer in time.
            RuntimeError: If an environment raises, or a worker is lost.
        """
        check(not options, f"options={options}: environment workers pass no options to reset().")
        self._require_open()
        super().reset(seed=seed if isinstance(seed, int) else None)
        seeds = self._draw_seeds(seed)
        self._server.wait(timeout_s=self._join_timeout_s, should_stop=self._has_none_to_wait_for)
        self._close_pools()
        for index, (share, codec) in enumerate(zip(self._shares, self._codecs, strict=True)):
            pool = RemotePool(
                self._server.worker(index),
                codec,
                seeds=[seeds[env] for env in share],
                env_numbers=share.tolist(),
                num_threads=min(self._num_threads, len(share)),
                num_pools=1,
                timeout_s=self._timeout_s,
                opening_s=self._opening_s,
                tells_ends=True,
            )
            pool.record_info(self._info_keys)
            self._pools.append(pool)
        with futures.ThreadPoolExecutor(len(self._pools)) as executor:
            timesteps = list(executor.map(RemotePool.reset, self._pools))
        return _join(timesteps).observation, {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps every environment, or resets it if its episode ended with the last step.

        Args:
            actions: [B, ...] of `action_space`; ignored where an environment is reset.

        Returns:
            Observations [B, ...], rewards [B] float64, terminations and truncations [B] bool, of which an episode has
            one, and the numbers that `info_keys` ask for, of the episodes that have ended.

        Raises:
            ValueError: If the actions have another shape.
            TimeoutError, RuntimeError: As in `reset`.
        """
        self._require_open()
        if not self._pools:
            raise gymnasium.error.ResetNeeded("Call reset() before step().")
        action = np.asarray(actions, self._action.dtype)
        expected = (self.num_envs, *self._action.shape)
        if action.shape != expected:
            raise ValueError(f"Found actions of shape {action.shape}; expected {expected}.")
        for pool, share in zip(self._pools, self._shares, strict=True):
            pool.send(action[share])
        timestep = _join([pool.recv() for pool in self._pools])
        terminated = np.equal(timestep.discount, 0)
        truncated, infos = np.zeros(self.num_envs, bool), dict[str, Any]()
        for pool, share in zip(self._pools, self._shares, strict=True):
            for row, numbers in pool.ended_numbers.items():
                truncated[share[row]] = not terminated[share[row]]
                infos = self._add_info(infos, dict(numbers), int(share[row]))
        return timestep.observation, np.asarray(timestep.reward, np.float64), terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments, and tells the workers that the run has ended."""
        self._close_pools()
        self._finalizer()

    def _draw_seeds(self, seed: int | Sequence[int | None] | None) -> list[int]:
        """Returns a seed for each environment."""
        if isinstance(seed, int | np.integer):
            return [(int(seed) + env) % _SEEDS for env in range(self.num_envs)]
        drawn = self.np_random.integers(_SEEDS, size=self.num_envs).tolist()
        given = [None] * self.num_envs if seed is None else list(seed)
        check(len(given) == self.num_envs, f"Found {len(given)} seeds; expected {self.num_envs}.")
        return [new if own is None else int(own) % _SEEDS for own, new in zip(given, drawn, strict=True)]

    def _has_none_to_wait_for(self) -> bool:
        """Returns False; raises `RuntimeError` if a worker that was started here has ended."""
        return self._own is not None and not self._own.check()

    def _close_pools(self) -> None:
        pools, self._pools = self._pools, []
        for pool in pools:
            pool.close()

    def _require_open(self) -> None:
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError("This vector environment was closed.")


def _join(timesteps: Sequence[Timestep]) -> Timestep:
    """Joins timesteps of several pools to one of new arrays, into which the caller may write."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *timesteps)
