"""IMPALA: an actor-critic that learns from slightly stale experience, corrected by V-trace.

The loss is a *mean* over real transitions, so that the learning rate means the same for any batch and any number of
devices. The original sums over the batch. Adaptive optimizers hide the difference except in two numbers, which scale
with the size N of the summed batch: a clip of 40 and an epsilon of 0.01 on a sum of N terms are 40/N and 0.01/N here.

Source: Espeholt et al. 2018, arXiv:1802.01561.
"""

import dataclasses

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.actor_critic import fresh_rollouts, make_act, make_act_greedy, make_init, make_initial_carry
from podrl.config.ranges import SIZE, check_values, choice, number, text
from podrl.networks.interface import Network, Networks
from podrl.ops.losses import masked_mean, policy_gradient_loss, value_loss
from podrl.ops.minibatches import accumulate_gradients, split_environments
from podrl.ops.optimizers import make_adam, make_rmsprop, rate_over_run
from podrl.ops.returns import clip_reward
from podrl.ops.vtrace import vtrace
from podrl.types import Agent, Batch, EnvSpec, LearnerState, Metrics, PyTree, Trajectory, UpdateShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of IMPALA.

    Attributes:
        name: `impala`.
        learning_rate: at the start of the run.
        learning_rate_decay: linearly to zero at the end of the run; if false it stays.
        discount: of future rewards, per agent decision.
        entropy_cost: weight of the entropy bonus.
        value_cost: weight of the value loss, 0.5 * (target - value)**2.
        lambda_: V-trace's trace parameter.
        clip_rho: clip of the importance ratio that decides the values' fixed point.
        clip_pg_rho: clip of the importance ratio in the policy gradient.
        reward_scale: rewards are multiplied by it, then clipped.
        max_reward: rewards are clipped to [-max_reward, max_reward]; 0 leaves them as they are.
        optimizer: `rmsprop` or `adam`.
        rmsprop_decay: of the mean square.
        epsilon: added to the root mean square (or to the mean square, see next).
        epsilon_inside_root: for `rmsprop`: false is PyTorch's form and Atari's default, true TensorFlow's.
        max_grad_norm: the whole gradient is scaled down to this global norm.
        minibatches: an update takes this many optimizer steps, each on its share of the environments.
        micro_batches: a step's gradient is summed over this many parts, one after the other: less memory, same result.
            0 leaves the choice to the run (`podrl.experience.layout.resolve_micro_batches`); unresolved it acts as 1.
        micro_batch_loop: `rolled`, the parts are one loop of the compiled program, which compiles sooner and keeps to
            less memory; `unrolled`, each is a copy of its own, which spares several devices a reduction for each part,
            and some convolutions on CPU (`podrl.experience.layout.runs_in_loops`) a slow-down of twenty times. `auto`
            leaves the choice to the run; unresolved it acts as `unrolled`.
    """

    name: str = text(100, "impala")
    learning_rate: float = number(1e-12, 10, 6e-4)
    learning_rate_decay: bool = True
    discount: float = number(0, 1, 0.99)
    entropy_cost: float = number(0, 1e6, 0.01)
    value_cost: float = number(0, 1e6, 0.5)
    lambda_: float = number(0, 1, 1.0)
    clip_rho: float = number(1e-6, 1e6, 1.0)
    clip_pg_rho: float = number(1e-6, 1e6, 1.0)
    reward_scale: float = number(1e-9, 1e9, 1.0)
    max_reward: float = number(0, 1e9, 0.0)
    optimizer: str = choice(("rmsprop", "adam"), "rmsprop")
    rmsprop_decay: float = number(0, 1, 0.99, open=True)
    epsilon: float = number(1e-15, 1e3, 1e-5)
    epsilon_inside_root: bool = False
    max_grad_norm: float = number(1e-9, 1e9, 1.0)
    minibatches: int = number(1, 256, 1)
    micro_batches: int = number(0, SIZE, 0)
    micro_batch_loop: str = choice(("auto", "rolled", "unrolled"), "auto")

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return UpdateShape(minibatches=self.minibatches)


def make_agent(
    config: AgentConfig, *, networks: Networks, spec: EnvSpec, num_envs: int, num_updates: int, ahead: float = 0.0
) -> Agent:
    """IMPALA with an actor-critic network.

    Args:
        config: The hyper-parameters.
        networks: Makes the network.
        spec: The environment; not used.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for the learning rate's decay.
        ahead: see `podrl.ops.optimizers.share_left`.
    """
    network = networks.actor_critic()
    rate_at = rate_over_run(
        config.learning_rate,
        decays=config.learning_rate_decay,
        num_updates=num_updates,
        steps_per_update=config.minibatches,
        ahead=ahead,
    )

    def optimizer(step: jax.Array) -> optax.GradientTransformation:
        return _make_optimizer(config, rate_at(step))

    micro_batches, rolled = max(1, config.micro_batches), config.micro_batch_loop == "rolled"

    @jax.jit
    def sgd_step(state: LearnerState, trajectory: Trajectory) -> tuple[LearnerState, Metrics]:
        num_transitions = jnp.sum(trajectory.is_transition, dtype=jnp.float32)

        def loss_fn(params: PyTree, part: Trajectory) -> tuple[jax.Array, Metrics]:
            return impala_loss(config, network, params, part, num_transitions)

        (_, metrics), grads = accumulate_gradients(loss_fn, state.params, trajectory, micro_batches, rolled=rolled)
        updates, opt_state = optimizer(state.step).update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = dataclasses.replace(state, params=params, opt_state=opt_state)
        return state, {**metrics, "grad/norm": optax.tree.norm(grads)}

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        rate = rate_at(state.step)
        learning_rate = rate(state.step * config.minibatches) if callable(rate) else rate
        steps = []
        for minibatch in split_environments(fresh_rollouts(batch), config.minibatches):
            state, metrics = sgd_step(state, minibatch)
            steps.append(metrics)
        metrics = jax.tree.map(lambda *values: sum(values) / len(values), *steps)
        metrics["loss/learning_rate"] = jnp.asarray(learning_rate, jnp.float32)
        return state, metrics, None

    return Agent(
        init=make_init(network, optimizer(jnp.zeros((), jnp.int32))),
        initial_carry=make_initial_carry(network),
        actor_params=lambda state: state.params,
        act=make_act(network, lambda output: {"policy": output.policy}),
        act_greedy=make_act_greedy(network),
        learn=learn,
    )


def impala_loss(
    config: AgentConfig, network: Network, params: PyTree, trajectory: Trajectory, num_transitions: jax.Array
) -> tuple[jax.Array, Metrics]:
    """IMPALA's loss on some environments of a batch, as their share of the mean over the whole batch.

    Args:
        config: hyper-parameters.
        network: the actor-critic.
        params: its parameters; the loss is differentiated with respect to them.
        trajectory: [T, B] transitions; reset rows carry no loss, and stop V-trace.
        num_transitions: [] real transitions in the whole batch, by which sums are divided.

    Returns:
        The loss, and metrics that add up to the batch's when summed over its parts.
    """
    output, _ = network.unroll(params, trajectory)
    target, behaviour, mask = output.policy[:-1], trajectory.behaviour["policy"], trajectory.is_transition
    log_probs = network.policy.log_prob(target, trajectory.action)
    log_rhos = log_probs - network.policy.log_prob(behaviour, trajectory.action)
    rhos = jnp.where(mask, jnp.exp(jax.lax.stop_gradient(log_rhos)), 0.0)
    returns = vtrace(
        jax.lax.stop_gradient(output.value),
        clip_reward(trajectory.reward * config.reward_scale, config.max_reward),
        jnp.where(mask, trajectory.discount * config.discount, 0.0),
        rhos,
        lambda_=config.lambda_,
        clip_rho=config.clip_rho,
        clip_pg_rho=config.clip_pg_rho,
    )

    def mean(x: jax.Array) -> jax.Array:
        return masked_mean(x, mask, count=num_transitions)

    policy = mean(policy_gradient_loss(log_probs, returns.advantages))
    value = mean(value_loss(output.value[:-1], returns.targets))
    entropy = mean(network.policy.entropy(target))
    loss = policy + config.value_cost * value - config.entropy_cost * entropy
    return loss, {
        "loss/total": loss,
        "loss/policy": policy,
        "loss/value": value,
        "policy/entropy": entropy,
        "policy/rho": mean(rhos),
        "policy/kl_to_behaviour": mean(network.policy.kl(behaviour, target)),
        "value/mean": mean(output.value[:-1]),
        "value/target": mean(returns.targets),
    }


def _make_optimizer(config: AgentConfig, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    if config.optimizer == "adam":
        return make_adam(learning_rate, epsilon=config.epsilon, max_grad_norm=config.max_grad_norm)
    return make_rmsprop(
        learning_rate,
        decay=config.rmsprop_decay,
        epsilon=config.epsilon,
        epsilon_inside_root=config.epsilon_inside_root,
        max_grad_norm=config.max_grad_norm,
    )
