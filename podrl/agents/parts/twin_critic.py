"""What agents share that learn a policy by two critics Q(s, a), from single transitions out of a ring.

Critics learn from the smaller value of their two targets, since the best of noisy values is too large on average. The
first actions of a run are uniform over the environment's range. A ring that draws by priority gets the critics' errors,
and weights their loss.

Source: Fujimoto et al. 2018, arXiv:1802.09477, section 4.2 (clipped double Q-learning) and appendix C.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.actor_critic import make_initial_carry
from podrl.agents.parts.interface import Agent, Batch, Partition, SequenceShape, UpdateShape, check_actions
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.agents.parts.sequences import accumulate_by_sequence, resume_network
from podrl.config.config import check
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.interface import Networks, PolicyNetwork, TwinQNetwork
from podrl.ops.distributions import Distribution
from podrl.ops.keys import step_keys
from podrl.ops.losses import masked_mean, value_loss
from podrl.ops.minibatches import accumulate_gradients
from podrl.ops.q_values import sequence_priority
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Sample, Timestep, Trajectory

TRANSITIONS = UpdateShape(sequences=SequenceShape(burn_in=0, length=1, from_every_row=True))

Optimizers = Mapping[str, OptimizerOverRun]  # By the part of the parameters: `policy`, `critic`.


def constant_adam() -> OptimizerConfig:
    """Returns Adam as these agents' authors use it: with one learning rate for the whole run, and no clipping."""
    return OptimizerConfig(
        name="adam", learning_rate=3e-4, learning_rate_decay=False, epsilon=1e-8, max_grad_norm=1e9
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwinCritic:
    """An agent's networks, for actions of D numbers. Both take all of its parameters, and use their own part.

    Attributes:
        policy: The policy's.
        critic: The critics'.
        size: D.
    """

    policy: PolicyNetwork
    critic: TwinQNetwork
    size: int

    @property
    def distribution(self) -> Distribution:
        """The policy's distribution over actions.

        Raises:
            ValueError: If the policy is deterministic.
        """
        if self.policy.policy is None:
            raise ValueError("Found a deterministic policy; expected a distribution over actions.")
        return self.policy.policy

    def policy_at(self, params: PyTree, trajectory: Trajectory, start: int) -> jax.Array:
        """Evaluates the policy in T rows from `start`, 0 or 1, of [T, B]; returns what it puts out, [T, B, P]."""
        evaluate: Any = self.policy.rows
        return evaluate(params, trajectory, _rows_from(trajectory, start))

    def values_at(self, params: PyTree, trajectory: Trajectory, start: int, action: jax.Array) -> jax.Array:
        """Evaluates one action [T, B, D] in each of T rows from `start`, 0 or 1; returns both values, [T, B, 2]."""
        evaluate: Any = self.critic.rows
        return evaluate(params, trajectory, _rows_from(trajectory, start), action[:, :, None])[:, :, 0]


def ask_for_networks(config: Any, networks: Networks, spec: EnvSpec, *, deterministic: bool = False) -> TwinCritic:
    """Returns an agent's networks.

    Args:
        config: The agent's config, with `action_kinds`.
        networks: Makes the networks.
        spec: The environment.
        deterministic: Whether the policy puts out an action in place of a distribution.

    Raises:
        ConfigError: If actions are no numbers, if the network has a memory, or if its policy leaves the actions' range.
    """
    check_actions(config, spec)
    policy = networks.policy(squashed=not deterministic, deterministic=deterministic)
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
    optimizers: Optimizers,
    *,
    random_steps: int,
    extra: Callable[[PyTree], Mapping[str, PyTree]],
    explore: Callable[[jax.Array, jax.Array], jax.Array],
    exploit: Callable[[jax.Array], jax.Array],
    learn: Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array]],
) -> Agent:
    """Returns an agent that acts by its policy, and first at random; only how it learns is its own.

    `LearnerState.extra["random_steps_left"]` counts the env steps of the whole job that are still random. With a lag
    actors hear later that there are none left. It records nothing of its acting.

    Args:
        networks: Its networks.
        optimizers: Make the first states of the optimizers, one for each part of the parameters.
        random_steps: Env steps of the whole job before the policy acts.
        extra: (params) -> what else the state holds, such as targets; a copy, as both may be donated.
        explore: (keys [B], what the policy puts out [B, P]) -> actions [B, D].
        exploit: (what the policy puts out [B, P]) -> actions [B, D].
        learn: `Agent.learn`.
    """
    policy = networks.policy

    def init(key: jax.Array) -> LearnerState:
        state_key, policy_key, critic_key = jax.random.split(key, 3)
        params = {**policy.init(policy_key), **networks.critic.init(critic_key)}
        return LearnerState(
            step=jnp.zeros((), jnp.int32),
            learner_step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={name: optimizer.init(params[name]) for name, optimizer in optimizers.items()},
            extra={**extra(params), "random_steps_left": jnp.int32(random_steps)},
            key=state_key,
        )

    def actor_params(state: LearnerState) -> PyTree:
        return {"policy": state.params["policy"], "is_random": state.extra["random_steps_left"] > 0}

    def observe(state: LearnerState, rollouts: Trajectory) -> LearnerState:
        left = jnp.maximum(state.extra["random_steps_left"] - rollouts.reward.size, 0)
        return dataclasses.replace(state, extra={**state.extra, "random_steps_left": left})

    def act(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree, PyTree]:
        output, carry = policy.step(params, timestep, carry)
        explore_keys, random_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (networks.size,), minval=-1.0, maxval=1.0))(random_keys)
        action = jnp.where(params["is_random"], uniform, explore(explore_keys, output))
        return action, {}, policy.remember(carry, action)

    def act_greedy(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree]:
        output, carry = policy.step(params, timestep, carry)
        action = exploit(output)
        return action, policy.remember(carry, action)

    return Agent(
        init=init,
        initial_carry=make_initial_carry(policy),
        actor_params=actor_params,
        act=act,
        act_greedy=act_greedy,
        learn=learn,
        observe=observe,
        keep=policy.keep,
    )


def noise_keys(key: jax.Array, trajectory: Trajectory) -> jax.Array:
    """Returns a key for each row [T, B] of a sample, the same on any number of devices and in any part of it."""
    by_sequence = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, trajectory.env_index)
    return jax.vmap(step_keys, in_axes=(None, 0))(by_sequence, jnp.arange(len(trajectory.reward)))


def bootstrap(config: Any, trajectory: Trajectory, next_value: jax.Array) -> jax.Array:
    """Computes the targets r + discount V(s') of real transitions, zero on reset rows; [T, B] without a gradient.

    Args:
        config: The agent's config, with `reward_scale` and `discount`.
        trajectory: [T, B]. A terminal's discount of 0 leaves out its next value; a truncated episode's does not.
        next_value: [T, B] of rows 1 to T.
    """
    targets = trajectory.reward * config.reward_scale + trajectory.discount * config.discount * next_value
    return jax.lax.stop_gradient(jnp.where(trajectory.is_transition, targets, 0.0))


def take_critic_step(
    networks: TwinCritic,
    optimizer: OptimizerOverRun,
    state: LearnerState,
    sample: Sample,
    targets_of: Callable[[Trajectory], jax.Array],
    partition: Partition,
) -> tuple[LearnerState, Metrics, jax.Array]:
    """Takes one optimizer step of the critics, down the mean of the weighted 0.5 (target - Q)^2, summed over both.

    Args:
        networks: The agent's networks.
        optimizer: The critics' optimizer.
        state: The state.
        sample: [T, B]; reset rows carry no loss.
        targets_of: (part of the trajectory, with the network's carry) -> targets [T, B] in the return's units.
        partition: How the update goes through its batch.

    Returns:
        The state, metrics and the sequences' priorities [B].
    """
    count = jnp.sum(sample.trajectory.is_transition, dtype=jnp.float32)

    def loss_of(params: PyTree, part: Sample) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
        trajectory = resume_network(networks.policy, part)
        targets, mask = targets_of(trajectory)[..., None], trajectory.is_transition
        values = networks.values_at({"critic": params}, trajectory, 0, trajectory.action)
        errors = jnp.mean(jnp.abs(targets - jax.lax.stop_gradient(values)), axis=-1)
        loss = masked_mean(part.weight * jnp.sum(value_loss(values, targets), axis=-1), mask, count=count)
        means = {"taken": jnp.mean(values, axis=-1), "target": targets[..., 0], "error": errors}
        metrics = {f"value/{name}": masked_mean(x, mask, count=count) for name, x in means.items()}
        return loss, ({"loss/value": loss, **metrics}, sequence_priority(errors, mask, share_of_max=1.0))

    metrics, priority, grads = accumulate_by_sequence(loss_of, state.params["critic"], sample, partition)
    state, norm = _move(optimizer, state, "critic", grads)
    return state, {**metrics, "grad/critic_norm": norm, "loss/weight": jnp.mean(sample.weight)}, priority


def take_policy_step(
    networks: TwinCritic,
    optimizer: OptimizerOverRun,
    state: LearnerState,
    sample: Sample,
    row_loss: Callable[[PyTree, Trajectory], tuple[jax.Array, Mapping[str, jax.Array]]],
    partition: Partition,
) -> tuple[LearnerState, Metrics]:
    """Takes one optimizer step of the policy, down the mean of its loss over real transitions.

    Args:
        networks: The agent's networks.
        optimizer: The policy's optimizer.
        state: The state.
        sample: [T, B].
        row_loss: (params, part of the trajectory, with the network's carry) -> the loss of each row [T, B], and what to
            tell the means of, [T, B] by name. Differentiated by `params["policy"]`.
        partition: How the update goes through its batch.

    Returns:
        The state, and metrics.
    """
    count = jnp.sum(sample.trajectory.is_transition, dtype=jnp.float32)

    def loss_of(params: PyTree, part: Sample) -> tuple[jax.Array, Metrics]:
        trajectory = resume_network(networks.policy, part)
        losses, told = row_loss({**state.params, "policy": params}, trajectory)
        means = {
            name: masked_mean(x, trajectory.is_transition, count=count)
            for name, x in {"loss/policy": losses, **told}.items()
        }
        return means["loss/policy"], means

    (_, metrics), grads = accumulate_gradients(
        loss_of, state.params["policy"], sample, partition.micro_batches, rolled=partition.rolls_micro_batches
    )
    state, norm = _move(optimizer, state, "policy", grads)
    return state, {**metrics, "grad/policy_norm": norm}


def total_metrics(metrics: Metrics) -> Metrics:
    """Returns the metrics with what every agent owes: the sum of the losses, and the norm of the whole gradient."""
    norms = [metrics["grad/critic_norm"], metrics["grad/policy_norm"]]
    loss = metrics["loss/value"] + metrics["loss/policy"]
    return {**metrics, "loss/total": loss, "grad/norm": jnp.linalg.norm(jnp.stack(norms))}


def _move(
    optimizer: OptimizerOverRun, state: LearnerState, part: str, grads: PyTree
) -> tuple[LearnerState, jax.Array]:
    """Takes one step of a part of the parameters; returns the state and the gradient's norm before clipping."""
    params, opt_state = optimizer.move(state.step, state.params[part], state.opt_state[part], grads)
    moved = dataclasses.replace(
        state, params={**state.params, part: params}, opt_state={**state.opt_state, part: opt_state}
    )
    return moved, jnp.asarray(optax.tree.norm(grads))


def _rows_from(trajectory: Trajectory, start: int) -> jax.Array:
    """Returns the numbers of T rows from `start`, [T, B] int32."""
    rows = start + jnp.arange(len(trajectory.reward), dtype=jnp.int32)
    return jnp.broadcast_to(rows[:, None], trajectory.reward.shape)
