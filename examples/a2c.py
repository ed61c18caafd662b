"""A2C: the synchronous advantage actor-critic, as an algorithm beside podrl's own.

    --config.agent.name=a2c

One optimizer step on each batch, which the newest policy must have made: its configs set `actors.lag = 0`.

Source: Mnih et al. 2016, arXiv:1602.01783, section 4; synchronous as in OpenAI baselines.
"""

import dataclasses

import jax
from jax import numpy as jnp

from podrl.agents.parts.actor_critic import fresh_rollouts, make_actor_critic_agent
from podrl.agents.parts.interface import Agent, Batch, Partition, UpdateShape
from podrl.agents.parts.optimizing import make_optimizer
from podrl.agents.parts.single_pass import make_single_pass
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, number
from podrl.networks.interface import Networks
from podrl.ops.losses import masked_mean, policy_gradient_loss, value_loss
from podrl.ops.returns import gae
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of A2C.

    Attributes:
        name: This module's name.
        optimizer: The optimizer.
        discount: Discount of future rewards, per agent decision.
        entropy_cost: Weight of the entropy bonus.
        value_cost: Weight of the value loss, 0.5 * (return - value)**2.
        lambda_: Decay of generalized advantage estimates; 1 is the n-step return of the paper.
    """

    name: str = __name__
    optimizer: OptimizerConfig = dataclasses.field(default_factory=lambda: OptimizerConfig(learning_rate=7e-4))
    discount: float = number(0, 1, 0.99)
    entropy_cost: float = number(0, 100, 0.01)
    value_cost: float = number(0, 100, 0.5)
    lambda_: float = number(0, 1, 1.0)

    def __post_init__(self) -> None:
        """Checks the values."""
        check_values(self, "agent.")
        check_values(self.optimizer, "agent.optimizer.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch: not at all."""
        return UpdateShape()


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
    """Returns A2C with an actor-critic network."""
    network = networks.actor_critic()
    optimizer = make_optimizer(config.optimizer, config.update_shape, num_updates=num_updates, ahead=ahead)

    def loss(
        state: LearnerState, params: PyTree, part: Trajectory, num_transitions: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """Returns the share of a part [T, B] in the mean over the whole batch, and metrics in the same shares."""
        output, _ = network.unroll(params, part)
        discounts, mask = part.discount * config.discount, part.is_transition
        advantages = gae(output.value, part.reward, discounts, mask, lambda_=config.lambda_)
        log_probs = network.policy.log_prob(output.policy[:-1], part.action)
        targets = jax.lax.stop_gradient(advantages + output.value[:-1])

        def mean(x: jax.Array) -> jax.Array:
            return masked_mean(x, mask, count=num_transitions)

        policy = mean(policy_gradient_loss(log_probs, advantages))
        value = mean(value_loss(output.value[:-1], targets))
        entropy = mean(network.policy.entropy(output.policy[:-1]))
        total = policy + config.value_cost * value - config.entropy_cost * entropy
        metrics = {"loss/total": total, "loss/policy": policy, "loss/value": value, "policy/entropy": entropy}
        return total, metrics

    take_steps = make_single_pass(optimizer, loss, 1, partition)

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        after, metrics = take_steps(state, fresh_rollouts(batch))
        return after, {**metrics, "loss/learning_rate": jnp.asarray(optimizer.rate(state.step))}, None

    return make_actor_critic_agent(network, optimizer, lambda output: {}, learn)
