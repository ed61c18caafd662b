"""R2D2: Q-learning from sequences out of a prioritized replay, with a recurrent network.

Actors explore each with an epsilon of its own. A sequence begins with the core's state as the actor had it
(`stored state`), and its first `burn_in` rows only bring that state up to date with today's parameters. The rows behind
are learned from: double Q-learning over `n_steps` steps with a target network, on rescaled values. A batch's sequences
are drawn by priority, and weighted in the loss by how likely that was.

The loss is the sum of 0.5 (target - Q(s, a))^2 over a sequence's transitions, times its weight, as a mean over the
batch's sequences. Without a core, and with sequences of one transition that start at every row
(`agent.starts='rows'`, `agent.length=1`, `agent.burn_in=0`), this is Ape-X DQN. From such sequences of a data set it
learns too, best with `agent.conservative_weight`, and is then CQL for discrete actions.

Source: Kapturowski et al. 2019, Recurrent experience replay in distributed reinforcement learning, ICLR; Horgan et al.
2018, arXiv:1803.00933 (Ape-X); the numbers are those of Espeholt et al. 2020, arXiv:1910.06591 (SEED RL).
"""

import dataclasses
import functools
from typing import ClassVar

import jax
from jax import numpy as jnp
import optax

from podrl.actions import DiscreteActions
from podrl.agents.parts.conservative import conservative_gradient
from podrl.agents.parts.interface import Agent, Batch, Partition, SequenceShape, UpdateShape, check_actions
from podrl.agents.parts.optimizing import make_optimizer
from podrl.agents.parts.q_learning import (
    FEWEST_EXPLORERS,
    check_explorers,
    epsilon_ladder,
    make_explorer_agent,
    with_target,
)
from podrl.agents.parts.recorded import samples_of
from podrl.agents.parts.sequences import (
    accumulate_by_sequence,
    double_q_behind,
    double_q_of_first,
    resume_network,
    rows_to_learn,
    transitions_to_learn,
)
from podrl.config.config import check
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, choice, number, text
from podrl.networks.interface import Networks, QNetwork
from podrl.ops.losses import masked_mean, value_loss
from podrl.ops.q_values import rescale_value, sequence_priority, unscale_value
from podrl.ops.returns import clip_reward, n_step_returns
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of R2D2, and of Ape-X DQN.

    Attributes:
        name: `r2d2`.
        optimizer: The optimizer.
        discount: Discount of future rewards, per agent decision.
        n_steps: Steps whose rewards a target adds before it bootstraps.
        starts: Where a sequence can start: `unrolls`, where an unroll did, with the carry that the ring keeps there; or
            `rows`, anywhere, for networks without a core.
        burn_in: Rows at a sequence's start that only warm up the carry. With `length` it makes whole unrolls.
        length: Transitions behind those that are learned from. With `agent.starts='rows'` the targets of all of them
            have `n_steps` steps; otherwise those of the last ones have fewer, as the sequence ends.
        dueling: Whether the network's head adds a state's value and advantages.
        rescale_values: Whether the network learns h(Q), h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x.
        conservative_weight: Weight of CQL's term (`podrl.agents.parts.conservative`); 0 leaves it out.
        target_period: Calls of `learn` between two copies of the parameters to the target network.
        epsilon_base: Probability of an action at random in the first environment of each group (`replay.groups`).
        epsilon_power: That of environment i of a group of N is epsilon_base^(1 + epsilon_power i / (N - 1)).
            Evaluations have those of the first environments, or with `evaluate.greedy` none.
        share_of_max: Weight of the largest temporal difference of a sequence in its priority; their mean has the rest.
        reward_scale: Rewards are multiplied by it, then clipped.
        max_reward: Rewards are clipped to [-max_reward, max_reward]; 0 leaves them as they are.
    """

    action_kinds: ClassVar[tuple[type, ...]] = (DiscreteActions,)

    name: str = text(100, "r2d2")
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(
            name="adam", learning_rate=1e-4, learning_rate_decay=False, epsilon=1e-3, max_grad_norm=40.0
        )
    )
    discount: float = number(0, 1, 0.997)
    n_steps: int = number(1, 1000, 5)
    starts: str = choice(("rows", "unrolls"), "unrolls")
    burn_in: int = number(0, 10**6, 40)
    length: int = number(1, 10**6, 80)
    dueling: bool = True
    rescale_values: bool = True
    conservative_weight: float = number(0, 1e6, 0.0)
    target_period: int = number(1, 10**6, 2500)
    epsilon_base: float = number(0, 1, 0.4)
    epsilon_power: float = number(0, 100, 7.0)
    share_of_max: float = number(0, 1, 0.9)
    reward_scale: float = number(1e-9, 1e9, 1.0)
    max_reward: float = number(0, 1e9, 0.0)

    def __post_init__(self) -> None:
        """Checks values, and that only sequences with a stored carry have a burn-in."""
        check_values(self, "agent.")
        check_values(self.optimizer, "agent.optimizer.")
        check(
            self.starts == "unrolls" or not self.burn_in,
            f"agent.burn_in={self.burn_in} has no meaning with agent.starts='rows', whose networks have no core. Use "
            "agent.burn_in=0, or agent.starts=unrolls.",
        )

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return UpdateShape(sequences=self.sequences, recorded=self.sequences if self.starts == "rows" else None)

    @property
    def sequences(self) -> SequenceShape:
        """The sequences that it learns from. A data set has none of the carries that those of unrolls start with."""
        at_rows = self.starts == "rows"
        return SequenceShape(
            burn_in=self.burn_in,
            length=self.length,
            extra=self.n_steps - 1 if at_rows else 0,
            from_every_row=at_rows,
            fewest_in_group=FEWEST_EXPLORERS,
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
    group_size: int = 0,
) -> Agent:
    """R2D2 with a network of action values.

    Args:
        config: The hyper-parameters.
        networks: Makes the network.
        spec: The environment.
        num_envs: Environments of the whole job.
        num_updates: Number of the run's last update, for the learning rate's decay.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.
        group_size: Environments in a group of the replay; 0 for one group of all.

    Raises:
        ConfigError: If actions are not one choice, a network with a core is to start anywhere, or a group is too small.
    """
    check_actions(config, spec)
    network = networks.q(dueling=config.dueling)
    check(
        config.starts == "unrolls" or network.rows is not None,
        "agent.starts='rows' needs a network that can evaluate a row without those before it, and this one has "
        "network.core='lstm'. Use agent.starts=unrolls, or network.core=none.",
    )
    group_size = group_size or num_envs
    check_explorers(group_size, num_envs)
    optimizer = make_optimizer(
        config.optimizer, config.update_shape, num_updates=num_updates, ahead=ahead, by_updates=True
    )

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array]:
        sample, improvement = samples_of(batch)
        learned = transitions_to_learn(config.sequences, sample.trajectory)
        num_sequences, num_learned = sample.weight.shape[0], jnp.sum(learned, dtype=jnp.float32)

        def loss(params: PyTree, part: Sample) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
            return r2d2_loss(config, network, params, state.extra["target"], part, num_sequences, num_learned)

        metrics, priority, grads = accumulate_by_sequence(loss, state.params, sample, partition)
        if config.conservative_weight:
            term, slopes = conservative_gradient(config, network, state.params, improvement, partition)
            grads = jax.tree.map(jnp.add, grads, slopes)
            metrics = {**metrics, **term, "loss/total": metrics["loss/total"] + term["loss/conservative"]}
        rate = optimizer.rate(state.step)
        state, norm = optimizer.apply(state, grads)
        target = optax.periodic_update(
            state.params, state.extra["target"], state.learner_step + 1, config.target_period
        )
        told = {"grad/norm": norm, "loss/learning_rate": rate, "loss/weight": jnp.mean(sample.weight)}
        return dataclasses.replace(state, extra={"target": target}), {**metrics, **told}, priority

    epsilons = functools.partial(epsilon_ladder, base=config.epsilon_base, power=config.epsilon_power)
    return with_target(make_explorer_agent(network, optimizer, epsilons, learn, group_size=group_size))


def r2d2_loss(
    config: AgentConfig,
    network: QNetwork,
    params: PyTree,
    target: PyTree,
    sample: Sample,
    num_sequences: int,
    num_learned: jax.Array,
) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
    """R2D2's loss on some sequences of a batch, as their share of the mean over the whole batch.

    Args:
        config: Hyper-parameters.
        network: The network of action values.
        params: Its parameters; the loss is differentiated with respect to them.
        target: The target network's parameters.
        sample: [T, B] sequences; reset rows carry no loss, and end the targets' rewards.
        num_sequences: Sequences in the whole batch.
        num_learned: [] transitions in the whole batch that are learned from, by which metrics are divided.

    Returns:
        The loss, and metrics that add up to the batch's when summed over its parts, with the sequences' priorities [B].
    """
    trajectory = resume_network(network, sample, lambda carry: carry.network)
    burn_in, _ = rows_to_learn(config.sequences, len(trajectory.reward))
    if config.starts == "rows" and network.rows is not None and len(trajectory.reward) == config.n_steps:
        taken, bootstrap = double_q_of_first(network.rows, params, target, trajectory)
    else:
        taken, bootstrap = double_q_behind(network, params, target, trajectory, burn_in)
    mask = transitions_to_learn(config.sequences, trajectory)[: len(taken)]
    rewards = clip_reward(trajectory.reward * config.reward_scale, config.max_reward)
    returns = n_step_returns(
        unscale_value(bootstrap) if config.rescale_values else bootstrap,
        rewards[burn_in:],
        trajectory.discount[burn_in:] * config.discount,
        trajectory.is_transition[burn_in:],
        num_steps=config.n_steps,
    )[: len(taken)]
    targets = rescale_value(returns) if config.rescale_values else returns
    errors = targets - jax.lax.stop_gradient(taken)
    loss = jnp.sum(jnp.where(mask, sample.weight * value_loss(taken, targets), 0.0)) / num_sequences

    def mean(x: jax.Array) -> jax.Array:
        return masked_mean(x, mask, count=num_learned)

    return loss, (
        {
            "loss/total": loss,
            "value/taken": mean(taken),
            "value/target": mean(targets),
            "value/error": mean(jnp.abs(errors)),
        },
        sequence_priority(errors, mask, share_of_max=config.share_of_max),
    )
