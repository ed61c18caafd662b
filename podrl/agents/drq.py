"""DrQ-v2: continuous control from pixels, by a deterministic policy, two critics and images shifted at random.

Critics and policy share an encoder, which only the critics train. Targets add `n_steps` rewards, and bootstrap from the
smaller value of two slow copies of the critics for a noisy action of today's policy, with today's encoder. All learn
from images of both ends of a transition that are augmented anew at every use (`agent.augment`), by default shifted. The
deviation of the noise, that of actors and that of the losses, falls over the run; in the losses noise is clipped.

Observations without images are learned from in the same way, without an encoder.

Source: Yarats et al. 2021, arXiv:2107.09645; the numbers are those of its appendix B. There, the policy's loss uses
features from before the critics' step; here it uses those from after it.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, ClassVar

import jax
from jax import numpy as jnp
import optax

from podrl.actions import ContinuousActions
from podrl.agents.parts.augmenting import check_augmentation, n_step_transitions
from podrl.agents.parts.critic_steps import noise_keys, take_critic_step, take_step, total_metrics
from podrl.agents.parts.interface import Agent, Batch, Partition, SequenceShape, UpdateShape
from podrl.agents.parts.optimizing import OptimizerOverRun, make_optimizer
from podrl.agents.parts.q_learning import fall_linearly
from podrl.agents.parts.twin_critic import TwinCritic, ask_for_networks, constant_adam, make_twin_critic_agent
from podrl.config.augment import AugmentConfig
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, number, text
from podrl.networks.interface import Networks, PolicyNetwork
from podrl.networks.shared_encoder import join_encoder, split_encoder
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Timestep, Trajectory


def slow_adam() -> OptimizerConfig:
    """Returns DrQ-v2's optimizer: Adam with one learning rate for the whole run, and no clipping."""
    return dataclasses.replace(constant_adam(), learning_rate=1e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of DrQ-v2.

    Attributes:
        name: `drq`.
        optimizer: The policy's optimizer.
        critic_optimizer: The optimizer of the critics and the encoder.
        augment: How images are augmented.
        discount: Discount of future rewards, per agent decision.
        n_steps: Steps whose rewards a target adds before it bootstraps.
        target_rate: Share of the way that the critics' slow copies go to them in each call of `learn`.
        features: Features of the trunks between the encoder and the layers of policy and critics.
        noise_start: Standard deviation of the actions' noise at the start of the run, where actions span [-1, 1].
        noise_end: Standard deviation once it has fallen.
        noise_decay: Share of the run over which it falls linearly.
        max_noise: In targets and in the policy's loss the noise is clipped to [-max_noise, max_noise].
        random_steps: Env steps of the whole job before the policy acts; the actions until then are uniform.
        reward_scale: Rewards are multiplied by it.
    """

    action_kinds: ClassVar[tuple[type, ...]] = (ContinuousActions,)

    name: str = text(100, "drq")
    optimizer: OptimizerConfig = dataclasses.field(default_factory=slow_adam)
    critic_optimizer: OptimizerConfig = dataclasses.field(default_factory=slow_adam)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    discount: float = number(0, 1, 0.99)
    n_steps: int = number(1, 1000, 3)
    target_rate: float = number(0, 1, 0.01)
    features: int = number(1, 2**16, 50)
    noise_start: float = number(0, 10, 1.0)
    noise_end: float = number(0, 10, 0.1)
    noise_decay: float = number(1e-6, 1, 0.3)
    max_noise: float = number(0, 10, 0.3)
    random_steps: int = number(0, 2**31, 2_000, open=True)
    reward_scale: float = number(1e-9, 1e9, 1.0)

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")
        for section in ("optimizer", "critic_optimizer"):
            check_values(getattr(self, section), f"agent.{section}.")
        self.augment.check("agent.augment.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        shape = SequenceShape(burn_in=0, length=1, extra=self.n_steps - 1, from_every_row=True)
        return UpdateShape(sequences=shape)


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
    """DrQ-v2 with a network of a policy and one of two critics, behind one encoder.

    Args:
        config: The hyper-parameters.
        networks: Makes the networks.
        spec: The environment.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for the noise, and learning rates that decay.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.
        group_size: Environments in a group of the replay; not used.

    Raises:
        ConfigError: If actions are no numbers, the network has a memory, or augmentation would have no effect.
    """
    own = ask_for_networks(config, networks, spec, deterministic=True, features=config.features)
    check_augmentation(config.augment, AgentConfig().augment, spec)
    optimizer, critic_optimizer = (
        make_optimizer(section, config.update_shape, num_updates=num_updates, ahead=ahead, by_updates=True)
        for section in (config.optimizer, config.critic_optimizer)
    )
    noise_at = fall_linearly(
        config.noise_start, config.noise_end, config.noise_decay, num_updates=num_updates, ahead=ahead
    )
    agent = make_twin_critic_agent(
        dataclasses.replace(own, policy=_with_noise(own.policy)),
        {"policy": optimizer, "critic": critic_optimizer},
        random_steps=config.random_steps,
        extra=lambda params: {"target": {"critic": jax.tree.map(jnp.copy, split_encoder(params["critic"])[0])}},
        explore=lambda keys, output: noisy_action(keys, *output),
        exploit=lambda output: jnp.tanh(output[0]),
        learn=_make_learn(config, own, (optimizer, critic_optimizer), noise_at, partition),
    )

    def actor_params(state: LearnerState) -> PyTree:
        seen = {"critic": {"encoder": split_encoder(state.params["critic"])[1]}, "noise": noise_at(state.step)}
        return {**agent.actor_params(state), **seen}

    return dataclasses.replace(agent, actor_params=actor_params)


def _with_noise(network: PolicyNetwork) -> PolicyNetwork:
    """Returns a network whose steps put out [B, D] and the deviation of the noise, as actors have it."""

    def step(params: PyTree, timestep: Timestep, carry: PyTree) -> tuple[Any, PyTree]:
        output, carry = network.step(params, timestep, carry)
        return (output, params["noise"]), carry

    return dataclasses.replace(network, step=step)


def _make_learn(
    config: AgentConfig,
    own: TwinCritic,
    optimizers: tuple[OptimizerOverRun, OptimizerOverRun],
    noise_at: Callable[[jax.Array], jax.Array],
    partition: Partition,
) -> Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array]]:
    """Returns DrQ-v2's `Agent.learn`; the optimizers are those of the policy, and of critics and encoder."""
    optimizer, critic_optimizer = optimizers

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array]:
        if batch.rollouts is None:
            raise ValueError("Found no rollouts; expected sequences from a ring.")
        key, augment_key, target_key, policy_key = jax.random.split(state.key, 4)
        before, noise = state, noise_at(state.step)
        sample = n_step_transitions(config, own.policy, batch.rollouts, augment_key)

        def act(params: PyTree, part: Trajectory, row: int, key: jax.Array) -> jax.Array:
            sampled = jax.vmap(lambda keys, output: noisy_action(keys, output, noise, config.max_noise))
            return sampled(noise_keys(key, part), own.policy_at(params, part, row))

        def targets_of(part: Trajectory) -> jax.Array:
            target = join_encoder(before.extra["target"]["critic"], split_encoder(before.params["critic"])[1])
            action = act(before.params, part, 1, target_key)
            values = jnp.min(own.values_at({"critic": target}, part, 1, action), axis=-1)
            return jax.lax.stop_gradient(jnp.where(part.is_transition, part.reward + part.discount * values, 0.0))

        def policy_loss(params: PyTree, part: Trajectory) -> tuple[jax.Array, Mapping[str, jax.Array]]:
            action = act(params, part, 0, policy_key)
            values = jnp.min(own.values_at(params, part, 0, action), axis=-1)
            return -values, {"value/policy": values, "policy/size": jnp.mean(jnp.abs(action), axis=-1)}

        state, critic_metrics, priority = take_critic_step(own, critic_optimizer, state, sample, targets_of, partition)
        alike = dataclasses.replace(sample, weight=jnp.ones_like(sample.weight))
        state, metrics = take_step(own, optimizer, state, alike, policy_loss, partition, part="policy")
        critic, _ = split_encoder(state.params["critic"])
        target = optax.incremental_update(critic, state.extra["target"]["critic"], config.target_rate)
        told = {"policy/noise": noise, "loss/learning_rate": optimizer.rate(state.step)}
        state = dataclasses.replace(state, extra={**state.extra, "target": {"critic": target}}, key=key)
        return state, total_metrics({**critic_metrics, **metrics, **told}), priority

    return learn


def noisy_action(keys: jax.Array, output: jax.Array, deviation: jax.Array, most: float = jnp.inf) -> jax.Array:
    """Computes clip(tanh(output) + noise) with Gaussian noise, itself clipped to [-most, most].

    The gradient passes the outer clip as if it were not there.

    Args:
        keys: [B].
        output: [B, D] what the policy puts out.
        deviation: [] standard deviation of the noise.
        most: Largest noise.

    Returns:
        [B, D] in [-1, 1].

    Source: Yarats et al. 2021, arXiv:2107.09645, section 3.1 (the clipped noise), and its code (the gradient).
    """
    noise = deviation * jax.vmap(lambda key: jax.random.normal(key, output.shape[1:]))(keys)
    action = jnp.tanh(output) + jnp.clip(noise, -most, most)
    return action + jax.lax.stop_gradient(jnp.clip(action, -1, 1) - action)
