"""What agents share that learn a policy by two critics Q(s, a): their networks, and how they act.

The first actions of a run are uniform over the environment's range. `podrl.agents.parts.critic_steps` is how they
learn.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
from jax import numpy as jnp

from podrl.agents.parts.acting import ActFunction, ActGreedyFunction, make_acting
from podrl.agents.parts.actor_critic import make_initial_carry
from podrl.agents.parts.interface import Agent, Batch, SequenceShape, UpdateShape, check_actions
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.config.config import check
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.interface import Networks, PolicyNetwork, StateValueNetwork, TwinQNetwork
from podrl.ops.distributions import Distribution
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Trajectory

_TRANSITION = SequenceShape(burn_in=0, length=1, from_every_row=True)
TRANSITIONS = UpdateShape(sequences=_TRANSITION, recorded=_TRANSITION)
RECORDED_TRANSITIONS = UpdateShape(recorded=_TRANSITION, needs_data=True)


def constant_adam() -> OptimizerConfig:
    """Returns Adam as these agents' authors use it: with one learning rate for the whole run, and no clipping."""
    return OptimizerConfig(name="adam", learning_rate=3e-4, learning_rate_decay=False, epsilon=1e-8, max_grad_norm=1e9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwinCritic:
    """An agent's networks, for actions of D numbers. Both take all of its parameters, and use their own part.

    Attributes:
        policy: The policy's.
        critic: The critics'.
        size: D.
        state_value: That of the values of states, if the agent has one.
    """

    policy: PolicyNetwork
    critic: TwinQNetwork
    size: int
    state_value: StateValueNetwork | None = None

    @property
    def distribution(self) -> Distribution:
        """The policy's distribution over actions.

        Raises:
            ValueError: If the policy is deterministic.
        """
        return self.policy.distribution

    def policy_at(self, params: PyTree, trajectory: Trajectory, start: int) -> jax.Array:
        """Evaluates the policy in T rows from `start`, 0 or 1, of [T, B]; returns what it puts out, [T, B, P]."""
        evaluate: Any = self.policy.rows
        return evaluate(params, trajectory, _rows_from(trajectory, start))

    def values_at(self, params: PyTree, trajectory: Trajectory, start: int, action: jax.Array) -> jax.Array:
        """Evaluates one action [T, B, D] in each of T rows from `start`, 0 or 1; returns both values, [T, B, 2]."""
        return self.values_of_several(params, trajectory, start, action[:, :, None])[:, :, 0]

    def values_of_several(self, params: PyTree, trajectory: Trajectory, start: int, actions: jax.Array) -> jax.Array:
        """Evaluates S actions [T, B, S, D] in each of T rows from `start`; returns both values, [T, B, S, 2]."""
        evaluate: Any = self.critic.rows
        return evaluate(params, trajectory, _rows_from(trajectory, start), actions)

    def state_value_at(self, params: PyTree, trajectory: Trajectory, start: int) -> jax.Array:
        """Evaluates states in T rows from `start`, 0 or 1, of [T, B]; returns their values, [T, B]."""
        evaluate: Any = self.state_value and self.state_value.rows
        return evaluate(params, trajectory, _rows_from(trajectory, start))


def ask_for_networks(
    config: Any,
    networks: Networks,
    spec: EnvSpec,
    *,
    deterministic: bool = False,
    bounded_mean: bool = False,
    features: int = 0,
) -> TwinCritic:
    """Returns an agent's networks.

    Args:
        config: The agent's config, with `action_kinds`.
        networks: Makes the networks.
        spec: The environment.
        deterministic: Whether the policy puts out an action in place of a distribution.
        bounded_mean: Whether it may be a Gaussian around a mean within the actions' range. Otherwise no action of a
            distribution leaves that range.
        features: Features behind the one encoder of a deterministic policy and the critics; 0 gives each its own.

    Raises:
        ConfigError: If actions are no numbers, if the network has a memory, or if its policy leaves the actions' range.
    """
    check_actions(config, spec)
    if features:
        policy, critic = networks.shared(features=features)
    else:
        squashed = not deterministic and not bounded_mean
        policy = networks.policy(squashed=squashed, deterministic=deterministic, bounded_mean=bounded_mean)
        critic = networks.twin_q()
    check(
        policy.rows is not None and critic.rows is not None,
        f"agent.name={config.name!r} learns from single transitions, for which the network must have no memory, and "
        "this one has network.core='lstm'. Use network.core=none.",
    )
    (size,) = spec.actions.struct.shape
    return TwinCritic(policy=policy, critic=critic, size=size)


def make_twin_critic_agent(
    networks: TwinCritic,
    optimizers: Mapping[str, OptimizerOverRun],
    *,
    random_steps: int,
    extra: Callable[[PyTree], Mapping[str, PyTree]],
    explore: Callable[[jax.Array, jax.Array], jax.Array],
    exploit: Callable[[jax.Array], jax.Array],
    learn: Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array]],
) -> Agent:
    """Returns an agent that acts by its policy, and first at random; only how it learns is its own.

    `LearnerState.extra["random_steps_left"]` counts the env steps of the whole job that are still random. With a lag
    actors hear later that there are none left. There are none once it has learned from a data set alone, whose run has
    no actors. It records nothing of its acting.

    Args:
        networks: Its networks.
        optimizers: Make the first states of the optimizers, by the part of the parameters: `policy`, `critic`, and
            `state_value` if there is such a network.
        random_steps: Env steps of the whole job before the policy acts.
        extra: (params) -> what else the state holds, such as targets; a copy, as both may be donated.
        explore: (keys [B], what the policy puts out [B, P]) -> actions [B, D].
        exploit: (what the policy puts out [B, P]) -> actions [B, D].
        learn: `Agent.learn`.
    """

    def init(key: jax.Array) -> LearnerState:
        state_key, policy_key, critic_key, value_key = jax.random.split(key, 4)
        params = {**networks.policy.init(policy_key), **networks.critic.init(critic_key)}
        params |= networks.state_value.init(value_key) if networks.state_value else {}
        step, learner_step = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)  # Two, as both may be donated.
        return LearnerState(
            step=step,
            learner_step=learner_step,
            params=params,
            # Their paths end in the parameters' own, by which they are laid out.
            opt_state={name: optimizer.init({name: params[name]}) for name, optimizer in optimizers.items()},
            extra={**extra(params), "random_steps_left": jnp.int32(random_steps)},
            key=state_key,
        )

    def actor_params(state: LearnerState) -> PyTree:
        return {"policy": state.params["policy"], "is_random": state.extra["random_steps_left"] > 0}

    def with_random_steps(state: LearnerState, left: jax.Array) -> LearnerState:
        return dataclasses.replace(state, extra={**state.extra, "random_steps_left": left})

    def observe(state: LearnerState, rollouts: Trajectory) -> LearnerState:
        return with_random_steps(state, jnp.maximum(state.extra["random_steps_left"] - rollouts.reward.size, 0))

    def learn_and_act(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array]:
        state, metrics, priority = learn(state, batch)
        return with_random_steps(state, jnp.int32(0)) if batch.rollouts is None else state, metrics, priority

    act, act_greedy = _act_at_random_first(networks, explore, exploit)
    return Agent(
        init=init,
        initial_carry=make_initial_carry(networks.policy),
        actor_params=actor_params,
        act=act,
        act_greedy=act_greedy,
        learn=learn_and_act,
        observe=observe,
        keep=networks.policy.keep,
    )


def _act_at_random_first(
    networks: TwinCritic,
    explore: Callable[[jax.Array, jax.Array], jax.Array],
    exploit: Callable[[jax.Array], jax.Array],
) -> tuple[ActFunction, ActGreedyFunction]:
    """Returns `Agent.act`, uniform over [-1, 1] while that is told, else as `explore` says, and `Agent.act_greedy`."""

    def sample(params: PyTree, keys: jax.Array, output: jax.Array) -> jax.Array:
        both = jax.vmap(jax.random.split)(keys)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (networks.size,), minval=-1.0, maxval=1.0))(both[:, 1])
        return jnp.where(params["is_random"], uniform, explore(both[:, 0], output))

    return make_acting(networks.policy, networks.policy.step, sample=sample, best=exploit)


def _rows_from(trajectory: Trajectory, start: int) -> jax.Array:
    """Returns the numbers of T rows from `start`, [T, B] int32."""
    rows = start + jnp.arange(len(trajectory.reward), dtype=jnp.int32)
    return jnp.broadcast_to(rows[:, None], trajectory.reward.shape)
