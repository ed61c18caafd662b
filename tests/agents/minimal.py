"""The least that an agent has to be: REINFORCE with plain gradient descent, which records nothing of its acting."""

import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.actor_critic import act_by_policy, fresh_rollouts, make_init, make_initial_carry
from podrl.agents.parts.interface import Agent, Batch, UpdateShape
from podrl.networks.interface import Networks
from podrl.ops.losses import masked_mean, policy_gradient_loss
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    name: str = "minimal"
    minibatches: int = 1

    @property
    def update_shape(self) -> UpdateShape:
        return UpdateShape(minibatches=self.minibatches)


def make_agent(
    config: AgentConfig, *, networks: Networks, spec: EnvSpec, num_envs: int, num_updates: int, **_: Any
) -> Agent:
    optimizer, network = optax.sgd(1e-3), networks.actor_critic()

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        trajectory = fresh_rollouts(batch)

        def loss_of(params: PyTree) -> jax.Array:
            output, _ = network.unroll(params, trajectory)
            log_probs = network.policy.log_prob(output.policy[:-1], trajectory.action)
            return masked_mean(policy_gradient_loss(log_probs, trajectory.reward), trajectory.is_transition)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        state = dataclasses.replace(state, params=params, opt_state=opt_state)
        return state, {"loss/total": loss, "grad/norm": jnp.asarray(optax.tree.norm(grads))}, None

    act, act_greedy = act_by_policy(network, lambda output: {})
    return Agent(
        init=make_init(network, optimizer),
        initial_carry=make_initial_carry(network),
        actor_params=lambda state: state.params,
        act=act,
        act_greedy=act_greedy,
        learn=learn,
    )
