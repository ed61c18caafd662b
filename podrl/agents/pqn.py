"""PQN: Q-learning on the newest experience alone, without replay and without a target network.

What keeps it stable is layer normalisation in the network, many environments, and targets over many steps: Q(lambda),
computed once per update from the values that the actors recorded. Then come `epochs` passes of `minibatches` optimizer
steps each. The actors explore by taking random actions, ever fewer of them. The targets are those of the policy that
acted, so configs act with the newest parameters (`actors.lag=0`).

Source: Gallici et al. 2024, Simplifying deep temporal difference learning, arXiv:2407.04811, algorithm 1.
"""

from collections.abc import Callable
import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp

from podrl.actions import DiscreteActions
from podrl.agents.parts.actor_critic import evaluate_values, fresh_rollouts
from podrl.agents.parts.epochs import Experience, check_shuffle, evaluate_minibatch, take_epochs, value_metrics
from podrl.agents.parts.interface import Agent, Batch, Partition, UpdateShape, check_actions
from podrl.agents.parts.optimizing import OptimizerOverRun, make_optimizer
from podrl.agents.parts.q_learning import fall_linearly, make_q_agent
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, choice, number, text
from podrl.networks.interface import Networks, QNetwork
from podrl.ops.losses import masked_mean, value_loss
from podrl.ops.minibatches import accumulate_gradients
from podrl.ops.q_values import value_of_action
from podrl.ops.returns import clip_reward, lambda_returns
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of PQN.

    Attributes:
        name: `pqn`.
        optimizer: The optimizer.
        discount: Discount of future rewards, per agent decision.
        lambda_: Weight of the longer returns in the targets; 0 looks one step ahead.
        epsilon_start: Probability of an action at random at the start of the run.
        epsilon_end: Probability of an action at random once it has fallen.
        epsilon_decay: Share of the run over which it falls linearly.
        normalization: `layer` normalises each layer of the network before its activation function; `none` leaves them
            as they are.
        reward_scale: Rewards are multiplied by it, then clipped.
        max_reward: Rewards are clipped to [-max_reward, max_reward]; 0 leaves them as they are.
        epochs: Passes over the batch.
        minibatches: Optimizer steps in an epoch.
        shuffle: What an epoch deals to its minibatches: `environments`, whole unrolls of some environments, which
            recurrent networks need; or `time`, some rows of every environment, which mixes better and takes a number of
            environments that need not divide by `minibatches`, but an `actors.unroll_length` that does.
    """

    action_kinds: ClassVar[tuple[type, ...]] = (DiscreteActions,)

    name: str = text(100, "pqn")
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(name="radam", learning_rate=2.5e-4, epsilon=1e-8, max_grad_norm=10.0)
    )
    discount: float = number(0, 1, 0.99)
    lambda_: float = number(0, 1, 0.65)
    epsilon_start: float = number(0, 1, 1.0)
    epsilon_end: float = number(0, 1, 0.05)
    epsilon_decay: float = number(1e-6, 1, 0.1)
    normalization: str = choice(("layer", "none"), "layer")
    reward_scale: float = number(1e-9, 1e9, 1.0)
    max_reward: float = number(0, 1e9, 0.0)
    epochs: int = number(1, 1000, 2)
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
    """PQN with a network of action values.

    Args:
        config: The hyper-parameters.
        networks: Makes the network.
        spec: The environment.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for the decays.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.

    Raises:
        ConfigError: if actions are not one choice, or `agent.shuffle` does not fit the network.
    """
    check_actions(config, spec)
    network = networks.q(normalization=config.normalization)
    check_shuffle(config.shuffle, network)
    optimizer = make_optimizer(config.optimizer, config.update_shape, num_updates=num_updates, ahead=ahead)
    epsilon_at = fall_linearly(
        config.epsilon_start, config.epsilon_end, config.epsilon_decay, num_updates=num_updates, ahead=ahead
    )
    learn = _make_learn(config, network, optimizer, epsilon_at, partition)
    return make_q_agent(network, optimizer, epsilon_at, learn)


def _make_learn(
    config: AgentConfig,
    network: QNetwork,
    optimizer: OptimizerOverRun,
    epsilon_at: Callable[[jax.Array], jax.Array],
    partition: Partition,
) -> Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, None]]:
    """Returns PQN's `Agent.learn`."""
    micro_batches = partition.micro_batches

    def sgd_step(state: LearnerState, minibatch: Experience) -> tuple[LearnerState, Metrics]:
        num_transitions = jnp.sum(minibatch.select(minibatch.trajectory.is_transition), dtype=jnp.float32)

        def loss_fn(params: PyTree, part: Experience) -> tuple[jax.Array, Metrics]:
            return pqn_loss(network, params, part, num_transitions)

        (_, metrics), grads = accumulate_gradients(
            loss_fn, state.params, minibatch, micro_batches, rolled=partition.rolls_micro_batches
        )
        state, norm = optimizer.apply(state, grads)
        return state, {**metrics, "grad/norm": norm}

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        schedules = {"loss/learning_rate": optimizer.rate(state.step), "policy/epsilon": epsilon_at(state.step)}
        experience = estimate_targets(config, network, state.params, fresh_rollouts(batch), micro_batches)
        state, metrics = take_epochs(state, experience, sgd_step, config.update_shape, rolled=partition.rolls_steps)
        return state, {**metrics, **schedules, **value_metrics(experience)}, None

    return learn


def estimate_targets(
    config: AgentConfig, network: QNetwork, params: PyTree, trajectory: Trajectory, micro_batches: int = 1
) -> Experience:
    """What PQN computes of a trajectory [T, B] once, with the parameters at the update's start.

    Values are those of the best actions, as the actors recorded them; behind the last row it is the learner's.
    """
    last = evaluate_values(network, params, trajectory, config.minibatches, micro_batches, last_only=True)
    values = jnp.concatenate([trajectory.behaviour["value"], last[-1:]])
    targets = lambda_returns(
        values,
        clip_reward(trajectory.reward * config.reward_scale, config.max_reward),
        trajectory.discount * config.discount,
        trajectory.is_transition,
        lambda_=config.lambda_,
    )
    values = values[:-1]
    return Experience(trajectory=trajectory, values=values, targets=targets, advantages=targets - values)


def pqn_loss(
    network: QNetwork, params: PyTree, experience: Experience, num_transitions: jax.Array
) -> tuple[jax.Array, Metrics]:
    """PQN's loss, 0.5 * (target - Q(s, a))**2, on some environments of a minibatch, as their share of its mean.

    Args:
        network: The network of action values.
        params: Its parameters; the loss is differentiated with respect to them.
        experience: The minibatch; reset rows carry no loss.
        num_transitions: [] real transitions in the whole minibatch, by which sums are divided.

    Returns:
        The loss, and metrics that add up to the minibatch's when summed over its parts.
    """
    trajectory = experience.trajectory
    q_values = evaluate_minibatch(network, params, experience).q_values
    action, targets, mask = experience.select((trajectory.action, experience.targets, trajectory.is_transition))
    taken = value_of_action(q_values, action)

    def mean(x: jax.Array) -> jax.Array:
        return masked_mean(x, mask, count=num_transitions)

    loss = mean(value_loss(taken, targets))
    is_greedy = taken == jnp.max(q_values, axis=-1)
    return loss, {
        "loss/total": loss,
        "value/taken": mean(taken),
        "value/error": mean(jnp.abs(targets - taken)),
        "policy/greedy": mean(is_greedy.astype(jnp.float32)),
    }
