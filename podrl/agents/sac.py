"""SAC: a policy for continuous control that maximises return and entropy, learned from replayed transitions.

Two critics learn the soft value Q(s, a) of a discounted return to which every later step adds `temperature` times the
policy's entropy; their targets bootstrap from the smaller value of two slow copies of them, for an action of today's
policy. The policy, a squashed Gaussian, descends temperature log pi(a|s) - min Q(s, a) through the action. The
temperature is learned, so that the entropy stays near a target.

A call of `learn` takes one step of the critics, then one of the policy by the new critics, and one of the temperature.

With `agent.conservative_weight` it is CQL, for data sets: the critics also learn to value the recorded actions above
others (`podrl.agents.parts.conservative`).

Source: Haarnoja et al. 2018, arXiv:1812.05905, section 5 and algorithm 1; its table 1 has the numbers. Kumar et al.
2020, arXiv:2006.04779 (CQL).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp
import optax

from podrl.actions import ContinuousActions
from podrl.agents.parts.conservative import conservative_term
from podrl.agents.parts.critic_steps import (
    bootstrap,
    noise_keys,
    take_critic_step,
    take_step,
    total_metrics,
)
from podrl.agents.parts.interface import Agent, Batch, Partition, UpdateShape
from podrl.agents.parts.optimizing import OptimizerOverRun, make_optimizer
from podrl.agents.parts.recorded import samples_of
from podrl.agents.parts.temperature import init_temperature, move_temperature
from podrl.agents.parts.twin_critic import (
    TRANSITIONS,
    TwinCritic,
    ask_for_networks,
    constant_adam,
    make_twin_critic_agent,
)
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, number, text
from podrl.networks.interface import Networks
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of SAC.

    Attributes:
        name: `sac`.
        optimizer: The policy's optimizer.
        critic_optimizer: The critics' optimizer.
        temperature_optimizer: The optimizer of the logarithm of the temperature.
        discount: Discount of future rewards, per agent decision.
        target_rate: Share of the way that the critics' targets go to them in each call of `learn`.
        temperature: The first temperature: the weight of entropy beside rewards.
        target_entropy: The policy's entropy that the temperature is learned for, in nats, for each number of an action.
        entropy_in_targets: Whether the critics' targets have the entropy of later steps. CQL's have not.
        conservative_weight: Weight of CQL's term in the loss of each critic; 0 leaves it out.
        conservative_actions: Uniform actions, and as many of the policy, that estimate the term in each row.
        random_steps: Env steps of the whole job before the policy acts; the actions until then are uniform.
        reward_scale: Rewards are multiplied by it.
    """

    action_kinds: ClassVar[tuple[type, ...]] = (ContinuousActions,)

    name: str = text(100, "sac")
    optimizer: OptimizerConfig = dataclasses.field(default_factory=constant_adam)
    critic_optimizer: OptimizerConfig = dataclasses.field(default_factory=constant_adam)
    temperature_optimizer: OptimizerConfig = dataclasses.field(default_factory=constant_adam)
    discount: float = number(0, 1, 0.99)
    target_rate: float = number(0, 1, 0.005)
    temperature: float = number(1e-8, 1e6, 1.0)
    target_entropy: float = number(-1e6, 1e6, -1.0)
    entropy_in_targets: bool = True
    conservative_weight: float = number(0, 1e6, 0.0)
    conservative_actions: int = number(1, 10_000, 10)
    random_steps: int = number(0, 2**31, 10_000, open=True)
    reward_scale: float = number(1e-9, 1e9, 1.0)

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")
        for section in ("optimizer", "critic_optimizer", "temperature_optimizer"):
            check_values(getattr(self, section), f"agent.{section}.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return TRANSITIONS


def make_agent(
    config: AgentConfig,
    *,
    networks: Networks,
    spec: EnvSpec,
    num_envs: int,
    num_updates: int,
    ahead: float = 0.0,
    partition: Partition = Partition(),  # noqa: B008 (frozen)
    group_size: int = 0,
) -> Agent:
    """SAC with a network of a policy and one of two critics.

    Args:
        config: The hyper-parameters.
        networks: Makes the networks.
        spec: The environment.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for learning rates that decay.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.
        group_size: Environments in a group of the replay; not used.

    Raises:
        ConfigError: If actions are no numbers, or the network is none that SAC can use.
    """
    own = ask_for_networks(config, networks, spec)
    optimizers = optimizer, critic_optimizer, temperature_optimizer = tuple(
        make_optimizer(section, config.update_shape, num_updates=num_updates, ahead=ahead, by_updates=True)
        for section in (config.optimizer, config.critic_optimizer, config.temperature_optimizer)
    )

    def extra(params: PyTree) -> dict[str, PyTree]:
        target = {"critic": jax.tree.map(jnp.copy, params["critic"])}
        return {"target": target, **init_temperature(temperature_optimizer, config.temperature)}

    policy = own.distribution
    return make_twin_critic_agent(
        own,
        {"policy": optimizer, "critic": critic_optimizer},
        random_steps=config.random_steps,
        extra=extra,
        explore=policy.sample,
        exploit=policy.mode,
        learn=_make_learn(config, own, optimizers, partition),
    )


def _make_learn(
    config: AgentConfig, own: TwinCritic, optimizers: Sequence[OptimizerOverRun], partition: Partition
) -> Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array]]:
    """Returns SAC's `Agent.learn`; the optimizers are those of the policy, of the critics and of the temperature."""
    optimizer, critic_optimizer, temperature_optimizer = optimizers

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array]:
        sample, improvement = samples_of(batch, clip=True)
        key, target_key, policy_key = jax.random.split(state.key, 3)
        term_key = jax.random.fold_in(state.key, 3)  # Not of the split, so that CQL's term does not change SAC's noise.
        temperature, before = jnp.exp(state.extra["log_temperature"]), state

        def targets_of(part: Trajectory) -> jax.Array:
            return sac_targets(config, own, before, part, target_key)

        def policy_loss(params: PyTree, part: Trajectory) -> tuple[jax.Array, Mapping[str, jax.Array]]:
            return sac_policy_loss(own, params, temperature, part, policy_key)

        term = conservative_term(config, own, state.params, improvement, term_key)
        state, critic_metrics, priority = take_critic_step(
            own, critic_optimizer, state, sample, targets_of, partition, term
        )
        state, metrics = take_step(own, optimizer, state, improvement, policy_loss, partition, part="policy")
        excess = metrics["policy/entropy"] - config.target_entropy * own.size
        excess = jnp.where(jnp.any(improvement.trajectory.is_transition), excess, 0.0)
        target = optax.incremental_update(state.params["critic"], state.extra["target"]["critic"], config.target_rate)
        moved = move_temperature(temperature_optimizer, state, excess)
        extra = {**state.extra, "target": {"critic": target}, **moved}
        told = {"policy/temperature": temperature, "loss/learning_rate": optimizer.rate(state.step)}
        state = dataclasses.replace(state, extra=extra, key=key)
        return state, total_metrics({**critic_metrics, **metrics, **told}, [term.name] if term else []), priority

    return learn


def sac_targets(
    config: AgentConfig, networks: TwinCritic, state: LearnerState, trajectory: Trajectory, key: jax.Array
) -> jax.Array:
    """Computes the critics' targets r + discount (min Q_target(s', a') - temperature log pi(a'|s')), a' ~ pi(s').

    Without `entropy_in_targets` the last term is left out.

    Args:
        config: Hyper-parameters.
        networks: The agent's networks.
        state: The state; its policy and its `extra` are used.
        trajectory: [T, B], with the network's carry.
        key: A key; each row folds in its own number.

    Returns:
        [T, B] without a gradient; zero on reset rows.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, equation 5.
    """
    sample = jax.vmap(networks.distribution.sample_and_log_prob)
    action, log_prob = sample(noise_keys(key, trajectory), networks.policy_at(state.params, trajectory, 1))
    values = jnp.min(networks.values_at(state.extra["target"], trajectory, 1, action), axis=-1)
    if config.entropy_in_targets:
        values = values - jnp.exp(state.extra["log_temperature"]) * log_prob
    return bootstrap(config, trajectory, values)


def sac_policy_loss(
    networks: TwinCritic, params: PyTree, temperature: jax.Array, trajectory: Trajectory, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes temperature log pi(a|s) - min Q(s, a) of each row, for an action a through which the gradient flows.

    Args:
        networks: The agent's networks.
        params: The parameters of policy and critics; the loss is differentiated with respect to the policy's.
        temperature: [].
        trajectory: [T, B], with the network's carry.
        key: A key; each row folds in its own number.

    Returns:
        [T, B], and what metrics are means of, [T, B] by name.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, equation 9.
    """
    sample = jax.vmap(networks.distribution.sample_and_log_prob)
    action, log_prob = sample(noise_keys(key, trajectory), networks.policy_at(params, trajectory, 0))
    values = jnp.min(networks.values_at(params, trajectory, 0, action), axis=-1)
    return jax.lax.stop_gradient(temperature) * log_prob - values, {"policy/entropy": -log_prob, "value/policy": values}
