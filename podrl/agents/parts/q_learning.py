"""The functions that agents with action values share: acting epsilon-greedily, and how epsilon is chosen.

It falls over the run, or it is another constant for each environment.
"""

from collections.abc import Callable
import dataclasses

from flax import struct
import jax
from jax import numpy as jnp

from podrl.agents.parts.acting import make_acting
from podrl.agents.parts.actor_critic import make_init, make_initial_carry
from podrl.agents.parts.interface import Agent, Batch
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.config.config import check
from podrl.networks.interface import QNetwork
from podrl.ops.optimizers import share_left
from podrl.ops.q_values import epsilon_greedy, greedy_action
from podrl.types import LearnerState, Metrics, PyTree, Timestep

FEWEST_EXPLORERS = 4  # Of a group. With fewer, some group would hardly explore, or do little else.


def make_q_agent(
    network: QNetwork,
    optimizer: OptimizerOverRun,
    epsilon_at: Callable[[jax.Array], jax.Array],
    learn: Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array | None]],
) -> Agent:
    """Returns an agent that acts epsilon-greedily by its network's action values; only how it learns is its own.

    Its actors need the network's parameters and `epsilon`. They record the value of the best action, `value` [B].

    Args:
        network: The network of action values.
        optimizer: Makes the first state of the optimizer.
        epsilon_at: (updates done []) -> [] float32; the probability of an action at random in the next update.
        learn: `Agent.learn`.
    """

    def actor_params(state: LearnerState) -> PyTree:
        return {"network": state.params, "epsilon": epsilon_at(state.step)}

    act, act_greedy = make_acting(
        network,
        lambda params, timestep, carry: network.step(params["network"], timestep, carry),
        sample=lambda params, keys, output: epsilon_greedy(keys, output.q_values, params["epsilon"]),
        best=lambda output: greedy_action(output.q_values),
        record=lambda output: {"value": output.value},
    )
    return Agent(
        init=make_init(network, optimizer),
        initial_carry=make_initial_carry(network),
        actor_params=actor_params,
        act=act,
        act_greedy=act_greedy,
        learn=learn,
    )


@struct.dataclass(kw_only=True)
class ExplorerCarry:
    """The carry of an agent whose environments explore each with a probability of their own.

    Attributes:
        network: The network's carry.
        rank: [B] float32; the environment's `explorer_rank`, which stays as it is through all episodes.
    """

    network: PyTree
    rank: jax.Array


def make_explorer_agent(
    network: QNetwork,
    optimizer: OptimizerOverRun,
    epsilon_of: Callable[[jax.Array], jax.Array],
    learn: Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array | None]],
    *,
    group_size: int,
) -> Agent:
    """Returns an agent that acts epsilon-greedily, in each environment with another epsilon; it records nothing.

    Its carry is an `ExplorerCarry`, of which a ring keeps what the network keeps.

    Args:
        network: The network of action values.
        optimizer: Makes the first state of the optimizer.
        epsilon_of: (explorer rank [B] float32) -> [B] float32.
        learn: `Agent.learn`.
        group_size: See `explorer_rank`.
    """
    begin = make_initial_carry(network)

    def act(
        params: PyTree, timestep: Timestep, carry: ExplorerCarry, keys: jax.Array
    ) -> tuple[jax.Array, PyTree, ExplorerCarry]:
        output, inner = network.step(params, timestep, carry.network)
        action = epsilon_greedy(keys, output.q_values, epsilon_of(carry.rank))
        return action, {}, dataclasses.replace(carry, network=network.remember(inner, action))

    def act_greedy(
        params: PyTree, timestep: Timestep, carry: ExplorerCarry, keys: jax.Array
    ) -> tuple[jax.Array, ExplorerCarry]:
        output, inner = network.step(params, timestep, carry.network)
        action = greedy_action(output.q_values)
        return action, dataclasses.replace(carry, network=network.remember(inner, action))

    def initial_carry(env_index: jax.Array) -> ExplorerCarry:
        return ExplorerCarry(network=begin(env_index), rank=explorer_rank(env_index, group_size))

    return Agent(
        init=make_init(network, optimizer),
        initial_carry=initial_carry,
        actor_params=lambda state: state.params,
        act=act,
        act_greedy=act_greedy,
        learn=learn,
        keep=lambda carry: network.keep(carry.network),
    )


def with_target(agent: Agent) -> Agent:
    """Returns the agent with a copy of its first parameters as `extra['target']`, those of a target network."""

    def init(key: jax.Array) -> LearnerState:
        state = agent.init(key)
        # A copy, as both may be donated.
        return dataclasses.replace(state, extra={"target": jax.tree.map(jnp.copy, state.params)})

    return dataclasses.replace(agent, init=init)


def explorer_rank(env_index: jax.Array, group_size: int) -> jax.Array:
    """Returns i / (N - 1) for environment i of a group of N neighbours, so that each group has all ranks from 0 to 1.

    Args:
        env_index: [B] uint32; the environments in the job.
        group_size: N, at least 2.

    Returns:
        [B] float32.
    """
    return (env_index % group_size).astype(jnp.float32) / (group_size - 1)


def epsilon_ladder(rank: jax.Array, *, base: float, power: float) -> jax.Array:
    """Computes base^(1 + power rank): the probabilities of random actions of environments of different ranks.

    Args:
        rank: [B] float32, `explorer_rank`.
        base: The largest probability, that of the first.
        power: How much faster than the first the last one's falls; 0 gives all the same.

    Returns:
        [B] float32.

    Source: Horgan et al. 2018, Distributed prioritized experience replay, arXiv:1803.00933, section 4.1.
    """
    return jnp.float32(base) ** (1 + power * rank)


def check_explorers(group_size: int, num_envs: int) -> None:
    """Checks that a group of environments has enough different epsilons.

    Args:
        group_size: Environments in a group of the replay.
        num_envs: Environments of the whole job.

    Raises:
        ConfigError: If not. The message names a number of groups with which it has.
    """
    groups = num_envs // group_size
    fewer = [n for n in range(1, groups) if groups % n == 0 and num_envs // n >= FEWEST_EXPLORERS]
    more = f"actors.num_envs={FEWEST_EXPLORERS * groups}"
    cure = f"Use replay.groups={max(fewer)}, or {more}." if fewer else f"Use {more} or more."
    check(
        group_size >= FEWEST_EXPLORERS,
        f"replay.groups={groups} has {group_size} of actors.num_envs={num_envs} environments in each group; expected "
        f"{FEWEST_EXPLORERS} or more, as each explores with another epsilon. {cure}",
    )


def fall_linearly(
    start: float, end: float, share: float, *, num_updates: int, ahead: float = 0.0
) -> Callable[[jax.Array], jax.Array]:
    """Returns a function (updates done []) -> [] float32 that goes linearly from `start` to `end`, and stays there.

    Args:
        start: The value before the first update.
        end: The value once `share` of the run is done.
        share: The share of the run, in (0, 1], after which the end is reached.
        num_updates: Number of the run's last update.
        ahead: See `podrl.ops.optimizers.share_left`.
    """

    def at(step: jax.Array) -> jax.Array:
        done = jnp.clip((1 - share_left(step, num_updates, ahead)) / share, 0.0, 1.0)
        return start * (1 - done) + end * done

    return at
