"""IMPACT: PPO's surrogate with a target network, for batches that are several updates old and learned from again.

Three policies meet in a batch: the one that acted (w), the one that learns (theta), and a slow copy of it, the target.
V-trace is computed for the target, so that its importance weights stay the same while theta moves. The surrogate takes
the ratio R = min(pi_w / pi_target, clip_behaviour_rho) pi_theta / pi_w: where the target is not much less likely than w
to act as w did, that is pi_theta / pi_target, and `clip` holds theta near the target, however old the batch. Values are
theta's. With theta, target and w the same, the gradient is PPO's on the same advantages.

Meant for a replay of whole batches (`replay.batches`, `replay.uses`); without one it learns from each batch once.

Source: Luo et al. 2019, arXiv:1912.00167, section 3 and algorithm 1. The adaptive penalty on the divergence
from the target is that of Schulman et al. 2017, arXiv:1707.06347, section 4, with factors of 1.5 and 0.5.
"""

import dataclasses

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.actor_critic import fresh_rollouts, make_actor_critic_agent
from podrl.agents.parts.interface import Agent, Batch, Partition, UpdateShape
from podrl.agents.parts.optimizing import make_optimizer
from podrl.agents.parts.single_pass import make_single_pass
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, number, text
from podrl.networks.interface import Network, Networks
from podrl.ops.losses import clipped_surrogate_loss, masked_mean, value_loss
from podrl.ops.returns import clip_reward
from podrl.ops.vtrace import vtrace
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Trajectory

_KL_COSTS = (1e-4, 1e4)  # The adaptive weight stays within, so that it never overflows and always comes back.


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of IMPACT.

    Attributes:
        name: `impact`.
        optimizer: The optimizer.
        discount: Discount of future rewards, per agent decision.
        lambda_: The decay of V-trace's trace; with policies that coincide, GAE's.
        clip: Largest change of the surrogate's ratio that still pays.
        clip_behaviour_rho: Clip of pi_w / pi_target in that ratio.
        clip_vtrace_rho: Clip of pi_target / pi_w in V-trace.
        target_period: Calls of `learn` between two copies of the parameters to the target network; an update makes
            `replay.uses` of them. Once per turn of the ring is `replay.batches` times that.
        entropy_cost: Weight of the entropy bonus.
        value_cost: Weight of the value loss, 0.5 * (target - value)**2.
        kl_cost: First weight of KL(target, theta), which then adapts; 0 leaves the divergence out. It needs a
            `target_period` well above 1: right after a copy the divergence is 0, and the weight halves.
        kl_target: The divergence that its weight is adapted to: beyond twice this the weight grows by half, below
            half of it the weight halves, after each call of `learn`.
        reward_scale: Rewards are multiplied by it, then clipped.
        max_reward: Rewards are clipped to [-max_reward, max_reward]; 0 leaves them as they are.
        minibatches: Optimizer steps in a call of `learn`, each on its share of the environments.
    """

    name: str = text(100, "impact")
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(name="adam", learning_rate=5e-4)
    )
    discount: float = number(0, 1, 0.99)
    lambda_: float = number(0, 1, 1.0)
    clip: float = number(1e-6, 1e6, 0.4)
    clip_behaviour_rho: float = number(1e-6, 1e6, 2.0)
    clip_vtrace_rho: float = number(1e-6, 1e6, 1.0)
    target_period: int = number(1, 10**6, 8)
    entropy_cost: float = number(0, 1e6, 0.01)
    value_cost: float = number(0, 1e6, 0.5)
    kl_cost: float = number(0, 1e4, 0.0)
    kl_target: float = number(1e-9, 1e6, 0.01)
    reward_scale: float = number(1e-9, 1e9, 1.0)
    max_reward: float = number(0, 1e9, 0.0)
    minibatches: int = number(1, 256, 1)

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")
        check_values(self.optimizer, "agent.optimizer.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return UpdateShape(minibatches=self.minibatches, replays=True)


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
    """IMPACT with an actor-critic network.

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
    optimizer = make_optimizer(
        config.optimizer, config.update_shape, num_updates=num_updates, ahead=ahead, by_updates=True
    )

    def loss(
        state: LearnerState, params: PyTree, part: Trajectory, num_transitions: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        return impact_loss(config, network, params, state.extra, part, num_transitions)

    take_steps = make_single_pass(optimizer, loss, config.minibatches, partition)

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        state, metrics = take_steps(state, fresh_rollouts(batch))
        kl_cost = state.extra["kl_cost"]
        told = {"loss/learning_rate": optimizer.rate(state.step), "loss/kl_cost": kl_cost}
        target = optax.periodic_update(
            state.params, state.extra["target"], state.learner_step + 1, config.target_period
        )
        extra = {"target": target, "kl_cost": adapt_kl_cost(config, kl_cost, metrics["policy/kl"])}
        return dataclasses.replace(state, extra=extra), {**metrics, **told}, None

    agent = make_actor_critic_agent(network, optimizer, lambda output: {"policy": output.policy}, learn)

    def init(key: jax.Array) -> LearnerState:
        state = agent.init(key)
        target = jax.tree.map(jnp.copy, state.params)  # A copy, as both may be donated.
        return dataclasses.replace(state, extra={"target": target, "kl_cost": jnp.float32(config.kl_cost)})

    return dataclasses.replace(agent, init=init)


def impact_loss(
    config: AgentConfig,
    network: Network,
    params: PyTree,
    extra: PyTree,
    trajectory: Trajectory,
    num_transitions: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """IMPACT's loss on some environments of a batch, as their share of the mean over the whole batch.

    Args:
        config: Hyper-parameters.
        network: The actor-critic.
        params: Its parameters; the loss is differentiated with respect to them.
        extra: `target`, the target network's parameters, and `kl_cost` [].
        trajectory: [T, B] transitions; reset rows carry no loss, and stop V-trace.
        num_transitions: [] real transitions in the whole batch, by which sums are divided.

    Returns:
        The loss, and metrics that add up to the batch's when summed over its parts.
    """
    policy, mask = network.policy, trajectory.is_transition
    output, _ = network.unroll(params, trajectory)
    slow_output, _ = network.unroll(jax.lax.stop_gradient(extra["target"]), trajectory)
    learned, target, behaviour = output.policy[:-1], slow_output.policy[:-1], trajectory.behaviour["policy"]
    log_learned, log_target, log_behaviour = (
        jnp.where(mask, policy.log_prob(one, trajectory.action), 0.0) for one in (learned, target, behaviour)
    )
    values = jax.lax.stop_gradient(output.value)
    returns = vtrace(
        values,
        clip_reward(trajectory.reward * config.reward_scale, config.max_reward),
        jnp.where(mask, trajectory.discount * config.discount, 0.0),
        jnp.where(mask, jnp.exp(log_target - log_behaviour), 0.0),
        lambda_=config.lambda_,
        clip_rho=config.clip_vtrace_rho,
    )
    ratios = impact_ratios(log_learned, log_target, log_behaviour, config.clip_behaviour_rho)

    def mean(x: jax.Array) -> jax.Array:
        return masked_mean(x, mask, count=num_transitions)

    surrogate = mean(clipped_surrogate_loss(ratios, returns.targets - values[:-1], config.clip))
    value = mean(value_loss(output.value[:-1], returns.targets))
    entropy, kl = mean(policy.entropy(learned)), mean(policy.kl(target, learned))
    loss = surrogate + config.value_cost * value - config.entropy_cost * entropy
    if config.kl_cost:
        loss += extra["kl_cost"] * kl
    return loss, {
        "loss/total": loss,
        "loss/policy": surrogate,
        "loss/value": value,
        "policy/entropy": entropy,
        "policy/rho": mean(ratios),
        "policy/kl": kl,
        "policy/kl_to_behaviour": mean(policy.kl(behaviour, learned)),
        "policy/clip_fraction": mean(jnp.asarray(jnp.abs(ratios - 1) > config.clip, jnp.float32)),
        "value/mean": mean(output.value[:-1]),
        "value/target": mean(returns.targets),
    }


def impact_ratios(
    log_learned: jax.Array, log_target: jax.Array, log_behaviour: jax.Array, clip_rho: float
) -> jax.Array:
    """Computes the surrogate's ratios R = min(pi_w / pi_target, clip_rho) pi_theta / pi_w.

    Args:
        log_learned: [T, B] log-probabilities of the actions taken under theta; the only ones that get a gradient.
        log_target: [T, B] the same under the target.
        log_behaviour: [T, B] the same under the policy that acted.
        clip_rho: Largest pi_w / pi_target.

    Returns:
        [T, B].

    Source: Luo et al. 2019, arXiv:1912.00167, section 3.
    """
    fixed = jnp.minimum(log_behaviour - log_target, jnp.log(clip_rho)) - log_behaviour
    return jnp.exp(log_learned + jax.lax.stop_gradient(fixed))


def adapt_kl_cost(config: AgentConfig, kl_cost: jax.Array, kl: jax.Array) -> jax.Array:
    """Returns the weight of the divergence [] after one whose divergence was `kl` []; stays 0 if it began so."""
    factor = jnp.where(kl > 2 * config.kl_target, 1.5, jnp.where(kl < config.kl_target / 2, 0.5, 1.0))
    return jnp.where(kl_cost > 0, jnp.clip(kl_cost * factor, *_KL_COSTS), kl_cost)
