"""V-MPO: policy iteration that imitates the better half of a batch's actions within reach of the policy that acted.

A target network acts: a copy of the parameters theta that is renewed every `target_period` calls of `learn`. The E-step
(`podrl.ops.vmpo`) weights the half of a batch with the highest advantages by exp(advantage / temperature). The M-step
fits the policy to these weights, and a multiplier for each divergence from the target holds it near the target.
Temperature and multipliers are learned too, with an optimizer of their own. There are no importance weights and no
entropy bonus. Advantages are returns to the unroll's end, or lambda-returns, minus theta's own values.

An update takes one optimizer step on the whole batch, as in the paper, or `epochs` passes of `minibatches` steps, each
with its minibatch's better half, on advantages estimated once. With a lag some batches are an earlier target's.

Source: Song et al. 2019, arXiv:1909.12238, section 4 and appendix C.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.actor_critic import evaluate_values, fresh_rollouts, make_actor_critic_agent
from podrl.agents.parts.duals import take_dual_step, with_duals
from podrl.agents.parts.epochs import Experience, check_shuffle, estimate_gae, evaluate_minibatch, take_epochs
from podrl.agents.parts.interface import Agent, Batch, Partition, UpdateShape
from podrl.agents.parts.optimizing import OptimizerOverRun, make_optimizer
from podrl.agents.parts.q_learning import with_target
from podrl.agents.parts.value_scale import move_value_scale, popart_moments, with_value_scale
from podrl.config.optimizer import OptimizerConfig
from podrl.config.popart import PopArtConfig
from podrl.config.ranges import check_values, choice, number, text
from podrl.networks.interface import Network, Networks
from podrl.ops.duals import LEAST_DUAL, dual_penalty, initial_multipliers
from podrl.ops.losses import masked_mean, value_loss
from podrl.ops.minibatches import accumulate_gradients
from podrl.ops.vmpo import Weighted, vmpo_dual_loss, weigh, weight_metrics
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Trajectory


def _constant_adam() -> OptimizerConfig:
    return OptimizerConfig(name="adam", learning_rate=1e-4, learning_rate_decay=False, epsilon=1e-8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of V-MPO.

    Attributes:
        name: `vmpo`.
        optimizer: The optimizer of the network.
        dual_optimizer: The optimizer of the temperature and of the multipliers.
        discount: Discount of future rewards, per agent decision.
        lambda_: The decay of longer returns; at 1 returns reach to the unroll's end.
        top_fraction: Share of the transitions that the policy imitates, those with the highest advantages.
        target_period: Updates between two copies of the parameters to the target network, which acts.
        temperature: First temperature of the weights.
        temperature_epsilon: Divergence of the weights from equal ones that the temperature is learned for, in nats.
        kl_cost: First multiplier of each divergence from the target.
        kl_epsilon: Bound on the divergence of choices, in nats.
        mean_epsilon: Bound on the divergence in the mean of continuous actions, in nats.
        covariance_epsilon: Bound on the divergence in their covariance, in nats.
        value_cost: Weight of the value loss, 0.5 * (target - value)**2.
        epochs: Passes over the batch.
        minibatches: Optimizer steps in an epoch.
        shuffle: What a minibatch is: `environments`, unrolls of some environments; or `time`, some rows of all.
        reward_scale: Rewards are multiplied by it, then clipped.
        max_reward: Rewards are clipped to [-max_reward, max_reward]; 0 leaves them as they are.
        popart: Whether and how values are normalised, see `podrl.ops.popart`; advantages are in the same units.
    """

    name: str = text(100, "vmpo")
    optimizer: OptimizerConfig = dataclasses.field(default_factory=_constant_adam)
    dual_optimizer: OptimizerConfig = dataclasses.field(default_factory=_constant_adam)
    discount: float = number(0, 1, 0.99)
    lambda_: float = number(0, 1, 1.0)
    top_fraction: float = number(1e-6, 1, 0.5)
    target_period: int = number(1, 10**6, 10)
    temperature: float = number(LEAST_DUAL, 1e6, 1.0)
    temperature_epsilon: float = number(1e-9, 1e6, 0.1)
    kl_cost: float = number(LEAST_DUAL, 1e6, 5.0)
    kl_epsilon: float = number(1e-12, 1e6, 0.005)
    mean_epsilon: float = number(1e-12, 1e6, 0.0075)
    covariance_epsilon: float = number(1e-12, 1e6, 1e-5)
    value_cost: float = number(0, 1e6, 1.0)
    epochs: int = number(1, 1000, 1)
    minibatches: int = number(1, 4096, 1)
    shuffle: str = choice(("environments", "time"), "environments")
    reward_scale: float = number(1e-9, 1e9, 1.0)
    max_reward: float = number(0, 1e9, 0.0)
    popart: PopArtConfig = dataclasses.field(default_factory=lambda: PopArtConfig(enabled=True))

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")
        check_values(self.optimizer, "agent.optimizer.")
        check_values(self.dual_optimizer, "agent.dual_optimizer.")
        self.popart.check("agent.popart.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return UpdateShape(
            minibatches=self.minibatches, epochs=self.epochs, divides_rows=self.shuffle == "time", loops_steps=True
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
    """V-MPO with an actor-critic network.

    Args:
        config: The hyper-parameters.
        networks: Makes the network.
        spec: The environment; not used.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for learning rates that decay.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.

    Raises:
        ConfigError: If `agent.shuffle` does not fit the network.
    """
    network = networks.actor_critic()
    check_shuffle(config.shuffle, network)
    optimizer, dual_optimizer = (
        make_optimizer(section, config.update_shape, num_updates=num_updates, ahead=ahead)
        for section in (config.optimizer, config.dual_optimizer)
    )
    learn = _make_learn(config, network, (optimizer, dual_optimizer), partition)
    agent = make_actor_critic_agent(network, optimizer, lambda output: {"policy": output.policy}, learn)
    agent = dataclasses.replace(with_target(agent), actor_params=lambda state: state.extra["target"])

    def first_duals() -> PyTree:
        costs = initial_multipliers(network.policy, config.kl_cost)
        return {"temperature": jnp.float32(config.temperature), "kl_cost": costs}

    return with_value_scale(with_duals(agent, dual_optimizer, first_duals), config.popart)


def _make_learn(
    config: AgentConfig, network: Network, optimizers: tuple[OptimizerOverRun, OptimizerOverRun], partition: Partition
) -> Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, None]]:
    """Returns V-MPO's `Agent.learn`; the optimizers are those of the parameters and of the duals."""
    optimizer, dual_optimizer = optimizers
    limits = {"choices": config.kl_epsilon, "mean": config.mean_epsilon, "covariance": config.covariance_epsilon}

    def sgd_step(state: LearnerState, minibatch: Experience) -> tuple[LearnerState, Metrics]:
        mask, advantages = minibatch.select((minibatch.trajectory.is_transition, minibatch.advantages))
        count, extra = jnp.sum(mask, dtype=jnp.float32), state.extra
        weighted = weigh(minibatch, advantages, mask, extra["duals"]["temperature"], fraction=config.top_fraction)

        def loss_fn(params: PyTree, part: Weighted[Experience]) -> tuple[jax.Array, Metrics]:
            return vmpo_loss(config, network, params, extra, part, count)

        (_, metrics), grads = accumulate_gradients(
            loss_fn, state.params, weighted, partition.micro_batches, rolled=partition.rolls_micro_batches
        )
        state, norm = optimizer.apply(state, grads)
        bounds = {name: (metrics[f"policy/kl_{name}"], limits[name]) for name in extra["duals"]["kl_cost"]}
        state, losses = take_dual_step(
            dual_optimizer, state, lambda duals: vmpo_dual_loss(duals, weighted, bounds, config.temperature_epsilon)
        )
        total = metrics["loss/total"] + losses["loss/temperature"] + losses["loss/multipliers"]
        return state, {**metrics, **losses, **weight_metrics(weighted, count), "loss/total": total, "grad/norm": norm}

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        trajectory = fresh_rollouts(batch)
        experience = estimate_experience(config, network, state, trajectory, partition.micro_batches)
        moments = popart_moments(state.extra.get("popart"), experience.targets, trajectory.is_transition)
        state, metrics = take_epochs(state, experience, sgd_step, config.update_shape, rolled=partition.rolls_steps)
        metrics = {**metrics, **moments, "loss/learning_rate": optimizer.rate(state.step)}
        state, metrics = move_value_scale(config.popart, network, state, metrics, trajectory)
        calls, period = state.learner_step + 1, config.target_period
        target = optax.periodic_update(state.params, state.extra["target"], calls, period)
        return dataclasses.replace(state, extra={**state.extra, "target": target}), metrics, None

    return learn


def estimate_experience(
    config: AgentConfig, network: Network, state: LearnerState, trajectory: Trajectory, micro_batches: int = 1
) -> Experience:
    """What V-MPO computes of a trajectory [T, B] once, with the parameters before the update, in the values' units."""
    if config.update_shape.optimizer_steps == micro_batches == 1:  # As the loss does it: compiled once for both.
        outputs = network.unroll(state.params, trajectory)[0].value
    else:
        outputs = evaluate_values(network, state.params, trajectory, config.minibatches, micro_batches)
    popart = state.extra.get("popart")
    values = outputs if popart is None else popart.unnormalize(outputs)
    advantages = estimate_gae(config, trajectory, values)
    targets = values[:-1] + advantages
    if popart is not None:
        advantages, targets = advantages / popart.scale, popart.normalize(targets)
    return Experience(trajectory=trajectory, values=outputs[:-1], targets=targets, advantages=advantages)


def vmpo_loss(
    config: AgentConfig,
    network: Network,
    params: PyTree,
    extra: PyTree,
    part: Weighted[Experience],
    num_transitions: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """The loss of V-MPO's parameters on some environments of a minibatch, as their share of the loss of all of it.

    Args:
        config: Hyper-parameters.
        network: The actor-critic.
        params: Its parameters; the loss is differentiated with respect to them.
        extra: `target`, the target network's parameters, and `duals`; they get no gradient.
        part: The environments; reset rows carry no loss.
        num_transitions: [] real transitions in the whole minibatch, by which sums are divided.

    Returns:
        The loss without the terms of the duals, and metrics that add up to those of the whole minibatch.

    Source: Song et al. 2019, arXiv:1909.12238, equations 3 and 5.
    """
    policy, experience, trajectory = network.policy, part.batch, part.batch.trajectory
    output = evaluate_minibatch(network, params, experience)
    slow_output = evaluate_minibatch(network, jax.lax.stop_gradient(extra["target"]), experience)
    learned, target = output.policy, slow_output.policy
    action, behaviour, targets, mask = experience.select(
        (trajectory.action, trajectory.behaviour["policy"], experience.targets, trajectory.is_transition)
    )
    mean = functools.partial(masked_mean, mask=mask, count=num_transitions)
    imitation = masked_mean(-part.weights * policy.log_prob(learned, action), part.selected, count=1)
    kls = {name: mean(kl) for name, kl in policy.kl_parts(target, learned).items()}
    penalties = [dual_penalty(extra["duals"]["kl_cost"][name], kl) for name, kl in kls.items()]
    value = mean(value_loss(output.value, targets))
    loss = imitation + sum(penalties) + config.value_cost * value
    return loss, {
        "loss/total": loss,
        "loss/policy": imitation,
        "loss/value": value,
        "policy/entropy": mean(policy.entropy(learned)),
        "policy/kl": mean(policy.kl(target, learned)),
        "policy/kl_to_behaviour": mean(policy.kl(behaviour, learned)),
        **{f"policy/kl_{name}": kl for name, kl in kls.items()},
    }
