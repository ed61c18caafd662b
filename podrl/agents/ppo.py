"""PPO: an actor-critic that takes several passes over each batch, within reach of the policy that made it.

Advantages are estimated once per update, by GAE. Then come `epochs` passes of `minibatches` optimizer steps each. As in
the original the ratio's denominator is the policy that acted: with `actors.lag=0` that of the parameters at the
update's start, else that of `actors.lag` updates before, and the clip holds the policy near *that*. All means are over
real transitions of the whole minibatch, on however many devices it lies.

Source: Schulman et al. 2017, arXiv:1707.06347; details after Huang et al. 2022, The 37 implementation details of PPO.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax import numpy as jnp

from podrl.agents.parts.actor_critic import evaluate_values, fresh_rollouts, make_actor_critic_agent
from podrl.agents.parts.epochs import (
    Experience,
    check_shuffle,
    estimate_gae,
    evaluate_minibatch,
    normalize_advantages,
    take_epochs,
    value_metrics,
)
from podrl.agents.parts.interface import Agent, Batch, Partition, UpdateShape
from podrl.agents.parts.optimizing import OptimizerOverRun, make_optimizer
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, choice, number, text
from podrl.networks.interface import Network, Networks
from podrl.ops.losses import clipped_surrogate_loss, clipped_value_loss, masked_mean, value_loss
from podrl.ops.minibatches import accumulate_gradients
from podrl.ops.optimizers import share_left
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of PPO.

    Attributes:
        name: `ppo`.
        optimizer: The optimizer.
        discount: Discount of future rewards, per agent decision.
        lambda_: GAE's decay.
        clip: Largest change of the probability ratio that still pays.
        clip_decay: the clip shrinks linearly to zero at the end of the run; if false it stays.
        value_clip: Largest change of a value that still pays; 0 does not clip values.
        entropy_cost: Weight of the entropy bonus.
        value_cost: Weight of the value loss, 0.5 * (target - value)**2.
        normalize_advantages: Whether advantages are scaled to mean 0 and deviation 1 in each minibatch.
        recompute_values: estimate advantages from values of the learner's parameters at the start of the update; if
            false from those that the actors recorded, which costs no forward pass. They are the same where the lag is
            0. The value behind the last row is the learner's in either case.
        reward_scale: Rewards are multiplied by it, then clipped.
        max_reward: Rewards are clipped to [-max_reward, max_reward]; 0 leaves them as they are.
        epochs: Passes over the batch.
        minibatches: Optimizer steps in an epoch.
        shuffle: What an epoch deals to its minibatches: `environments`, whole unrolls of some environments, which
            recurrent networks need; or `time`, some rows of every environment, which mixes better and takes a number of
            environments that need not divide by `minibatches`, but an `actors.unroll_length` that does.
    """

    name: str = text(100, "ppo")
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(name="adam", learning_rate=2.5e-4, max_grad_norm=0.5)
    )
    discount: float = number(0, 1, 0.99)
    lambda_: float = number(0, 1, 0.95)
    clip: float = number(1e-6, 1e6, 0.2)
    clip_decay: bool = False
    value_clip: float = number(0, 1e9, 0.0)
    entropy_cost: float = number(0, 1e6, 0.01)
    value_cost: float = number(0, 1e6, 0.5)
    normalize_advantages: bool = True
    recompute_values: bool = False
    reward_scale: float = number(1e-9, 1e9, 1.0)
    max_reward: float = number(0, 1e9, 0.0)
    epochs: int = number(1, 1000, 4)
    minibatches: int = number(1, 4096, 4)
    shuffle: str = choice(("environments", "time"), "environments")

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")
        check_values(self.optimizer, "agent.optimizer.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return UpdateShape(
            minibatches=self.minibatches,
            epochs=self.epochs,
            divides_rows=self.shuffle == "time",
            loops_steps=True,
        )


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
    """PPO with an actor-critic network.

    Args:
        config: The hyper-parameters.
        networks: Makes the network.
        spec: The environment; not used.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for the decays.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.

    Raises:
        ConfigError: if `agent.shuffle` does not fit the network.
    """
    network = networks.actor_critic()
    check_shuffle(config.shuffle, network)
    optimizer = make_optimizer(config.optimizer, config.update_shape, num_updates=num_updates, ahead=ahead)

    def clip_at(step: jax.Array) -> jax.Array | float:
        return config.clip * share_left(step, num_updates, ahead) if config.clip_decay else config.clip

    learn = make_learn(config, network, optimizer, clip_at, partition)
    return make_actor_critic_agent(
        network, optimizer, lambda output: {"policy": output.policy, "value": output.value}, learn
    )


def make_learn(
    config: AgentConfig,
    network: Network,
    optimizer: OptimizerOverRun,
    clip_at: Callable[[jax.Array], jax.Array | float],
    partition: Partition,
) -> Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, None]]:
    """Returns PPO's `Agent.learn`; `clip_at` is (updates done []) -> the clip of the next update."""
    shape, micro_batches = config.update_shape, partition.micro_batches

    def sgd_step(state: LearnerState, minibatch: Experience) -> tuple[LearnerState, Metrics]:
        mask = minibatch.select(minibatch.trajectory.is_transition)
        num_transitions, clip = jnp.sum(mask, dtype=jnp.float32), clip_at(state.step)
        minibatch = normalize_advantages(minibatch, mask) if config.normalize_advantages else minibatch

        def loss_fn(params: PyTree, part: Experience) -> tuple[jax.Array, Metrics]:
            return ppo_loss(config, network, params, part, num_transitions, clip)

        (_, metrics), grads = accumulate_gradients(
            loss_fn, state.params, minibatch, micro_batches, rolled=partition.rolls_micro_batches
        )
        state, norm = optimizer.apply(state, grads)
        return state, {**metrics, "grad/norm": norm}

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        trajectory = fresh_rollouts(batch)
        learning_rate = optimizer.rate(state.step)
        experience = estimate_advantages(config, network, state.params, trajectory, micro_batches)
        state, metrics = take_epochs(state, experience, sgd_step, shape, rolled=partition.rolls_steps)
        return state, {**metrics, "loss/learning_rate": learning_rate, **value_metrics(experience)}, None

    return learn


def estimate_advantages(
    config: AgentConfig, network: Network, params: PyTree, trajectory: Trajectory, micro_batches: int = 1
) -> Experience:
    """What PPO computes of a trajectory [T, B] once, with the parameters at the update's start."""
    values = trajectory.behaviour["value"]
    evaluated = evaluate_values(
        network, params, trajectory, config.minibatches, micro_batches, last_only=not config.recompute_values
    )
    values = evaluated if config.recompute_values else jnp.concatenate([values, evaluated[-1:]])
    advantages = estimate_gae(config, trajectory, values)
    values = values[:-1]
    return Experience(trajectory=trajectory, values=values, targets=values + advantages, advantages=advantages)


def ppo_loss(
    config: AgentConfig,
    network: Network,
    params: PyTree,
    experience: Experience,
    num_transitions: jax.Array,
    clip: jax.Array | float,
) -> tuple[jax.Array, Metrics]:
    """PPO's loss on some environments of a minibatch, as their share of the mean over the whole minibatch.

    Args:
        config: hyper-parameters.
        network: the actor-critic.
        params: its parameters; the loss is differentiated with respect to them.
        experience: The minibatch, with advantages as the surrogate takes them; reset rows carry no loss.
        num_transitions: [] real transitions in the whole minibatch, by which sums are divided.
        clip: Clip of the probability ratio.

    Returns:
        The loss, and metrics that add up to the minibatch's when summed over its parts.
    """
    trajectory = experience.trajectory
    output = evaluate_minibatch(network, params, experience)
    action, behaviour, mask = experience.select(
        (trajectory.action, trajectory.behaviour["policy"], trajectory.is_transition)
    )
    values, targets, advantages = experience.select((experience.values, experience.targets, experience.advantages))
    log_rhos = network.policy.log_prob(output.policy, action) - network.policy.log_prob(behaviour, action)
    rhos = jnp.exp(jnp.where(mask, log_rhos, 0.0))

    def mean(x: jax.Array) -> jax.Array:
        return masked_mean(x, mask, count=num_transitions)

    policy = mean(clipped_surrogate_loss(rhos, advantages, clip))
    if config.value_clip:
        value = mean(clipped_value_loss(output.value, values, targets, config.value_clip))
    else:
        value = mean(value_loss(output.value, targets))
    entropy = mean(network.policy.entropy(output.policy))
    loss = policy + config.value_cost * value - config.entropy_cost * entropy
    return loss, {
        "loss/total": loss,
        "loss/policy": policy,
        "loss/value": value,
        "policy/entropy": entropy,
        "policy/rho": mean(rhos),
        "policy/kl_to_behaviour": mean(network.policy.kl(behaviour, output.policy)),
        "policy/clip_fraction": mean(jnp.asarray(jnp.abs(rhos - 1) > clip, jnp.float32)),
    }
