"""TD3: a deterministic policy for continuous control, learned by two critics from replayed transitions.

Three things keep the critics' errors small. Their targets bootstrap from the smaller value of two slow copies of them;
for the action of a slow copy of the policy with clipped noise, as similar actions have similar values; and the policy
and all slow copies move only at every `policy_period`th call of `learn`. Actors add noise of their own.

With `agent.behaviour_alpha` it is TD3+BC, for data sets: the policy also stays near the recorded actions
(`podrl.agents.parts.behaviour`).

Source: Fujimoto et al. 2018, arXiv:1802.09477, algorithm 1; its appendix C has the numbers. Fujimoto & Gu 2021,
arXiv:2106.06860 (TD3+BC).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp
import optax

from podrl.actions import ContinuousActions
from podrl.agents.parts.behaviour import stay_near_recorded
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
    """Hyper-parameters of TD3.

    Attributes:
        name: `td3`.
        optimizer: The policy's optimizer.
        critic_optimizer: The critics' optimizer.
        discount: Discount of future rewards, per agent decision.
        target_rate: Share of the way that slow copies of the networks go to them each time that they move.
        policy_period: Calls of `learn` between two steps of the policy and of the slow copies.
        exploration_noise: Standard deviation of the noise that actors add, where actions span [-1, 1].
        target_noise: Standard deviation of the noise of the targets' actions.
        max_target_noise: That noise is clipped to [-max_target_noise, max_target_noise].
        behaviour_alpha: TD3+BC's alpha: the weight of values, in units of their mean size, beside the squared distance
            to the recorded action. A value near 0 is cloning; 0 itself leaves the distance out and is TD3.
        random_steps: Env steps of the whole job before the policy acts; the actions until then are uniform.
        reward_scale: Rewards are multiplied by it.
    """

    action_kinds: ClassVar[tuple[type, ...]] = (ContinuousActions,)

    name: str = text(100, "td3")
    optimizer: OptimizerConfig = dataclasses.field(default_factory=constant_adam)
    critic_optimizer: OptimizerConfig = dataclasses.field(default_factory=constant_adam)
    discount: float = number(0, 1, 0.99)
    target_rate: float = number(0, 1, 0.005)
    policy_period: int = number(1, 10**6, 2)
    exploration_noise: float = number(0, 10, 0.1)
    target_noise: float = number(0, 10, 0.2)
    max_target_noise: float = number(0, 10, 0.5)
    behaviour_alpha: float = number(0, 1e6, 0.0)
    random_steps: int = number(0, 2**31, 10_000, open=True)
    reward_scale: float = number(1e-9, 1e9, 1.0)

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")
        for section in ("optimizer", "critic_optimizer"):
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
    """TD3 with a network of a policy and one of two critics.

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
        ConfigError: If actions are no numbers, or the network has a memory.
    """
    own = ask_for_networks(config, networks, spec, deterministic=True)
    optimizer, critic_optimizer = (
        make_optimizer(section, config.update_shape, num_updates=num_updates, ahead=ahead, by_updates=True)
        for section in (config.optimizer, config.critic_optimizer)
    )

    def explore(keys: jax.Array, output: jax.Array) -> jax.Array:
        noise = jax.vmap(lambda key: jax.random.normal(key, (own.size,)))(keys)
        return jnp.clip(jnp.tanh(output) + config.exploration_noise * noise, -1, 1)

    return make_twin_critic_agent(
        own,
        {"policy": optimizer, "critic": critic_optimizer},
        random_steps=config.random_steps,
        extra=lambda params: {"target": jax.tree.map(jnp.copy, params)},
        explore=explore,
        exploit=jnp.tanh,
        learn=_make_learn(config, own, (optimizer, critic_optimizer), partition),
    )


def _make_learn(
    config: AgentConfig, own: TwinCritic, optimizers: Sequence[OptimizerOverRun], partition: Partition
) -> Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array]]:
    """Returns TD3's `Agent.learn`; the optimizers are those of the policy and of the critics."""
    optimizer, critic_optimizer = optimizers

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array]:
        (sample, improvement), before = samples_of(batch, clip=True), state
        key, target_key = jax.random.split(state.key)

        def targets_of(part: Trajectory) -> jax.Array:
            return td3_targets(config, own, before.extra["target"], part, target_key)

        def policy_loss(params: PyTree, part: Trajectory) -> tuple[jax.Array, Mapping[str, jax.Array]]:
            return td3_policy_loss(own, params, part)

        def move_policy(state: LearnerState) -> tuple[LearnerState, Metrics]:
            constrained = stay_near_recorded(config.behaviour_alpha, own, state.params, improvement, policy_loss)
            state, metrics = take_step(own, optimizer, state, improvement, constrained, partition, part="policy")
            target = optax.incremental_update(state.params, state.extra["target"], config.target_rate)
            return dataclasses.replace(state, extra={**state.extra, "target": target}), metrics

        def keep_policy(state: LearnerState) -> tuple[LearnerState, Metrics]:
            shapes = jax.eval_shape(move_policy, state)[1]
            return state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        state, critic_metrics, priority = take_critic_step(own, critic_optimizer, state, sample, targets_of, partition)
        moves = (state.learner_step + 1) % config.policy_period == 0
        state, metrics = jax.lax.cond(moves, move_policy, keep_policy, state)
        told = {"loss/learning_rate": optimizer.rate(state.step)}
        found = total_metrics({**critic_metrics, **metrics, **told})
        # Zeros where the policy stays: the mean over `policy_period` calls is then that of the policy's steps.
        scaled = {name: x * config.policy_period for name, x in metrics.items()}
        return dataclasses.replace(state, key=key), {**found, **scaled}, priority

    return learn


def td3_targets(
    config: AgentConfig, networks: TwinCritic, target: PyTree, trajectory: Trajectory, key: jax.Array
) -> jax.Array:
    """Computes the critics' targets r + discount min Q_target(s', clip(pi_target(s') + clipped noise)).

    Args:
        config: Hyper-parameters.
        networks: The agent's networks.
        target: The slow copy of all parameters.
        trajectory: [T, B], with the network's carry.
        key: A key; each row folds in its own number.

    Returns:
        [T, B] without a gradient; zero on reset rows.

    Source: Fujimoto et al. 2018, arXiv:1802.09477, equation 14 and algorithm 1.
    """
    draw = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (networks.size,))))
    noise = config.target_noise * draw(noise_keys(key, trajectory))
    noise = jnp.clip(noise, -config.max_target_noise, config.max_target_noise)
    action = jnp.clip(jnp.tanh(networks.policy_at(target, trajectory, 1)) + noise, -1, 1)
    return bootstrap(config, trajectory, jnp.min(networks.values_at(target, trajectory, 1, action), axis=-1))


def td3_policy_loss(
    networks: TwinCritic, params: PyTree, trajectory: Trajectory
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes -Q(s, pi(s)) of each row, by the first critic.

    Args:
        networks: The agent's networks.
        params: The parameters of policy and critics; the loss is differentiated with respect to the policy's.
        trajectory: [T, B], with the network's carry.

    Returns:
        [T, B], and what metrics are means of, [T, B] by name.

    Source: Silver et al. 2014, Deterministic policy gradient algorithms, ICML; Fujimoto et al. 2018, algorithm 1.
    """
    action = jnp.tanh(networks.policy_at(params, trajectory, 0))
    values = networks.values_at(params, trajectory, 0, action)[..., 0]
    return -values, {"value/policy": values, "policy/size": jnp.mean(jnp.abs(action), axis=-1)}
