"""Behavioural cloning: the policy learns to do what a data set did, whatever that earned.

It ascends the log-likelihood of the recorded actions. Every kind of actions has one, and an action mask leaves out what
was forbidden. With `agent.length` above 1 it learns from sequences, through which a recurrent core remembers; each
begins with an empty memory, as a data set has none.

Source: Pomerleau 1991, Efficient training of artificial neural networks for autonomous navigation, Neural Computation
3(1).
"""

import dataclasses

import jax
from jax import numpy as jnp

from podrl.agents.parts.acting import make_acting
from podrl.agents.parts.actor_critic import make_init, make_initial_carry
from podrl.agents.parts.interface import Agent, Batch, Partition, SequenceShape, UpdateShape
from podrl.agents.parts.optimizing import make_optimizer
from podrl.agents.parts.recorded import samples_of
from podrl.agents.parts.sequences import evaluate_transitions, resume_network
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, number, text
from podrl.networks.interface import Networks, PolicyNetwork
from podrl.ops.losses import masked_mean
from podrl.ops.minibatches import accumulate_gradients
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of behavioural cloning.

    Attributes:
        name: `bc`.
        optimizer: The optimizer.
        length: Transitions in a sequence.
    """

    name: str = text(100, "bc")
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate_decay=False, epsilon=1e-8, max_grad_norm=1e9)
    )
    length: int = number(1, 10**6, 1)

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")
        check_values(self.optimizer, "agent.optimizer.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return UpdateShape(recorded=SequenceShape(burn_in=0, length=self.length, from_every_row=True), needs_data=True)


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
    """Behavioural cloning with a network of a policy.

    Args:
        config: The hyper-parameters.
        networks: Makes the network.
        spec: The environment; not used.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for the learning rate's decay.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.

    Raises:
        ConfigError: If the network cannot be a policy's alone.
    """
    network = networks.policy()
    policy = network.distribution
    optimizer = make_optimizer(
        config.optimizer, config.update_shape, num_updates=num_updates, ahead=ahead, by_updates=True
    )

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        _, sample = samples_of(batch)
        count = jnp.sum(sample.trajectory.is_transition, dtype=jnp.float32)

        def loss(params: PyTree, part: Sample) -> tuple[jax.Array, Metrics]:
            return bc_loss(network, params, part, count)

        (_, metrics), grads = accumulate_gradients(
            loss, state.params, sample, partition.micro_batches, rolled=partition.rolls_micro_batches
        )
        told = {"loss/learning_rate": optimizer.rate(state.step), "loss/weight": jnp.mean(sample.weight)}
        state, norm = optimizer.apply(state, grads)
        return state, {**metrics, **told, "grad/norm": norm}, None

    act, act_greedy = make_acting(
        network, network.step, sample=lambda params, keys, output: policy.sample(keys, output), best=policy.mode
    )
    return Agent(
        init=make_init(network, optimizer),
        initial_carry=make_initial_carry(network),
        actor_params=lambda state: state.params,
        act=act,
        act_greedy=act_greedy,
        learn=learn,
        keep=network.keep,
    )


def bc_loss(network: PolicyNetwork, params: PyTree, sample: Sample, count: jax.Array) -> tuple[jax.Array, Metrics]:
    """Computes the weighted mean of -log pi(a|s) over real transitions, as a part's share of the whole sample's.

    Args:
        network: The policy's network.
        params: Its parameters; the loss is differentiated with respect to them.
        sample: [T, B]; a part of the sample.
        count: [] real transitions of the whole sample.

    Returns:
        The loss, and metrics.
    """
    policy, trajectory = network.distribution, resume_network(network, sample)
    output = evaluate_transitions(network, params, trajectory)
    log_prob = policy.log_prob(output, trajectory.action)
    means = {
        "loss/total": -sample.weight * log_prob,
        "policy/log_prob": log_prob,
        "policy/entropy": policy.entropy(output),
    }
    metrics = {name: masked_mean(x, trajectory.is_transition, count=count) for name, x in means.items()}
    return metrics["loss/total"], metrics
