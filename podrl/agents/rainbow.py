"""Rainbow: DQN with distributions of values, noisy layers, targets over several steps and prioritized replay.

Values are distributions over atoms (C51), of a dueling head whose layers have learned noise. The noise explores: an
actor draws it anew at every step, in each environment another one. An evaluation with `evaluate.greedy` has none. A
target adds the rewards of `n_steps` steps and the target network's distribution of the action that the online network
values most, projected onto the atoms. The loss is the cross entropy with it, a sequence's priority its divergence.
Beside the loss there can be an auxiliary one (`agent.auxiliary`).

Each part can be left out: `agent.dueling`, `agent.noisy`, `agent.n_steps`, `agent.num_atoms`, and the priorities of
`replay`. With a core in its network (`agent.starts=unrolls`) its sequences begin as R2D2's do.

Source: Hessel et al. 2018, Rainbow: combining improvements in deep reinforcement learning, arXiv:1710.02298.
"""

from collections.abc import Callable
import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp
import optax

from podrl.actions import DiscreteActions
from podrl.agents.parts.atom_loss import atom_loss
from podrl.agents.parts.augmented_sequences import augment_sequences
from podrl.agents.parts.augmenting import check_augmentation
from podrl.agents.parts.auxiliary import Auxiliary
from podrl.agents.parts.interface import Agent, Batch, Partition, SequenceShape, UpdateShape, check_actions
from podrl.agents.parts.noisy_acting import make_noisy_agent
from podrl.agents.parts.optimizing import OptimizerOverRun, make_optimizer
from podrl.agents.parts.recorded import samples_of
from podrl.agents.parts.sequences import accumulate_by_sequence, resume_network, transitions_to_learn
from podrl.agents.parts.value_consistency import make_auxiliary
from podrl.config.augment import AugmentConfig
from podrl.config.auxiliary import AuxiliaryConfig
from podrl.config.config import check
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, choice, number, text
from podrl.networks.interface import AtomNetwork, Networks
from podrl.networks.model_records import AtomShape
from podrl.ops.atoms import Support
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of Rainbow.

    Attributes:
        name: `rainbow`.
        optimizer: The optimizer.
        discount: Discount of future rewards, per agent decision.
        n_steps: Steps whose rewards a target adds before it bootstraps.
        num_atoms: Atoms of a value's distribution, from `min_value` to `max_value`.
        min_value: The smallest atom, in units of the return.
        max_value: The largest atom.
        dueling: Whether the network's head adds a state's logits and each action's.
        noisy: Whether the head's layers have learned noise, by which actors explore.
        sigma: Scale of that noise at first.
        random_share: Probability of an action at random, beside the noise or in its place; also in evaluations, unless
            they are greedy (`evaluate.greedy`).
        starts: Where a sequence can start: `rows`, anywhere, for networks without a core; or `unrolls`, where an unroll
            did, with the carry that the ring keeps there.
        burn_in: Rows at a sequence's start that only warm up the carry, with `starts=unrolls`.
        length: Transitions behind those that are learned from.
        auxiliary: A loss beside the agent's own, see docs/representations.md.
        augment: Whether and how images are augmented; by default they are not.
        target_period: Calls of `learn` between two copies of the parameters to the target network.
        share_of_max: Weight of the largest divergence of a sequence in its priority; their mean has the rest.
        reward_scale: Rewards are multiplied by it, then clipped.
        max_reward: Rewards are clipped to [-max_reward, max_reward]; 0 leaves them as they are.
    """

    action_kinds: ClassVar[tuple[type, ...]] = (DiscreteActions,)

    name: str = text(100, "rainbow")
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(
            name="adam", learning_rate=6.25e-5, learning_rate_decay=False, epsilon=1.5e-4, max_grad_norm=10.0
        )
    )
    discount: float = number(0, 1, 0.99)
    n_steps: int = number(1, 1000, 3)
    num_atoms: int = number(2, 10**4, 51)
    min_value: float = number(-1e9, 1e9, -10.0)
    max_value: float = number(-1e9, 1e9, 10.0)
    dueling: bool = True
    noisy: bool = True
    sigma: float = number(0, 100, 0.5)
    random_share: float = number(0, 1, 0.0)
    starts: str = choice(("rows", "unrolls"), "rows")
    burn_in: int = number(0, 10**6, 0)
    length: int = number(1, 10**6, 1)
    auxiliary: AuxiliaryConfig = dataclasses.field(default_factory=AuxiliaryConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=lambda: AugmentConfig(kinds=()))
    target_period: int = number(1, 10**6, 2000)
    share_of_max: float = number(0, 1, 0.9)
    reward_scale: float = number(1e-9, 1e9, 1.0)
    max_reward: float = number(0, 1e9, 1.0)

    def __post_init__(self) -> None:
        """Checks values, the order of the atoms, that actors explore, and that a burn-in has a stored carry."""
        check_values(self, "agent.")
        check_values(self.optimizer, "agent.optimizer.")
        self.auxiliary.check("agent.auxiliary.")
        self.augment.check("agent.augment.")
        check(
            self.min_value < self.max_value,
            f"agent.min_value={self.min_value:g} must lie below agent.max_value={self.max_value:g}. Lower it, "
            "or raise agent.max_value.",
        )
        check(
            self.noisy or self.random_share > 0,
            "agent.noisy=False with agent.random_share=0 never explores; expected noise, or a share of random actions. "
            "Use agent.random_share=0.01, or agent.noisy=True.",
        )
        check(
            self.starts == "unrolls" or not self.burn_in,
            f"agent.burn_in={self.burn_in} has no meaning with agent.starts='rows', whose networks have no core. Use "
            "agent.burn_in=0, or agent.starts=unrolls.",
        )

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return UpdateShape(sequences=self.sequences)

    @property
    def sequences(self) -> SequenceShape:
        """The sequences that it learns from; behind a row there are those of its target and its imagined latents."""
        imagined = 0 if self.auxiliary.kind == "none" else self.auxiliary.steps
        at_rows = self.starts == "rows"
        return SequenceShape(
            burn_in=self.burn_in,
            length=self.length,
            extra=max(self.n_steps, imagined) - 1 if at_rows else 0,
            from_every_row=at_rows,
        )

    @property
    def values(self) -> AtomShape:
        """The size and shape of the network's values."""
        return AtomShape(
            support=Support(low=self.min_value, high=self.max_value, num=self.num_atoms),
            dueling=self.dueling,
            noisy=self.noisy,
            sigma=self.sigma,
            has_model=self.auxiliary.kind != "none",
            projection=self.auxiliary.projection if self.auxiliary.kind == "features" else 0,
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
    """Rainbow with a network of distributions of action values.

    Args:
        config: The hyper-parameters.
        networks: Makes the network.
        spec: The environment.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for a learning rate that decays.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.
        group_size: Environments in a group of the replay; not used, as all explore alike.

    Raises:
        ConfigError: If actions are not one choice, a network with a core is to start anywhere, or there are no images
            to augment.
    """
    check_actions(config, spec)
    check_augmentation(config.augment, AgentConfig().augment, spec)
    network = networks.atoms(config.values)
    check(
        config.starts == "unrolls" or network.rows is not None,
        "agent.starts='rows' needs a network that can evaluate a row without those before it, and this one has "
        "network.core='lstm'. Use agent.starts=unrolls, or network.core=none.",
    )
    optimizer = make_optimizer(
        config.optimizer, config.update_shape, num_updates=num_updates, ahead=ahead, by_updates=True
    )
    auxiliary = make_auxiliary(config.auxiliary, network, config.sequences)
    learn = _make_learn(config, network, auxiliary, optimizer, partition)
    agent = make_noisy_agent(network, optimizer, learn, epsilon=config.random_share)

    def init(key: jax.Array) -> LearnerState:
        state = agent.init(key)
        # A copy, as both may be donated.
        return dataclasses.replace(state, extra={"target": jax.tree.map(jnp.copy, state.params), **auxiliary.init()})

    return dataclasses.replace(agent, init=init)


def _make_learn(
    config: AgentConfig,
    network: AtomNetwork,
    auxiliary: Auxiliary,
    optimizer: OptimizerOverRun,
    partition: Partition,
) -> Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array]]:
    """Returns Rainbow's `Agent.learn`."""

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array]:
        sample, before = samples_of(batch)[0], state
        key, image_key, online_key, target_key = jax.random.split(state.key, 4)
        learned = transitions_to_learn(config.sequences, sample.trajectory)
        num_sequences, num_learned = sample.weight.shape[0], jnp.sum(learned, dtype=jnp.float32)
        counts = auxiliary.count(sample.trajectory)
        target = network.add_noise(before.extra["target"], target_key[None])

        def loss(params: PyTree, part: Sample) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
            part = augment_sequences(config.augment, image_key, part)
            part = dataclasses.replace(part, trajectory=resume_network(network, part))
            noisy = network.add_noise(params, online_key[None])
            own, (metrics, priority) = atom_loss(config, network, noisy, target, part, num_sequences, num_learned)
            beside, told = auxiliary.loss(noisy, before.extra, part, counts)
            return own + beside, ({**metrics, **told, "loss/total": own + beside}, priority)

        metrics, priority, grads = accumulate_by_sequence(loss, state.params, sample, partition)
        rate = optimizer.rate(state.step)
        state, norm = optimizer.apply(state, grads)
        target = optax.periodic_update(
            state.params, before.extra["target"], before.learner_step + 1, config.target_period
        )
        extra = {"target": target, **auxiliary.move(before.extra, metrics, counts)}
        told = {"grad/norm": norm, "loss/learning_rate": rate, "loss/weight": jnp.mean(sample.weight)}
        return dataclasses.replace(state, extra=extra, key=key), {**metrics, **told}, priority

    return learn
