"""Plays episodes with fixed parameters, by the environment's own protocol.

Environments' seeds and sampling keys have a purpose of their own, so an evaluation shares no randomness with training,
and the same seed and parameters give the same episodes. `podrl.evaluation.episodes` says which episodes count.
"""

from collections.abc import Callable, Sequence
import dataclasses
import sys

import jax
from jax import numpy as jnp
import numpy as np

from podrl.agents.parts.interface import Agent
from podrl.envs.info import record_info
from podrl.envs.pools.checks import close_pool
from podrl.envs.seeds import env_seeds
from podrl.envs.source import EvaluationProtocol, Pool
from podrl.evaluation.episodes import Episodes, Tally, split_episodes
from podrl.experience.unroll import Unroller
from podrl.ops.keys import EVALUATE, purpose_key, step_keys
from podrl.runtime.tool import refuse_module
from podrl.runtime.waiting import Stopped
from podrl.types import Array, EnvSpec, PyTree, Timestep

# (actor_params, timestep, carry, keys [B]) -> (action [B, ...], carry)
Act = Callable[[PyTree, Timestep, PyTree, Array], tuple[Array, PyTree]]
# (actor_params, timestep, carry, keys of the environments [B], step []) -> (action [B, ...], carry)
ActInSteps = Callable[[PyTree, Timestep, PyTree, Array, Array], tuple[Array, PyTree]]


def act_sampled(agent: Agent) -> Act:
    """Returns a function that acts as in training."""

    def act(params: PyTree, timestep: Timestep, carry: PyTree, keys: Array) -> tuple[Array, PyTree]:
        action, _, carry = agent.act(params, timestep, carry, keys)
        return action, carry

    return act


def act_greedy(agent: Agent) -> Act:
    """Returns a function that takes the action that the agent rates highest."""
    return agent.act_greedy


POLICIES: dict[str, Callable[[Agent], Act]] = {"greedy": act_greedy, "sampled": act_sampled}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Player:
    """Plays with one agent in one environment, compiled for one device.

    Attributes:
        act: acts at a step.
        initial_carry: the network's initial carry, on the device.
        device: device to act on.
        num_envs: number of environments, B.
        episodes_per_env: episodes of each environment that count.
        make_pool: opens the environments, given their seeds.
        info_keys: numbers of the environments' `info` to record, as `log.info_keys`.
    """

    act: ActInSteps
    initial_carry: PyTree
    device: jax.Device
    num_envs: int
    episodes_per_env: int
    make_pool: Callable[[Sequence[int]], Pool]
    info_keys: Sequence[str] = ()

    @property
    def num_episodes(self) -> int:
        """Number of episodes that count."""
        return self.num_envs * self.episodes_per_env

    def play(
        self,
        params: PyTree,
        seed: int,
        stream: int = 0,
        *,
        watch: Callable[[Pool, Timestep], None] = lambda pool, timestep: None,
        show_progress: Callable[[int, int], None] = lambda episodes, step: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Episodes:
        """Plays all episodes that count.

        Args:
            params: result of `Agent.actor_params`, on the device.
            seed: seed of the environments and of the sampling.
            stream: index of an independent set of episodes of this seed.
            watch: called with every timestep, before the next action.
            show_progress: called every step with the episodes that have ended and the steps taken.
            should_stop: asked every step.

        Raises:
            Stopped: if `should_stop` returns true.
        """
        keys, carry = episode_keys(seed, stream, self.num_envs, self.device), self.initial_carry
        pool = self.make_pool(env_seeds((seed, stream, EVALUATE), range(self.num_envs)))
        tally = Tally(self.num_envs, self.episodes_per_env)
        try:
            ended_numbers = record_info(pool, self.info_keys)
            timestep, step = pool.reset(), 0
            while True:
                watch(pool, timestep)
                tally.add(timestep, ended_numbers())
                show_progress(tally.count, step)
                if tally.is_full:
                    return tally.episodes()
                if should_stop():
                    raise Stopped
                inputs = jax.device_put((timestep, np.int32(step)), self.device)
                action, carry = self.act(params, inputs[0], carry, keys, inputs[1])
                pool.send(np.asarray(action))
                timestep, step = pool.recv(), step + 1
        finally:
            close_pool(pool)


def episode_keys(seed: int, stream: int, num_envs: int, device: jax.Device) -> jax.Array:
    """Returns [B] typed PRNG keys, which an evaluation samples with; see `Player.play`."""
    with jax.default_device(device):
        key = jax.random.fold_in(purpose_key(seed, EVALUATE), stream)
        return jax.random.split(key, num_envs)


def make_player(
    agent: Agent,
    spec: EnvSpec,
    *,
    policy: str,
    episodes: int,
    device: jax.Device,
    make_pool: Callable[[Sequence[int]], Pool],
    info_keys: Sequence[str] = (),
) -> Player:
    """Compiles acting for at least this many episodes, see `split_episodes`.

    Args:
        agent: the agent that acts.
        spec: the environment's spec in training.
        policy: a key of `POLICIES`.
        episodes: number of episodes to play.
        device: device to act on.
        make_pool: opens environments, given their seeds.
        info_keys: numbers of the environments' `info` to record, as `log.info_keys`.
    """
    num_envs, per_env = split_episodes(episodes)
    act, carry = compile_act(agent, spec, policy=policy, num_envs=num_envs, device=device)
    return Player(
        act=act,
        initial_carry=carry,
        device=device,
        num_envs=num_envs,
        episodes_per_env=per_env,
        make_pool=make_pool,
        info_keys=info_keys,
    )


def compile_act(
    agent: Agent, spec: EnvSpec, *, policy: str, num_envs: int, device: jax.Device
) -> tuple[ActInSteps, PyTree]:
    """Returns `Player.act`, compiled for a device, and the initial carry on it.

    Args:
        agent: the agent that acts.
        spec: the environment's spec in training.
        policy: a key of `POLICIES`.
        num_envs: number of environments, B.
        device: device to act on.
    """
    shapes = Unroller(agent=agent, spec=spec, unroll_length=1, num_envs=num_envs)
    with jax.default_device(device):
        carry = agent.initial_carry(jnp.arange(num_envs, dtype=jnp.uint32))
        keys = jax.random.split(jax.random.key(0), num_envs)
    arguments = (shapes.params_shape, shapes.timestep_shape, carry, keys, jnp.zeros((), jnp.int32))
    sharding = jax.sharding.SingleDeviceSharding(device)
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
    compiled = jax.jit(act_in_steps(agent, policy), out_shardings=sharding).lower(*inputs).compile()
    return compiled, jax.device_put(carry, device)


def act_in_steps(agent: Agent, policy: str) -> ActInSteps:
    """Returns a function that acts with keys of its own at each step."""
    act = POLICIES[policy](agent)

    def act_at(params: PyTree, timestep: Timestep, carry: PyTree, keys: Array, step: Array) -> tuple[Array, PyTree]:
        return act(params, timestep, carry, step_keys(keys, step))

    return act_at


def check_same_interface(training: EnvSpec, evaluation: EnvSpec, protocol: EvaluationProtocol) -> None:
    """Raises `RuntimeError` unless observations and actions are the same as in training."""
    before, after = ((spec.observation, spec.actions) for spec in (training, evaluation))
    if before != after:
        raise RuntimeError(
            f"Found observations and actions {after} of {protocol.env.id} under its evaluation protocol; the agent was "
            f"trained on {before}. The source's evaluation_protocol must keep them."
        )


if __name__ == "__main__":
    sys.exit(refuse_module("podrl.evaluation.play", "evaluate --workdir RUN"))
