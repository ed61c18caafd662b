"""Plays whole episodes with a fixed policy, and hands them on as they end.

The episodes are chosen before the first step: each environment plays until it has its share of the steps, and the
episode that it is in then is its last. The first episodes to *end* would favour short ones.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from podrl.agents.parts.interface import Agent
from podrl.data.recorded import RecordedEpisode
from podrl.envs.action_masks import random_actions
from podrl.envs.pools.checks import close_pool
from podrl.envs.seeds import env_seeds
from podrl.envs.source import Pool
from podrl.ops.keys import RECORD, purpose_key, step_keys
from podrl.types import EnvSpec, PyTree, Timestep

# (timestep, step) -> (action [B, ...], behaviour, a pytree of [B, ...]), all numpy
Choose = Callable[[Timestep, int], tuple[np.ndarray, PyTree]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedPolicy:
    """A policy that does not change while it is recorded.

    Attributes:
        start: (seed, stream, num_envs) -> what acts in that many environments, from their first timestep.
        behaviour: `jax.ShapeDtypeStruct`s of what it records with each action; `()` for nothing.
        version: The learner step of its parameters; -1 for a policy without any.
    """

    start: Callable[[int, int, int], Choose]
    behaviour: PyTree = ()
    version: int = -1


def uniform_policy(spec: EnvSpec) -> FixedPolicy:
    """Returns the policy that takes every action alike, of those that an action mask allows."""

    def start(seed: int, stream: int, num_envs: int) -> Choose:
        rng = np.random.default_rng((seed, stream, RECORD))
        return lambda timestep, step: (random_actions(spec.actions, rng, timestep), ())

    return FixedPolicy(start=start)


def agent_policy(agent: Agent, spec: EnvSpec, params: PyTree, version: int, device: jax.Device) -> FixedPolicy:
    """Returns an agent that acts as in training, with these parameters.

    Args:
        agent: The agent.
        spec: The environment's spec.
        params: The result of `Agent.actor_params`, on the device.
        version: The learner step of the parameters.
        device: Device to act on.
    """

    @jax.jit
    def act(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array, step: jax.Array) -> Any:
        return agent.act(params, timestep, carry, step_keys(keys, step))

    def start(seed: int, stream: int, num_envs: int) -> Choose:
        with jax.default_device(device):
            key = jax.random.fold_in(purpose_key(seed, RECORD), stream)
            keys = jax.device_put(jax.random.split(key, num_envs), device)
            carry = jax.device_put(agent.initial_carry(jnp.arange(num_envs, dtype=jnp.uint32)), device)

        def choose(timestep: Timestep, step: int) -> tuple[np.ndarray, PyTree]:
            nonlocal carry
            inputs = jax.device_put((timestep, np.int32(step)), device)
            action, behaviour, carry = act(params, inputs[0], carry, keys, inputs[1])
            return jax.device_get((action, behaviour))

        return choose

    return FixedPolicy(start=start, behaviour=_behaviour(agent, spec, params), version=version)


def play_whole_episodes(
    policy: FixedPolicy,
    make_pool: Callable[[Sequence[int]], Pool],
    *,
    num_envs: int,
    steps: int,
    seed: int,
    stream: int,
    emit: Callable[[RecordedEpisode], None],
    show_progress: Callable[[int, int], None] = lambda episodes, step: None,
) -> None:
    """Plays until every environment has its share of the steps; at least `steps` in all, in whole episodes.

    Args:
        policy: Who acts.
        make_pool: Opens environments, given their seeds.
        num_envs: Environments.
        steps: Steps to record.
        seed: Seed of the environments and of what the policy draws.
        stream: Which independent set of episodes of this seed.
        emit: Called with each episode, in an order that the seed decides.
        show_progress: Called every step with the episodes that have ended and the steps taken in each environment.
    """
    seeds = env_seeds((seed, stream, RECORD), range(num_envs))
    cutters = [_Cutter(env_seed, -(-steps // num_envs), policy.version) for env_seed in seeds]
    pool, ended = make_pool(seeds), 0
    try:
        choose, timestep, step = policy.start(seed, stream, num_envs), pool.reset(), 0
        while True:
            for env, cutter in enumerate(cutters):
                episode = cutter.see(timestep, env)
                if episode is not None:
                    ended += 1
                    emit(episode)
            show_progress(ended, step)
            if all(cutter.is_done for cutter in cutters):
                return
            action, behaviour = choose(timestep, step)
            for env, cutter in enumerate(cutters):
                cutter.act(action[env], jax.tree.map(lambda leaf, env=env: leaf[env], behaviour))
            pool.send(action)
            timestep, step = pool.recv(), step + 1
    finally:
        close_pool(pool)


class _Cutter:
    """Cuts the steps of one environment into episodes, until it has its share."""

    def __init__(self, seed: int, steps: int, version: int):
        self._seed, self._left, self._version = seed, steps, version
        self._number, self.is_done = 0, False
        self._clear()

    def see(self, timestep: Timestep, env: int) -> RecordedEpisode | None:
        """Adds what the environment returned; gives the episode before, if this is a reset behind it."""
        if self.is_done:
            return None
        episode = None
        if timestep.first[env] and self._observations:
            episode = self._episode()
            self._left -= episode.length
            self._number += 1
            self.is_done = self._left <= 0
            self._clear()
        elif self._observations:
            self._results.append((timestep.reward[env], timestep.discount[env]))
        self._observations.append(jax.tree.map(lambda leaf: np.array(leaf[env]), timestep.observation))
        return episode

    def act(self, action: np.ndarray, behaviour: PyTree) -> None:
        """Adds what was done about it; after the last observation of an episode that is nothing."""
        if not self.is_done:
            self._actions.append((np.array(action), jax.tree.map(np.array, behaviour)))

    def _episode(self) -> RecordedEpisode:
        length = len(self._results)
        action, behaviour = jax.tree.map(lambda *rows: np.stack(rows), *self._actions[:length])
        reward, discount = (np.array(each, np.float32) for each in zip(*self._results, strict=True))
        return RecordedEpisode(
            observation=jax.tree.map(lambda *rows: np.stack(rows), *self._observations),
            action=action,
            reward=reward,
            discount=discount,
            behaviour=behaviour,
            params_version=np.full(length, self._version, np.int32),
            seed=self._seed,
            number=self._number,
        )

    def _clear(self) -> None:
        self._observations: list[PyTree] = []
        self._actions: list[tuple[np.ndarray, PyTree]] = []
        self._results: list[tuple[np.ndarray, np.ndarray]] = []


def _behaviour(agent: Agent, spec: EnvSpec, params: PyTree) -> PyTree:
    """Returns shape and dtype of what an agent records with one action."""
    observation = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), spec.observation)
    number, flag = jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.bool_)
    timestep = Timestep(observation=observation, reward=number, discount=number, first=flag)
    carry = jax.eval_shape(agent.initial_carry, jax.ShapeDtypeStruct((1,), jnp.uint32))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    _, behaviour, _ = jax.eval_shape(agent.act, params, timestep, carry, keys)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), behaviour)
