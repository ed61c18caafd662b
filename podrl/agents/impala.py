"""IMPALA: an actor-critic that learns from slightly stale experience, corrected by V-trace.

The loss is a *mean* over real transitions, so that the learning rate means the same for any batch and any number of
devices. The original sums over the batch. Adaptive optimizers hide the difference except in two numbers, which scale
with the size N of the summed batch: a clip of 40 and an epsilon of 0.01 on a sum of N terms are 40/N and 0.01/N here.

With `popart.enabled` values are learned, and advantages taken, in units of the value targets' running scale.

Source: Espeholt et al. 2018, arXiv:1802.01561; with PopArt Hessel et al. 2019, arXiv:1809.04474.
"""

import dataclasses

import jax
from jax import numpy as jnp

from podrl.agents.parts.actor_critic import fresh_rollouts, make_actor_critic_agent
from podrl.agents.parts.interface import Agent, Batch, Partition, UpdateShape
from podrl.agents.parts.optimizing import make_optimizer
from podrl.agents.parts.single_pass import make_single_pass
from podrl.agents.parts.value_scale import move_value_scale, popart_moments, with_value_scale
from podrl.config.optimizer import OptimizerConfig
from podrl.config.popart import PopArtConfig
from podrl.config.ranges import check_values, number, text
from podrl.networks.interface import Network, Networks
from podrl.ops.losses import masked_mean, policy_gradient_loss, value_loss
from podrl.ops.popart import PopArt
from podrl.ops.returns import clip_reward
from podrl.ops.vtrace import vtrace
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of IMPALA.

    Attributes:
        name: `impala`.
        optimizer: The optimizer.
        discount: Discount of future rewards, per agent decision.
        entropy_cost: Weight of the entropy bonus.
        value_cost: Weight of the value loss, 0.5 * (target - value)**2.
        lambda_: V-trace's trace parameter.
        clip_rho: Clip of the importance ratio that decides the values' fixed point.
        clip_pg_rho: Clip of the importance ratio in the policy gradient.
        reward_scale: Rewards are multiplied by it, then clipped.
        max_reward: Rewards are clipped to [-max_reward, max_reward]; 0 leaves them as they are.
        minibatches: An update takes this many optimizer steps, each on its share of the environments.
        popart: Whether and how values are normalised, see `podrl.ops.popart`.
    """

    name: str = text(100, "impala")
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(name="rmsprop", learning_rate=6e-4)
    )
    discount: float = number(0, 1, 0.99)
    entropy_cost: float = number(0, 1e6, 0.01)
    value_cost: float = number(0, 1e6, 0.5)
    lambda_: float = number(0, 1, 1.0)
    clip_rho: float = number(1e-6, 1e6, 1.0)
    clip_pg_rho: float = number(1e-6, 1e6, 1.0)
    reward_scale: float = number(1e-9, 1e9, 1.0)
    max_reward: float = number(0, 1e9, 0.0)
    minibatches: int = number(1, 256, 1)
    popart: PopArtConfig = dataclasses.field(default_factory=PopArtConfig)

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")
        check_values(self.optimizer, "agent.optimizer.")
        self.popart.check("agent.popart.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return UpdateShape(minibatches=self.minibatches)


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
    """IMPALA with an actor-critic network.

    Args:
        config: The hyper-parameters.
        networks: Makes the network.
        spec: The environment; not used.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for the learning rate's decay.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.
    """
    network = networks.actor_critic()
    optimizer = make_optimizer(config.optimizer, config.update_shape, num_updates=num_updates, ahead=ahead)

    def loss(
        state: LearnerState, params: PyTree, part: Trajectory, num_transitions: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        popart = state.extra["popart"] if config.popart.enabled else None
        return impala_loss(config, network, params, part, num_transitions, popart)

    take_steps = make_single_pass(optimizer, loss, config.minibatches, partition)

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        trajectory = fresh_rollouts(batch)
        state, metrics = take_steps(state, trajectory)
        metrics = {**metrics, "loss/learning_rate": optimizer.rate(state.step)}
        state, metrics = move_value_scale(config.popart, network, state, metrics, trajectory)
        return state, metrics, None

    agent = make_actor_critic_agent(network, optimizer, lambda output: {"policy": output.policy}, learn)
    return with_value_scale(agent, config.popart)


def impala_loss(
    config: AgentConfig,
    network: Network,
    params: PyTree,
    trajectory: Trajectory,
    num_transitions: jax.Array,
    popart: PopArt | None = None,
) -> tuple[jax.Array, Metrics]:
    """IMPALA's loss on some environments of a batch, as their share of the mean over the whole batch.

    Args:
        config: Hyper-parameters.
        network: The actor-critic.
        params: Its parameters; the loss is differentiated with respect to them.
        trajectory: [T, B] transitions; reset rows carry no loss, and stop V-trace.
        num_transitions: [] real transitions in the whole batch, by which sums are divided.
        popart: The scale of the values; None if they are not normalised.

    Returns:
        The loss, and metrics that add up to the batch's when summed over its parts.
    """
    output, _ = network.unroll(params, trajectory)
    target, behaviour, mask = output.policy[:-1], trajectory.behaviour["policy"], trajectory.is_transition
    log_probs = network.policy.log_prob(target, trajectory.action)
    log_rhos = log_probs - network.policy.log_prob(behaviour, trajectory.action)
    rhos = jnp.where(mask, jnp.exp(jax.lax.stop_gradient(log_rhos)), 0.0)
    values = output.value if popart is None else popart.unnormalize(output.value)
    returns = vtrace(
        jax.lax.stop_gradient(values),
        clip_reward(trajectory.reward * config.reward_scale, config.max_reward),
        jnp.where(mask, trajectory.discount * config.discount, 0.0),
        rhos,
        lambda_=config.lambda_,
        clip_rho=config.clip_rho,
        clip_pg_rho=config.clip_pg_rho,
    )

    def mean(x: jax.Array) -> jax.Array:
        return masked_mean(x, mask, count=num_transitions)

    advantages = returns.advantages if popart is None else returns.advantages / popart.scale
    targets = returns.targets if popart is None else popart.normalize(returns.targets)
    policy = mean(policy_gradient_loss(log_probs, advantages))
    value = mean(value_loss(output.value[:-1], targets))
    entropy = mean(network.policy.entropy(target))
    loss = policy + config.value_cost * value - config.entropy_cost * entropy
    return loss, {
        "loss/total": loss,
        "loss/policy": policy,
        "loss/value": value,
        "policy/entropy": entropy,
        "policy/rho": mean(rhos),
        "policy/kl_to_behaviour": mean(network.policy.kl(behaviour, target)),
        "value/mean": mean(values[:-1]),
        "value/target": mean(returns.targets),
        **popart_moments(popart, targets, mask, num_transitions),
    }
