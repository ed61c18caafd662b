"""ROSMO: offline learning with MuZero's model, and policies improved by looking one step ahead with it.

The model is unrolled along recorded actions, `unroll_steps` of them. At every state it learns to predict the reward
that led there, the return over `n_steps` steps, and an improved policy. That policy comes from a target network, a copy
of the parameters: each action's advantage is what its predicted reward and next value promise beyond the state's value.
Actions of the data that the target network finds better than the state's value are imitated in addition, which keeps
the policy near the data. Behind an episode's end the model learns that nothing is earned any more.

With `improvement='mcts'` the policy comes from a tree search, and nothing is imitated: MuZero Unplugged.

Source: Liu et al. 2023, Efficient offline policy optimization with a learned model, arXiv:2210.05980, section 3;
Schrittwieser et al. 2021, Online and offline reinforcement learning by planning with a learned model, arXiv:2104.06294.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp
import optax

from podrl.actions import DiscreteActions
from podrl.agents.parts.interface import Agent, Batch, Partition, SequenceShape, UpdateShape, check_actions
from podrl.agents.parts.model_acting import make_model_agent
from podrl.agents.parts.model_unroll import ModelTargets, count_known, make_targets, unroll_model
from podrl.agents.parts.optimizing import OptimizerOverRun, make_optimizer
from podrl.agents.parts.planning import IMPROVEMENTS, Improve, make_improvement
from podrl.agents.parts.q_learning import with_target
from podrl.agents.parts.recorded import samples_of
from podrl.agents.parts.sequences import resume_network
from podrl.config.config import check
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, choice, number, text
from podrl.networks.interface import ModelNetwork, Networks
from podrl.networks.model_records import ModelShape
from podrl.ops.losses import cross_entropy_loss, masked_mean
from podrl.ops.minibatches import accumulate_gradients
from podrl.ops.two_hot import decode_number, encode_number
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Sample, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of ROSMO, and of MuZero Unplugged.

    Attributes:
        name: `rosmo`.
        optimizer: The optimizer.
        discount: Discount of future rewards, per agent decision.
        unroll_steps: Actions that the model is unrolled along.
        n_steps: Steps whose rewards a value's target adds before it bootstraps.
        improvement: How a policy is improved: `one_step` looks at all actions, `sampled` at some of them, and `mcts`
            searches a tree, which is MuZero Unplugged and needs the package mctx.
        samples: Actions that `sampled` looks at, drawn from the target network's policy.
        simulations: Simulations of each tree search.
        max_advantage: Advantages are clipped to this size before their exponential is taken; 0 leaves them unchanged.
        value_cost: Weight of the value's loss; that of reward and policy is 1.
        behaviour_cost: Weight of imitating the data's actions that have an advantage; `mcts` does not imitate.
        target_period: Calls of `learn` between two copies of the parameters to the target network.
        num_bins: Bins of values and rewards, one apart after rescaling, an odd number: 21 reach to 117, 601 to 58,706.
        latent: What the model's states are: a `vector`, or an `image` for observations of one image.
        latent_size: Entries of a latent vector, and units of each layer behind it.
        channels: Channels of a latent image.
        representation_blocks: Residual blocks behind the four that make a latent image of an observation.
        transition_blocks: Residual blocks from one latent image to the next.
        prediction_blocks: Residual blocks from a latent image to policy and value.
        reward_scale: Rewards are multiplied by it, then clipped.
        max_reward: Rewards are clipped to [-max_reward, max_reward]; 0 leaves them as they are.
    """

    action_kinds: ClassVar[tuple[type, ...]] = (DiscreteActions,)

    name: str = text(100, "rosmo")
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(
            name="adamw", learning_rate=7e-4, epsilon=1e-8, max_grad_norm=5.0, weight_decay=1e-4, warmup_updates=1000
        )
    )
    discount: float = number(0, 1, 0.988)
    unroll_steps: int = number(1, 1000, 5)
    n_steps: int = number(1, 1000, 5)
    improvement: str = choice(IMPROVEMENTS, "one_step")
    samples: int = number(1, 10**4, 4)
    simulations: int = number(1, 10**4, 4)
    max_advantage: float = number(0, 1e9, 0.0)
    value_cost: float = number(0, 1e9, 0.25)
    behaviour_cost: float = number(0, 1e9, 0.2)
    target_period: int = number(1, 10**6, 200)
    num_bins: int = number(3, 10**5, 601)
    latent: str = choice(("image", "vector"), "vector")
    latent_size: int = number(1, 10**5, 32)
    channels: int = number(2, 10**4, 64)
    representation_blocks: int = number(0, 100, 6)
    transition_blocks: int = number(0, 100, 2)
    prediction_blocks: int = number(0, 100, 2)
    reward_scale: float = number(1e-9, 1e9, 1.0)
    max_reward: float = number(0, 1e9, 0.0)

    def __post_init__(self) -> None:
        """Checks values, and that one of the bins is zero."""
        check_values(self, "agent.")
        check_values(self.optimizer, "agent.optimizer.")
        check(
            self.num_bins % 2 == 1,
            f"agent.num_bins={self.num_bins} has no bin for zero. Use an odd number, such as {self.num_bins + 1}.",
        )

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        sequence = SequenceShape(burn_in=0, length=self.unroll_steps, extra=self.n_steps, from_every_row=True)
        return UpdateShape(recorded=sequence, needs_data=True)

    @property
    def model_shape(self) -> ModelShape:
        """The size and shape of the model."""
        return ModelShape(
            num_bins=self.num_bins,
            latent=self.latent,
            size=self.latent_size,
            channels=self.channels,
            blocks=(self.representation_blocks, self.transition_blocks, self.prediction_blocks),
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
    """ROSMO with a learned model. It acts by the policy that the model predicts, without looking ahead.

    Args:
        config: The hyper-parameters.
        networks: Makes the network.
        spec: The environment.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for a learning rate that decays.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.

    Raises:
        ConfigError: If actions are not one choice, if the network cannot be made, or if mctx is needed and absent.
    """
    check_actions(config, spec)
    network = networks.model(config.model_shape)
    improve = make_improvement(config, network)
    optimizer = make_optimizer(
        config.optimizer, config.update_shape, num_updates=num_updates, ahead=ahead, by_updates=True
    )

    return with_target(
        make_model_agent(network, optimizer, _make_learn(config, network, improve, optimizer, partition))
    )


def _make_learn(
    config: AgentConfig, network: ModelNetwork, improve: Improve, optimizer: OptimizerOverRun, partition: Partition
) -> Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, None]]:
    """Returns ROSMO's `Agent.learn`."""

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        sample, before = samples_of(batch)[0], state
        key, own_key = jax.random.split(state.key)
        counts = count_known(config, sample)

        def loss_of(params: PyTree, part: Sample) -> tuple[jax.Array, Metrics]:
            trajectory = resume_network(network, part)
            targets = make_targets(config, network, improve, before.extra["target"], trajectory, own_key)
            return rosmo_loss(config, network, params, trajectory, targets, part.weight, counts)

        (_, metrics), grads = accumulate_gradients(
            loss_of, state.params, sample, partition.micro_batches, rolled=partition.rolls_micro_batches
        )
        told = {"loss/learning_rate": optimizer.rate(state.step)}
        state, norm = optimizer.apply(state, grads)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(counts["rows"] > 0, new, old),  # Weights would decay without a transition, too.
            (state.params, state.opt_state),
            (before.params, before.opt_state),
        )
        target = optax.periodic_update(params, before.extra["target"], before.learner_step + 1, config.target_period)
        state = dataclasses.replace(state, params=params, opt_state=opt_state, extra={"target": target}, key=key)
        return state, {**metrics, **told, "grad/norm": norm}, None

    return learn


def rosmo_loss(
    config: AgentConfig,
    network: ModelNetwork,
    params: PyTree,
    trajectory: Trajectory,
    targets: ModelTargets,
    weight: jax.Array,
    counts: Mapping[str, jax.Array],
) -> tuple[jax.Array, Metrics]:
    """ROSMO's loss on some sequences of a batch, as their share of the mean over the whole batch.

    Args:
        config: Hyper-parameters.
        network: The model.
        params: Its parameters; the loss is differentiated with respect to them.
        trajectory: [T, B], with the network's carry.
        targets: What the model learns along them.
        weight: [B]; of each sequence in the loss.
        counts: [] each, of the whole batch, by which sums are divided; see `count_known`.

    Returns:
        The loss, and metrics that add up to the batch's when summed over its parts.

    Source: Liu et al. 2023, arXiv:2210.05980, section 3.
    """
    output = unroll_model(network, params, trajectory, targets)
    reward_logits, policy = output.reward[:, 1:], output.policy

    def over_rows(x: jax.Array) -> jax.Array:
        return masked_mean(x, targets.is_known, count=counts["rows"])

    def over_steps(x: jax.Array) -> jax.Array:
        return masked_mean(x, targets.is_known_step, count=counts["steps"])

    def imitated(x: jax.Array) -> jax.Array:
        return masked_mean(x, targets.is_better, count=counts["actions"])

    each = weight[:, None]
    rewards, values = (encode_number(x, config.num_bins) for x in (targets.reward, targets.value))
    losses = {
        "loss/reward": over_steps(each * cross_entropy_loss(rewards, reward_logits)),
        "loss/value": over_rows(each * cross_entropy_loss(values, output.value)),
        "loss/policy": over_rows(each * cross_entropy_loss(targets.policy, policy)),
        "loss/behaviour": imitated(-each * network.policy.log_prob(policy, targets.taken)),
    }
    total = losses["loss/reward"] + losses["loss/policy"]
    total += config.value_cost * losses["loss/value"] + config.behaviour_cost * losses["loss/behaviour"]
    return total, {
        **losses,
        "loss/total": total,
        "model/reward_error": over_steps(jnp.abs(decode_number(reward_logits) - targets.reward)),
        "value/error": over_rows(jnp.abs(decode_number(output.value) - targets.value)),
        "value/target": over_rows(targets.value),
        "policy/entropy": over_rows(network.policy.entropy(policy)),
        "policy/imitated": imitated(jnp.ones_like(targets.value)),
    }
