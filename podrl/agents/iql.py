"""IQL: learns from a data set alone, and never asks for the value of an action that the data set does not have.

A network of state values V(s) learns an upper expectile of Q(s, a) over recorded actions: nearly the value of the best
of them, without a maximum over unknown actions. Critics bootstrap from it. The policy is cloned from the recorded
actions, each weighted by exp(beta (Q(s, a) - V(s))), so that better actions count more.

The policy is a Gaussian whose mean is bounded by a hyperbolic tangent, and whose deviations are parameters of their
own (`network.action_scale=shared`), as in the paper's code. With `network.squash_actions` it is SAC's.

A call of `learn` takes a step of the state values, one of the policy by the new ones, and one of the critics.

Source: Kostrikov et al. 2021, arXiv:2110.06169, section 4 and algorithm 1; its appendix B has the numbers.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp
import optax

from podrl.actions import ContinuousActions
from podrl.agents.parts.critic_steps import bootstrap, take_critic_step, take_step, total_metrics
from podrl.agents.parts.interface import Agent, Batch, Partition, UpdateShape
from podrl.agents.parts.optimizing import OptimizerOverRun, make_optimizer
from podrl.agents.parts.recorded import samples_of
from podrl.agents.parts.twin_critic import (
    RECORDED_TRANSITIONS,
    TwinCritic,
    ask_for_networks,
    constant_adam,
    make_twin_critic_agent,
)
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, number, text
from podrl.networks.interface import Networks
from podrl.ops.losses import expectile_loss
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Trajectory


def decaying_adam() -> OptimizerConfig:
    """Returns the policy's optimizer: its rate falls over the run, linearly where the paper's follows a cosine."""
    return dataclasses.replace(constant_adam(), learning_rate_decay=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of IQL.

    Attributes:
        name: `iql`.
        optimizer: The policy's optimizer.
        critic_optimizer: The critics' optimizer.
        value_optimizer: The optimizer of state values.
        discount: Discount of future rewards, per agent decision.
        target_rate: Share of the way that the critics' targets go to them in each call of `learn`.
        expectile: Which expectile of the recorded actions' values a state's value is; 0.5 is their mean.
        beta: The inverse temperature of the policy's weights; 0 is plain cloning.
        max_weight: The policy's weights are at most this.
        reward_scale: Rewards are multiplied by it.
    """

    action_kinds: ClassVar[tuple[type, ...]] = (ContinuousActions,)

    name: str = text(100, "iql")
    optimizer: OptimizerConfig = dataclasses.field(default_factory=decaying_adam)
    critic_optimizer: OptimizerConfig = dataclasses.field(default_factory=constant_adam)
    value_optimizer: OptimizerConfig = dataclasses.field(default_factory=constant_adam)
    discount: float = number(0, 1, 0.99)
    target_rate: float = number(0, 1, 0.005)
    expectile: float = number(1e-6, 1, 0.7, open=True)
    beta: float = number(0, 1e6, 3.0)
    max_weight: float = number(1e-6, 1e9, 100.0)
    reward_scale: float = number(1e-9, 1e9, 1.0)

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")
        for section in ("optimizer", "critic_optimizer", "value_optimizer"):
            check_values(getattr(self, section), f"agent.{section}.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return RECORDED_TRANSITIONS


def make_agent(
    config: AgentConfig,
    *,
    networks: Networks,
    spec: EnvSpec,
    num_envs: int,
    num_updates: int,
    ahead: float = 0.0,
    partition: Partition = Partition(),  # noqa: B008 (frozen)
) -> Agent:
    """IQL with a network of a policy, one of two critics and one of state values.

    Args:
        config: The hyper-parameters.
        networks: Makes the networks.
        spec: The environment.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for learning rates that decay.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.

    Raises:
        ConfigError: If actions are no numbers, or the network has a memory.
    """
    own = ask_for_networks(config, networks, spec, bounded_mean=True)
    own = dataclasses.replace(own, state_value=networks.state_value())
    optimizers = tuple(
        make_optimizer(section, config.update_shape, num_updates=num_updates, ahead=ahead, by_updates=True)
        for section in (config.optimizer, config.critic_optimizer, config.value_optimizer)
    )
    return make_twin_critic_agent(
        own,
        dict(zip(("policy", "critic", "state_value"), optimizers, strict=True)),
        random_steps=0,
        extra=lambda params: {"target": {"critic": jax.tree.map(jnp.copy, params["critic"])}},
        explore=own.distribution.sample,
        exploit=own.distribution.mode,
        learn=_make_learn(config, own, optimizers, partition),
    )


def _make_learn(
    config: AgentConfig, own: TwinCritic, optimizers: Sequence[OptimizerOverRun], partition: Partition
) -> Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array]]:
    """Returns IQL's `Agent.learn`; the optimizers are those of the policy, of the critics and of state values."""
    optimizer, critic_optimizer, value_optimizer = optimizers

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array]:
        # Cloning has the actions that the recorded policy chose, critics those that the environment clipped.
        (sample, _), (_, improvement) = samples_of(batch, clip=True), samples_of(batch)
        target = state.extra["target"]

        def value_loss(params: PyTree, part: Trajectory) -> tuple[jax.Array, dict[str, jax.Array]]:
            return iql_value_loss(config, own, params, target, part)

        state, value_metrics = take_step(own, value_optimizer, state, sample, value_loss, partition, part="state_value")
        valued = state.params

        def policy_loss(params: PyTree, part: Trajectory) -> tuple[jax.Array, dict[str, jax.Array]]:
            return iql_policy_loss(config, own, params, target, part)

        def targets_of(part: Trajectory) -> jax.Array:
            return bootstrap(config, part, own.state_value_at(valued, part, 1))

        state, metrics = take_step(own, optimizer, state, improvement, policy_loss, partition, part="policy")
        state, critic_metrics, priority = take_critic_step(own, critic_optimizer, state, sample, targets_of, partition)
        slow = optax.incremental_update(state.params["critic"], target["critic"], config.target_rate)
        told = {**value_metrics, **metrics, **critic_metrics, "loss/learning_rate": optimizer.rate(state.step)}
        state = dataclasses.replace(state, extra={**state.extra, "target": {"critic": slow}})
        return state, total_metrics(told, ["loss/state_value"]), priority

    return learn


def iql_value_loss(
    config: AgentConfig, networks: TwinCritic, params: PyTree, target: PyTree, trajectory: Trajectory
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the expectile loss of V(s) for the target min Q_target(s, a) of the recorded action.

    Args:
        config: Hyper-parameters.
        networks: The agent's networks.
        params: All parameters; the loss is differentiated with respect to those of state values.
        target: The slow copy of the critics' parameters.
        trajectory: [T, B], with the network's carry.

    Returns:
        [T, B], and what metrics are means of, [T, B] by name.

    Source: Kostrikov et al. 2021, arXiv:2110.06169, equation 5.
    """
    values = networks.state_value_at(params, trajectory, 0)
    return expectile_loss(values, _recorded_value(networks, target, trajectory), config.expectile), {
        "value/state": values
    }


def iql_policy_loss(
    config: AgentConfig, networks: TwinCritic, params: PyTree, target: PyTree, trajectory: Trajectory
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes -min(exp(beta (min Q_target(s, a) - V(s))), max_weight) log pi(a|s) of the recorded action.

    Args:
        config: Hyper-parameters.
        networks: The agent's networks.
        params: All parameters; the loss is differentiated with respect to the policy's.
        target: The slow copy of the critics' parameters.
        trajectory: [T, B], with the network's carry.

    Returns:
        [T, B], and what metrics are means of, [T, B] by name.

    Source: Kostrikov et al. 2021, arXiv:2110.06169, equation 7; its code clips the weights.
    """
    advantage = _recorded_value(networks, target, trajectory) - networks.state_value_at(params, trajectory, 0)
    # Clipped as a logarithm: the exponential may overflow.
    weight = jax.lax.stop_gradient(jnp.exp(jnp.minimum(config.beta * advantage, jnp.log(config.max_weight))))
    log_prob = networks.distribution.log_prob(networks.policy_at(params, trajectory, 0), trajectory.action)
    told = {"policy/log_prob": log_prob, "policy/weight": weight, "value/advantage": advantage}
    return -weight * log_prob, told


def _recorded_value(networks: TwinCritic, target: PyTree, trajectory: Trajectory) -> jax.Array:
    """Returns the smaller slow value of the recorded actions as the environment clipped them, [T, B]."""
    action = jnp.clip(trajectory.action, -1, 1)
    return jnp.min(networks.values_at(target, trajectory, 0, action), axis=-1)
