"""V-MPO: policy iteration that imitates the better half of a batch's actions within reach of the policy that acted.

A target network acts: a copy of the parameters theta that is renewed every `target_period` calls of `learn`. The E-step
(`podrl.ops.vmpo`) weights the half of a batch with the highest advantages by exp(advantage / temperature). The M-step
fits the policy to these weights, and a multiplier for each divergence from the target holds it near the target.
Temperature and multipliers are learned too (`podrl.ops.duals`), with an optimizer of their own. There are no importance
weights and no entropy bonus. Advantages are returns to the unroll's end, or lambda-returns, minus theta's own values.

An update takes one optimizer step, on the whole batch. With a lag some batches are an earlier target's.

Source: Song et al. 2019, arXiv:1909.12238, section 4 and appendix C.
"""

import dataclasses

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.actor_critic import evaluate_values, fresh_rollouts, make_actor_critic_agent
from podrl.agents.parts.interface import Agent, Batch, Partition, UpdateShape
from podrl.agents.parts.optimizing import OptimizerOverRun, make_optimizer
from podrl.agents.parts.value_scale import move_value_scale, popart_moments, with_value_scale
from podrl.config.optimizer import OptimizerConfig
from podrl.config.popart import PopArtConfig
from podrl.config.ranges import check_values, number, text
from podrl.networks.interface import Network, Networks
from podrl.ops.duals import LEAST_DUAL, dual_loss, dual_penalty, initial_multipliers, project_duals
from podrl.ops.losses import masked_mean, value_loss
from podrl.ops.minibatches import accumulate_gradients
from podrl.ops.returns import clip_reward, gae
from podrl.ops.vmpo import Weighted, temperature_loss, weigh_trajectory, weight_metrics
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
        return UpdateShape()


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
    """
    network = networks.actor_critic()
    optimizer, dual_optimizer = (
        make_optimizer(section, config.update_shape, num_updates=num_updates, ahead=ahead)
        for section in (config.optimizer, config.dual_optimizer)
    )

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, None]:
        trajectory = fresh_rollouts(batch)
        num_transitions = jnp.sum(trajectory.is_transition, dtype=jnp.float32)
        extra, learning_rate = state.extra, optimizer.rate(state.step)
        weighted = take_e_step(config, network, state, trajectory, partition)

        def loss_fn(params: PyTree, part: Weighted) -> tuple[jax.Array, Metrics]:
            return vmpo_loss(config, network, params, extra, part, num_transitions)

        (_, metrics), grads = accumulate_gradients(
            loss_fn, state.params, weighted, partition.micro_batches, rolled=partition.rolls_micro_batches
        )
        state, norm = optimizer.apply(state, grads)
        state, metrics = take_dual_step(config, dual_optimizer, state, weighted, metrics)
        metrics = {**metrics, "grad/norm": norm, "loss/learning_rate": learning_rate}
        state, metrics = move_value_scale(config.popart, network, state, metrics, trajectory)
        target = optax.periodic_update(state.params, extra["target"], state.learner_step + 1, config.target_period)
        return dataclasses.replace(state, extra={**state.extra, "target": target}), metrics, None

    acting = make_actor_critic_agent(network, optimizer, lambda output: {"policy": output.policy}, learn)

    def init(key: jax.Array) -> LearnerState:
        state, costs = acting.init(key), initial_multipliers(network.policy, config.kl_cost)
        duals = {"temperature": jnp.float32(config.temperature), "kl_cost": costs}
        target = jax.tree.map(jnp.copy, state.params)  # A copy, as both may be donated.
        extra = {"target": target, "duals": duals, "dual_optimizer": dual_optimizer.init(duals)}
        return dataclasses.replace(state, extra=extra)

    agent = dataclasses.replace(acting, init=init, actor_params=lambda state: state.extra["target"])
    return with_value_scale(agent, config.popart)


def take_e_step(
    config: AgentConfig, network: Network, state: LearnerState, trajectory: Trajectory, partition: Partition
) -> Weighted:
    """Estimates the advantages of a trajectory [T, B] with the parameters before the update, and weights by them."""
    if partition.micro_batches == 1:  # As the loss evaluates it, so that the compiler does it once for both.
        outputs = network.unroll(state.params, trajectory)[0].value
    else:
        outputs = evaluate_values(network, state.params, trajectory, 1, partition.micro_batches)
    popart = state.extra.get("popart")
    values = outputs if popart is None else popart.unnormalize(outputs)
    advantages = gae(
        values,
        clip_reward(trajectory.reward * config.reward_scale, config.max_reward),
        trajectory.discount * config.discount,
        trajectory.is_transition,
        lambda_=config.lambda_,
    )
    targets = values[:-1] + advantages
    if popart is not None:
        advantages, targets = advantages / popart.scale, popart.normalize(targets)
    temperature = state.extra["duals"]["temperature"]
    return weigh_trajectory(trajectory, advantages, targets, temperature, fraction=config.top_fraction)


def vmpo_loss(
    config: AgentConfig, network: Network, params: PyTree, extra: PyTree, part: Weighted, num_transitions: jax.Array
) -> tuple[jax.Array, Metrics]:
    """The loss of V-MPO's parameters on some environments of a batch, as their share of the loss of the whole batch.

    Args:
        config: Hyper-parameters.
        network: The actor-critic.
        params: Its parameters; the loss is differentiated with respect to them.
        extra: `target`, the target network's parameters, and `duals`; they get no gradient.
        part: The environments; reset rows carry no loss.
        num_transitions: [] real transitions in the whole batch, by which sums are divided.

    Returns:
        The loss without the terms of the duals, and metrics that add up to the batch's when summed over its parts.

    Source: Song et al. 2019, arXiv:1909.12238, equations 3 and 5.
    """
    policy, trajectory, mask = network.policy, part.trajectory, part.trajectory.is_transition
    output, _ = network.unroll(params, trajectory)
    slow_output, _ = network.unroll(jax.lax.stop_gradient(extra["target"]), trajectory)
    learned, target = output.policy[:-1], slow_output.policy[:-1]

    def mean(x: jax.Array) -> jax.Array:
        return masked_mean(x, mask, count=num_transitions)

    imitation = masked_mean(-part.weights * policy.log_prob(learned, trajectory.action), part.selected, count=1)
    kls = {name: mean(kl) for name, kl in policy.kl_parts(target, learned).items()}
    penalties = [dual_penalty(extra["duals"]["kl_cost"][name], kl) for name, kl in kls.items()]
    value = mean(value_loss(output.value[:-1], part.targets))
    loss = imitation + sum(penalties) + config.value_cost * value
    return loss, {
        "loss/total": loss,
        "loss/policy": imitation,
        "loss/value": value,
        "policy/entropy": mean(policy.entropy(learned)),
        "policy/kl": mean(policy.kl(target, learned)),
        "policy/kl_to_behaviour": mean(policy.kl(trajectory.behaviour["policy"], learned)),
        **{f"policy/kl_{name}": kl for name, kl in kls.items()},
        **popart_moments(extra.get("popart"), part.targets, mask, num_transitions),
    }


def take_dual_step(
    config: AgentConfig, optimizer: OptimizerOverRun, state: LearnerState, weighted: Weighted, metrics: Metrics
) -> tuple[LearnerState, Metrics]:
    """Takes the optimizer step of the duals; adds their part to `metrics`, which has the divergences.

    Source: Song et al. 2019, arXiv:1909.12238, equations 4 and 5.
    """
    limits = {"choices": config.kl_epsilon, "mean": config.mean_epsilon, "covariance": config.covariance_epsilon}
    duals = state.extra["duals"]

    def loss_fn(duals: PyTree) -> tuple[jax.Array, Metrics]:
        epsilon, selected = config.temperature_epsilon, weighted.selected
        temperature = temperature_loss(duals["temperature"], weighted.advantages, selected, epsilon)
        costs = duals["kl_cost"].items()
        terms = (dual_loss(cost, metrics[f"policy/kl_{name}"], limits[name]) for name, cost in costs)
        multipliers = jnp.asarray(sum(terms))
        return temperature + multipliers, {"loss/temperature": temperature, "loss/multipliers": multipliers}

    grads, losses = jax.grad(loss_fn, has_aux=True)(duals)
    updates, optimizer_state = optimizer.at(state.step).update(grads, state.extra["dual_optimizer"], duals)
    moved = project_duals(optax.apply_updates(duals, updates))
    extra = {**state.extra, "duals": moved, "dual_optimizer": optimizer_state}
    return dataclasses.replace(state, extra=extra), {
        **metrics,
        **losses,
        **weight_metrics(weighted),
        "loss/total": metrics["loss/total"] + losses["loss/temperature"] + losses["loss/multipliers"],
        "policy/temperature": duals["temperature"],
        **{f"policy/kl_cost_{name}": cost for name, cost in duals["kl_cost"].items()},
    }
