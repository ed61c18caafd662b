"""MISA: offline learning by a lower bound of the mutual information between recorded states and actions.

Two critics and a squashed Gaussian policy learn from a data set alone. Critics overestimate actions that are not in it,
and a policy prefers those. So both also maximise a lower bound of I(S; A), see `podrl.ops.mutual_information`. With the
recorded action a, each row adds:

    critics:  critic_information_cost * gap,  gap = log mean e^Q(s, a') - Q(s, a),  a' ~ pi(a'|s)
    policy:   temperature * log pi(a'|s) - min Q(s, a')
              - policy_information_cost * log pi(a|s) + tilted_cost * log pi(a"|s),  a" ~ pi(a"|s) e^Q(s, a")

The last line is the gradient of the bound `tilted` by the policy, if both costs are the same. The samples a" come from
chains that start at the recorded actions (`podrl.agents.parts.tilted`). The bound `dv` has one mean over all states in
the gap, and `ba` has no gap. Targets have no entropy. The temperature is learned as in SAC.
`tilted` without the policy's costs is conservative Q-learning with the policy as its prior. `ba` clones the data beside
maximising values, as TD3+BC does. Without `value_weight` the second line is left out, and `ba` is behavioural cloning.

Source: Ma et al. 2022, arXiv:2210.07484, section 4; most numbers are those of their code.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp
import optax

from podrl.actions import ContinuousActions
from podrl.agents.parts.critic_steps import (
    bootstrap,
    noise_keys,
    take_critic_step,
    take_step,
    total_metrics,
)
from podrl.agents.parts.information import BOUNDS, information_term
from podrl.agents.parts.interface import Agent, Batch, Partition, UpdateShape
from podrl.agents.parts.optimizing import OptimizerOverRun, make_optimizer
from podrl.agents.parts.recorded import samples_of
from podrl.agents.parts.temperature import init_temperature, move_temperature
from podrl.agents.parts.tilted import log_prob_before_squashing, sample_tilted
from podrl.agents.parts.twin_critic import (
    RECORDED_TRANSITIONS,
    TwinCritic,
    ask_for_networks,
    constant_adam,
    make_twin_critic_agent,
)
from podrl.config.optimizer import OptimizerConfig
from podrl.config.ranges import check_values, choice, number, text
from podrl.networks.interface import Networks
from podrl.ops.hmc import LARGEST_STEP, LEAST_STEP, adapt_step_size
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Trajectory


def _slow_adam() -> OptimizerConfig:
    return dataclasses.replace(constant_adam(), learning_rate=1e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of MISA.

    Attributes:
        name: `misa`.
        optimizer: The policy's optimizer.
        critic_optimizer: The critics' optimizer.
        temperature_optimizer: The optimizer of the logarithm of the temperature.
        discount: Discount of future rewards, per agent decision.
        target_rate: Share of the way that the critics' targets go to them in each call of `learn`.
        temperature: The first temperature: the weight of entropy in the policy's loss.
        target_entropy: The policy's entropy that the temperature is learned for, in nats, for each number of an action.
        reward_scale: Rewards are multiplied by it.
        bound: The lower bound of the mutual information: `ba` (Barber and Agakov, of the policy alone), `dv` (Donsker
            and Varadhan, normalized over all states) or `tilted` (normalized in each state, the tightest).
        critic_information_cost: Weight of the gap beside half the squared error; with `ba` there is none. Ma et al.
            have 5 beside the whole squared error.
        policy_information_cost: Weight of the log-likelihood of recorded actions in the policy's loss.
        tilted_cost: Weight of the log-likelihood of tilted samples in the policy's loss; `tilted` only. With 0 no
            chains run, which take most gradients of a call of `learn`.
        value_weight: Weight of the value in the policy's loss. 0 leaves out the entropy too, and clones the data's
            behaviour.
        action_samples: Actions of the policy, and samples of a chain, for each state.
        hmc_burn_in: Steps of a chain that are left out.
        hmc_leapfrog_steps: Leapfrog steps in a step of a chain, a gradient of the critics each.
        hmc_step_size: The first of the largest sizes of leapfrog steps, in units of the policy's scale. Each step of a
            chain draws its size, between half of the largest and all of it.
        hmc_acceptance: The share of steps to accept, for which the step size is adapted in each call of `learn`.
        max_action: Recorded actions are clipped to [-max_action, max_action] where their likelihood is taken.
    """

    action_kinds: ClassVar[tuple[type, ...]] = (ContinuousActions,)

    name: str = text(100, "misa")
    optimizer: OptimizerConfig = dataclasses.field(default_factory=_slow_adam)
    critic_optimizer: OptimizerConfig = dataclasses.field(default_factory=constant_adam)
    temperature_optimizer: OptimizerConfig = dataclasses.field(default_factory=_slow_adam)
    discount: float = number(0, 1, 0.99)
    target_rate: float = number(0, 1, 0.005)
    temperature: float = number(1e-8, 1e6, 0.5)
    target_entropy: float = number(-1e6, 1e6, -1.0)
    reward_scale: float = number(1e-9, 1e9, 1.0)
    bound: str = choice(BOUNDS, "tilted")
    critic_information_cost: float = number(0, 1e6, 2.5)
    policy_information_cost: float = number(0, 1e6, 0.5)
    tilted_cost: float = number(0, 1e6, 0.1)
    value_weight: float = number(0, 1e6, 1.0)
    action_samples: int = number(1, 10_000, 50)
    hmc_burn_in: int = number(0, 10_000, 5)
    hmc_leapfrog_steps: int = number(1, 100, 2)
    hmc_step_size: float = number(LEAST_STEP, LARGEST_STEP, 1.0)
    hmc_acceptance: float = number(0.1, 0.99, 0.65)
    max_action: float = number(0.5, 1, 0.999, open=True)

    def __post_init__(self) -> None:
        """Checks values."""
        check_values(self, "agent.")
        for section in ("optimizer", "critic_optimizer", "temperature_optimizer"):
            check_values(getattr(self, section), f"agent.{section}.")

    @property
    def update_shape(self) -> UpdateShape:
        """How an update divides its batch."""
        return RECORDED_TRANSITIONS

    @property
    def runs_chains(self) -> bool:
        """Whether the policy's loss has samples of chains."""
        return self.bound == "tilted" and self.tilted_cost > 0


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
    """MISA with a network of a policy and one of two critics.

    Args:
        config: The hyper-parameters.
        networks: Makes the networks.
        spec: The environment.
        num_envs: Environments of the whole job; not used.
        num_updates: Number of the run's last update, for learning rates that decay.
        ahead: See `podrl.ops.optimizers.share_left`.
        partition: How the update goes through its batch.

    Raises:
        ConfigError: If actions are no numbers, or the network is none that MISA can use.
    """
    own = ask_for_networks(config, networks, spec)
    optimizers = optimizer, critic_optimizer, temperature_optimizer = tuple(
        make_optimizer(section, config.update_shape, num_updates=num_updates, ahead=ahead, by_updates=True)
        for section in (config.optimizer, config.critic_optimizer, config.temperature_optimizer)
    )

    def extra(params: PyTree) -> dict[str, PyTree]:
        target = {"critic": jax.tree.map(jnp.copy, params["critic"])}
        chains = {"hmc_step_size": jnp.float32(config.hmc_step_size)} if config.runs_chains else {}
        return {"target": target, **init_temperature(temperature_optimizer, config.temperature), **chains}

    return make_twin_critic_agent(
        own,
        {"policy": optimizer, "critic": critic_optimizer},
        random_steps=0,
        extra=extra,
        explore=own.distribution.sample,
        exploit=own.distribution.mode,
        learn=_make_learn(config, own, optimizers, partition),
    )


def _make_learn(
    config: AgentConfig, own: TwinCritic, optimizers: Sequence[OptimizerOverRun], partition: Partition
) -> Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array]]:
    """Returns MISA's `Agent.learn`; the optimizers are those of the policy, of the critics and of the temperature."""
    optimizer, critic_optimizer, temperature_optimizer = optimizers
    draw = jax.vmap(own.distribution.sample)

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array]:
        sample, improvement = samples_of(batch, clip=True)
        key, target_key, critic_key, policy_key = jax.random.split(state.key, 4)
        before, temperature = state, jnp.exp(state.extra["log_temperature"])

        def targets_of(part: Trajectory) -> jax.Array:
            action = draw(noise_keys(target_key, part), own.policy_at(before.params, part, 1))
            return bootstrap(config, part, jnp.min(own.values_at(before.extra["target"], part, 1, action), axis=-1))

        def policy_loss(params: PyTree, part: Trajectory) -> tuple[jax.Array, Mapping[str, jax.Array]]:
            return misa_policy_loss(config, own, params, before.extra, part, policy_key)

        term = information_term(config, own, before.params, improvement, critic_key)
        state, critic_metrics, priority = take_critic_step(
            own, critic_optimizer, state, sample, targets_of, partition, term
        )
        state, metrics = take_step(own, optimizer, state, improvement, policy_loss, partition, part="policy")
        target = optax.incremental_update(state.params["critic"], state.extra["target"]["critic"], config.target_rate)
        is_any = jnp.any(improvement.trajectory.is_transition)
        excess = jnp.where(is_any, metrics["policy/entropy"] - config.target_entropy * own.size, 0.0)
        told = {"policy/temperature": temperature, "loss/learning_rate": optimizer.rate(state.step)}
        moved = move_temperature(temperature_optimizer, state, excess)
        if config.runs_chains:
            told["policy/hmc_step_size"] = step_size = state.extra["hmc_step_size"]
            acceptance = jnp.where(is_any, metrics["policy/hmc_acceptance"], config.hmc_acceptance)
            moved["hmc_step_size"] = adapt_step_size(step_size, acceptance, target=config.hmc_acceptance)
        extra = {**state.extra, "target": {"critic": target}, **moved}
        state = dataclasses.replace(state, extra=extra, key=key)
        return state, total_metrics({**critic_metrics, **metrics, **told}, [term.name] if term else []), priority

    return learn


def misa_policy_loss(
    config: AgentConfig, networks: TwinCritic, params: PyTree, extra: PyTree, trajectory: Trajectory, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the policy's loss of each row, for an action a' through which the gradient flows.

    Args:
        config: Hyper-parameters.
        networks: The agent's networks.
        params: The parameters of policy and critics; the loss is differentiated with respect to the policy's.
        extra: The state's, with the temperature and the size of the chains' steps; no gradient flows to them.
        trajectory: [T, B], with the network's carry.
        key: A key; each row folds in its own number.

    Returns:
        [T, B], and what metrics are means of, [T, B] by name.

    Source: Ma et al. 2022, arXiv:2210.07484, section 4; the module says what differs.
    """
    action_key, chain_key = jax.random.split(key)
    policy, output = networks.distribution, networks.policy_at(params, trajectory, 0)
    action, log_prob = jax.vmap(policy.sample_and_log_prob)(noise_keys(action_key, trajectory), output)
    values = jnp.min(networks.values_at(params, trajectory, 0, action), axis=-1)
    recorded = policy.log_prob(output, jnp.clip(trajectory.action, -config.max_action, config.max_action))
    loss = -config.policy_information_cost * recorded
    if config.value_weight:
        loss = loss + jnp.exp(extra["log_temperature"]) * log_prob - config.value_weight * values
    told = {"policy/entropy": -log_prob, "policy/recorded_log_prob": recorded, "value/policy": values}
    if not config.runs_chains:
        return loss, told
    chains = sample_tilted(config, networks, params, trajectory, chain_key, extra["hmc_step_size"])
    tilted = jnp.mean(log_prob_before_squashing(networks, output, chains.samples), axis=0)
    told = {**told, "policy/tilted_log_prob": tilted, "policy/hmc_acceptance": chains.acceptance}
    return loss + config.tilted_cost * tilted, told
