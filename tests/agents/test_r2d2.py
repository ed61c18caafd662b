"""R2D2: targets, burn-in, epsilons and priorities, against loops written from the paper."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.agents.parts.interface import Batch, Partition
from podrl.agents.parts.q_learning import epsilon_ladder, explorer_rank
from podrl.agents.parts.sequences import accumulate_by_sequence, unroll_after_burn_in
from podrl.agents.r2d2 import AgentConfig, make_agent, r2d2_loss
from podrl.config.config import ConfigError, NetworkConfig
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.action_values import make_q_network
from podrl.networks.interface import NetworkFunctions, QOutput
from podrl.types import EnvSpec, Sample, Timestep, Trajectory
from tests.agents.test_impala import networks_of
from tests.networks.test_actor_critic import MEMORY, make_spec, random_unroll

NUM_STATES, NUM_ACTIONS = 5, 3
SPEC = EnvSpec(id="t", observation=jax.ShapeDtypeStruct((), jnp.int32), actions=DiscreteActions(NUM_ACTIONS))


def table_network(values=None):
    """A row of values for each state; observations are states."""

    def init(key):
        return {"q": jnp.zeros((NUM_STATES, NUM_ACTIONS)) if values is None else jnp.asarray(values, jnp.float32)}

    def step(params, timestep, carry):
        return QOutput(q_values=params["q"][timestep.observation]), carry

    def unroll(params, trajectory):
        return step(params, trajectory, trajectory.carry)

    def rows(params, trajectory, chosen):
        return QOutput(q_values=params["q"][jnp.take_along_axis(jnp.asarray(trajectory.observation), chosen, 0)])

    return NetworkFunctions[QOutput](
        init=init, initial_carry=lambda batch_size: (), step=step, unroll=unroll, rows=rows
    )


def make_table_agent(config, num_envs=4, values=None, **options):
    networks = networks_of(q=lambda **asked: table_network(values))
    return make_agent(config, networks=networks, spec=SPEC, num_envs=num_envs, num_updates=10, **options)


def random_sample(seed, length=12, batch=4):
    """Sequences with terminations, truncations and resets, and weights, as from a ring: without a carry."""
    rng, shape = np.random.default_rng(seed), (length, batch)
    first = rng.random((length + 1, batch)) < 0.2
    trajectory = Trajectory(
        observation=rng.integers(0, NUM_STATES, (length + 1, batch)).astype(np.int32),
        first=first,
        action=rng.integers(0, NUM_ACTIONS, shape).astype(np.int32),
        reward=np.where(first[1:], 0, rng.normal(size=shape) * 3).astype(np.float32),
        discount=np.where(first[1:], 1, rng.random(shape) > 0.2).astype(np.float32),
        behaviour={},
        carry=(),
        opening_reward=np.zeros(batch, np.float32),
        env_index=np.arange(batch, dtype=np.uint32),
        params_version=np.zeros(shape, np.int32),
    )
    return Sample(
        trajectory=trajectory, weight=rng.random(batch).astype(np.float32), before={"rows": np.zeros((1, batch))}
    )


def squash(x):
    return np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 1e-3 * x


def unsquash(x):
    root = (np.sqrt(1 + 4e-3 * (np.abs(x) + 1 + 1e-3)) - 1) / 2e-3
    return np.sign(x) * (root**2 - 1)


def paper_errors(config, online, slow, sample):
    """Temporal differences by one loop over a sequence's rows, and which rows there are; in float64."""
    trajectory, (length, batch) = sample.trajectory, sample.trajectory.reward.shape
    last = length - (config.n_steps - 1 if config.starts == "rows" else 0)
    errors = {}
    for b in range(batch):
        states, resets = trajectory.observation[:, b], trajectory.first[:, b]
        for t in range(config.burn_in, last):
            if resets[t + 1]:
                continue
            total, weight, at = 0.0, 1.0, t
            while at < min(t + config.n_steps, length) and not resets[at + 1]:
                reward = np.clip(trajectory.reward[at, b], -config.max_reward, config.max_reward)
                total += weight * (reward if config.max_reward else trajectory.reward[at, b])
                weight *= trajectory.discount[at, b] * config.discount
                at += 1
            bootstrap = slow[states[at], online[states[at]].argmax()]
            if config.rescale_values:
                target = squash(total + weight * unsquash(bootstrap))
            else:
                target = total + weight * bootstrap
            errors[t, b] = target - online[states[t], trajectory.action[t, b]]
    return errors


@pytest.mark.parametrize(
    "config",
    [
        {"burn_in": 3},
        {"burn_in": 0, "n_steps": 1, "max_reward": 1.0, "rescale_values": False},
        {"burn_in": 0, "n_steps": 3, "starts": "rows", "length": 10},
        {"burn_in": 0, "n_steps": 3, "starts": "rows", "length": 1},
    ],
    ids=["recurrent", "one step", "rows", "single rows"],
)
def test_loss_gradient_and_priorities_are_the_papers(config):
    """Summed over a sequence's rows, as a mean over sequences; the last rows' targets have fewer steps."""
    config, rng = AgentConfig(**config), np.random.default_rng(0)
    online, slow = rng.normal(size=(2, NUM_STATES, NUM_ACTIONS)) * 2
    network = table_network()
    for seed in range(3):
        sample = random_sample(seed, *((3, 24) if config.length == 1 else ()))
        batch = len(sample.weight)
        errors = paper_errors(config, online, slow, sample)
        loss = sum(sample.weight[b] * 0.5 * error**2 for (_, b), error in errors.items()) / batch
        gradient = np.zeros_like(online)
        for (t, b), error in errors.items():
            state, action = sample.trajectory.observation[t, b], sample.trajectory.action[t, b]
            gradient[state, action] -= sample.weight[b] * error / batch
        by_sequence = [[abs(error) for (_, b), error in errors.items() if b == n] or [0.0] for n in range(batch)]
        priorities = [0.9 * max(sizes) + 0.1 * np.mean(sizes) for sizes in by_sequence]

        tables = [{"q": jnp.float32(table)} for table in (online, slow)]
        loss_and_grads = jax.value_and_grad(r2d2_loss, argnums=2, has_aux=True)
        told, grads = loss_and_grads(config, network, *tables, sample, batch, jnp.float32(len(errors)))
        found, (metrics, priority) = told
        np.testing.assert_allclose(found, loss, rtol=1e-4)
        np.testing.assert_allclose(grads["q"], gradient, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(priority, priorities, rtol=1e-4)
        np.testing.assert_allclose(metrics["value/error"], np.mean(np.abs(list(errors.values()))), rtol=1e-4)


@pytest.mark.parametrize("burn_in", [1, 3])
def test_burn_in_brings_the_carry_up_to_date_and_gets_no_gradient(burn_in):
    spec = make_spec((5,), jnp.float32, num_actions=4)
    network = make_q_network(NetworkConfig(frame_stack=2, **MEMORY), spec)
    params, trajectory = jax.jit(network.init)(jax.random.key(0)), random_unroll(network, spec, 7, 3)
    rng = np.random.default_rng(6)
    trajectory = dataclasses.replace(
        trajectory,
        first=np.zeros_like(trajectory.first),
        carry=jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), trajectory.carry),
    )
    whole = jax.jit(network.unroll)(params, trajectory)[0].q_values
    behind = jax.jit(lambda p: unroll_after_burn_in(network, p, trajectory, burn_in))(params).q_values
    np.testing.assert_allclose(behind, whole[burn_in:], rtol=1e-5, atol=1e-6)

    def total(core, burn_in):
        carried = dataclasses.replace(trajectory, carry=dataclasses.replace(trajectory.carry, core=core))
        return jnp.sum(unroll_after_burn_in(network, params, carried, burn_in).q_values)

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient(trajectory.carry.core, 0))) > 1e-3
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), gradient(trajectory.carry.core, burn_in))


def test_each_group_of_environments_has_all_epsilons():
    ranks = explorer_rank(np.arange(24, dtype=np.uint32), 8)
    found = np.asarray(epsilon_ladder(ranks, base=0.4, power=7.0))
    np.testing.assert_allclose(found[:8], 0.4 ** (1 + np.arange(8)), rtol=1e-5)
    np.testing.assert_array_equal(found.reshape(3, 8), np.tile(found[:8], (3, 1)))


def test_environments_explore_by_their_own_epsilons_through_all_episodes_and_evaluations_do_not():
    config, repeats = AgentConfig(epsilon_base=0.9, epsilon_power=2.0), 4000
    agent = make_table_agent(config, values=np.tile([0.0, 1.0, 0.5], (NUM_STATES, 1)))
    params = agent.actor_params(agent.init(jax.random.key(0)))
    env_index = np.repeat(np.arange(8, dtype=np.uint32), repeats)
    carry, num = agent.initial_carry(env_index), len(env_index)
    timestep = Timestep(
        observation=jnp.zeros(num, jnp.int32), reward=jnp.zeros(num), discount=jnp.ones(num), first=jnp.ones(num, bool)
    )
    keys = jax.random.split(jax.random.key(1), num)
    action, behaviour, after = jax.jit(agent.act)(params, timestep, carry, keys)
    share = np.mean((np.asarray(action) != 1).reshape(8, repeats), axis=1)
    expected = 0.9 ** (1 + 2 * np.arange(4) / 3) * 2 / 3
    np.testing.assert_allclose(share, np.tile(expected, 2), atol=0.03)
    assert behaviour == {}
    np.testing.assert_array_equal(after.rank, carry.rank)
    np.testing.assert_array_equal(agent.act_greedy(params, timestep, carry, keys)[0], 1)
    assert jax.tree.leaves(agent.keep(carry)) == []


def test_the_target_is_a_copy_of_the_parameters_after_every_period_of_learner_steps():
    optimizer = OptimizerConfig(name="adam", learning_rate=0.1, learning_rate_decay=False)
    agent = make_table_agent(AgentConfig(burn_in=0, target_period=3, optimizer=optimizer))
    state, learn = agent.init(jax.random.key(0)), jax.jit(agent.learn)
    targets, params = [state.extra["target"]["q"]], [state.params["q"]]
    for step in range(7):
        state, _, priority = learn(state, Batch(rollouts=random_sample(step)))
        state = dataclasses.replace(state, learner_step=state.learner_step + 1)
        targets.append(state.extra["target"]["q"])
        params.append(state.params["q"])
    for found, wanted in zip(targets, [params[0]] * 3 + [params[3]] * 3 + [params[6]] * 2, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert float(jnp.abs(params[3] - params[6]).max()) > 0
    assert (priority > 0).all()


@pytest.mark.parametrize("rolled", [False, True])
def test_parts_of_a_batch_give_the_same_gradient_and_each_sequence_its_own_priority(rolled):
    config, network, sample = AgentConfig(burn_in=2), table_network(), random_sample(1, batch=6)
    target = {"q": jnp.float32(np.random.default_rng(0).normal(size=(NUM_STATES, NUM_ACTIONS)))}
    num = jnp.sum(sample.trajectory.is_transition[2:], dtype=jnp.float32)

    def loss(params, part):
        return r2d2_loss(config, network, params, target, part, 6, num)

    whole, parts = (
        jax.jit(lambda partition=partition: accumulate_by_sequence(loss, network.init(None), sample, partition))()
        for partition in (Partition(), Partition(micro_batches=3, rolls_micro_batches=rolled))
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), whole, parts)
    assert len(np.unique(whole[1])) == 6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"starts": "rows"}, "agent.burn_in=40 has no meaning with agent.starts='rows'"),
        ({"starts": "here"}, "agent.starts='here' is not known"),
        ({"epsilon_base": 1.5}, r"agent.epsilon_base=1.5 must lie in \[0, 1\]"),
    ],
)
def test_values_that_do_not_fit_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        AgentConfig(**config)


def test_groups_with_too_few_epsilons_are_refused_with_a_number_that_fits():
    with pytest.raises(ConfigError, match=r"replay.groups=16 has 2 of .* Use replay.groups=8, or actors.num_envs=64\."):
        make_table_agent(AgentConfig(), num_envs=32, group_size=2)
    with pytest.raises(ConfigError, match=r"replay.groups=1 has 3 .* Use actors.num_envs=4 or more"):
        make_table_agent(AgentConfig(), num_envs=3)


def test_a_core_cannot_start_anywhere():
    networks = networks_of(
        q=lambda **_: make_q_network(NetworkConfig(core="lstm"), make_spec((5,), jnp.float32)),
    )
    config = AgentConfig(starts="rows", burn_in=0)
    with pytest.raises(ConfigError, match=r"agent.starts='rows' needs a network .* Use agent.starts=unrolls"):
        make_agent(config, networks=networks, spec=make_spec((5,)), num_envs=4, num_updates=1)
