"""SAC: targets, losses, temperature and first actions, against loops written from the paper."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions
from podrl.agents.parts.critic_steps import noise_keys
from podrl.agents.parts.interface import Batch
from podrl.agents.parts.twin_critic import TwinCritic
from podrl.agents.sac import AgentConfig, make_agent, sac_policy_loss, sac_targets
from podrl.config.config import ConfigError, NetworkConfig
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.available import make_networks
from podrl.networks.interface import PolicyNetwork, TwinQNetwork
from podrl.ops.gaussian import make_gaussian
from podrl.types import EnvSpec, LearnerState, Sample, Timestep, Trajectory
from tests.agents.test_impala import networks_of

SIZE = 2  # Numbers of an action, and of an observation.
SPEC = EnvSpec(id="toy", observation=jax.ShapeDtypeStruct((SIZE,), jnp.float32), actions=ContinuousActions(SIZE))


def toy_networks(num_params=2 * SIZE):
    """A linear policy, and two critics that are parabolas of the action."""

    def seen(trajectory, chosen):
        return jnp.take_along_axis(jnp.asarray(trajectory.observation), chosen[..., None], 0)

    def evaluate(params, observation):
        return observation @ params["policy"]["weights"] + params["policy"]["bias"]

    def values(params, trajectory, chosen, action):
        critic, observation = params["critic"], seen(trajectory, chosen)[:, :, None]
        joined = jnp.concatenate([jnp.broadcast_to(observation, action.shape), action], axis=-1)
        return jnp.square(joined) @ critic["squares"] + joined @ critic["slopes"]

    rng = np.random.default_rng(3)
    shapes = {"squares": (2 * SIZE, 2), "slopes": (2 * SIZE, 2)}
    weights = {"weights": rng.normal(size=(SIZE, num_params)), "bias": rng.normal(size=num_params)}
    policy = PolicyNetwork(
        init=lambda key: {"policy": jax.tree.map(jnp.float32, weights)},
        initial_carry=lambda batch_size: (),
        step=lambda params, timestep, carry: (evaluate(params, timestep.observation), carry),
        unroll=lambda params, trajectory: (evaluate(params, trajectory.observation), trajectory.carry),
        rows=lambda params, trajectory, chosen: evaluate(params, seen(trajectory, chosen)),
        policy=make_gaussian(SIZE, squash=True, initial_scale=0.7) if num_params > SIZE else None,
    )
    numbers = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    critic = TwinQNetwork(init=lambda key: {"critic": jax.tree.map(jnp.float32, numbers)}, rows=values)
    return TwinCritic(policy=policy, critic=critic, size=SIZE)


def asked(networks):
    return networks_of(policy=lambda **_: networks.policy, twin_q=lambda: networks.critic)


def plain(learning_rate):
    return OptimizerConfig(name="adam", learning_rate=learning_rate, learning_rate_decay=False, max_grad_norm=1e9)


def make_toy_agent(**config):
    config = AgentConfig(**{"random_steps": 0, **config})
    return make_agent(config, networks=asked(toy_networks()), spec=SPEC, num_envs=4, num_updates=10)


def random_sample(seed=0, length=3, batch=16):
    """Transitions, terminal ones, truncated ones and resets, with weights, as from a ring."""
    rng, shape = np.random.default_rng(seed), (length, batch)
    first = rng.random((length + 1, batch)) < 0.2
    trajectory = Trajectory(
        observation=rng.normal(size=(length + 1, batch, SIZE)).astype(np.float32),
        first=first,
        action=rng.uniform(-1, 1, (*shape, SIZE)).astype(np.float32),
        reward=np.where(first[1:], 0, rng.normal(size=shape) * 3).astype(np.float32),
        discount=np.where(first[1:], 1, rng.random(shape) > 0.3).astype(np.float32),
        behaviour={},
        carry=(),
        opening_reward=np.zeros(batch, np.float32),
        env_index=np.arange(batch, dtype=np.uint32),
        params_version=np.zeros(shape, np.int32),
    )
    weight = rng.random(batch).astype(np.float32)
    return Sample(trajectory=trajectory, weight=weight, before={"rows": np.zeros((1, batch))})


def paper_values(critic, observation, action):
    """Both critics' values of one action, in float64."""
    joined = np.concatenate([observation, action]).astype(np.float64)
    return joined**2 @ np.float64(critic["squares"]) + joined @ np.float64(critic["slopes"])


def loop_over_targets(sample, next_values, discount):
    """r + discount V(s') by one loop; nothing behind a terminal or of a reset."""
    trajectory, targets = sample.trajectory, {}
    for t, b in np.argwhere(~trajectory.first[1:]):
        total = float(trajectory.reward[t, b])
        if trajectory.discount[t, b] > 0:
            total += discount * next_values(trajectory.observation[t + 1, b], t, b)
        targets[t, b] = total
    return targets


def moved(params):
    return jax.tree.map(lambda x: 0.7 * x + 0.1, params)


@pytest.fixture(scope="module")
def networks():
    return toy_networks()


def state_of(networks, temperature):
    params = {**networks.policy.init(None), **networks.critic.init(None)}
    extra = {"target": {"critic": moved(params["critic"])}, "log_temperature": jnp.log(jnp.float32(temperature))}
    zero = jnp.zeros((), jnp.int32)
    return LearnerState(step=zero, learner_step=zero, params=params, opt_state=(), extra=extra, key=jax.random.key(0))


def test_targets_are_soft_values_of_the_slower_critics_smaller_value(networks):
    """A terminal has none, a truncation has that of the true final observation."""
    sample, state, key = random_sample(), state_of(networks, 0.3), jax.random.key(5)
    config = AgentConfig(discount=0.9, reward_scale=2.0)
    found = jax.jit(lambda: sac_targets(config, networks, state, sample.trajectory, key))()
    policy = networks.distribution
    keys, rows = noise_keys(key, sample.trajectory), jnp.asarray(sample.trajectory.observation[1:])
    outputs = rows @ state.params["policy"]["weights"] + state.params["policy"]["bias"]
    actions, log_probs = map(np.asarray, jax.vmap(policy.sample_and_log_prob)(keys, outputs))

    def next_value(observation, t, b):
        return paper_values(state.extra["target"]["critic"], observation, actions[t, b]).min() - 0.3 * log_probs[t, b]

    doubled = dataclasses.replace(sample.trajectory, reward=2 * sample.trajectory.reward)
    expected = np.zeros_like(found)
    for place, target in loop_over_targets(dataclasses.replace(sample, trajectory=doubled), next_value, 0.9).items():
        expected[place] = target
    assert (expected != 0).sum() > 20
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_policys_gradient_flows_through_the_action_and_its_entropy(networks):
    """Against differences of the loss itself, for the same noise."""
    sample, state, key = random_sample(), state_of(networks, 0.3), jax.random.key(5)

    @jax.jit
    def loss_of(policy):
        params = {**state.params, "policy": policy}
        return jnp.mean(sac_policy_loss(networks, params, jnp.float32(0.3), sample.trajectory, key)[0])

    slopes = jax.grad(loss_of)(state.params["policy"])
    for name, index in (("bias", 0), ("bias", 3), ("weights", (1, 2)), ("weights", (0, 1))):
        ahead, behind = (
            loss_of({**state.params["policy"], name: state.params["policy"][name].at[index].add(step)})
            for step in (1e-2, -1e-2)
        )
        assert float(slopes[name][index]) == pytest.approx(float(ahead - behind) / 2e-2, rel=0.02, abs=2e-3)


def test_critics_policy_and_targets_each_take_their_step():
    """With plain numbers: the critics' loss is the weighted sum of both errors, and targets go a share of the way."""
    agent, sample = (
        make_toy_agent(target_rate=0.25, optimizer=plain(0.01), critic_optimizer=plain(0.02)),
        random_sample(),
    )
    state = agent.init(jax.random.key(0))
    after, metrics, priority = jax.jit(agent.learn)(state, Batch(rollouts=sample))
    _, target_key, _ = jax.random.split(state.key, 3)
    targets = np.asarray(sac_targets(AgentConfig(), toy_networks(), state, sample.trajectory, target_key))
    total, worst, real = 0.0, np.zeros(16), ~sample.trajectory.first[1:]
    for t, b in np.argwhere(real):
        values = paper_values(
            state.params["critic"], sample.trajectory.observation[t, b], sample.trajectory.action[t, b]
        )
        total += sample.weight[b] * 0.5 * np.sum((targets[t, b] - values) ** 2)
        worst[b] = max(worst[b], np.mean(np.abs(targets[t, b] - values)))
    assert float(metrics["loss/value"]) == pytest.approx(total / real.sum(), rel=1e-4)
    np.testing.assert_allclose(priority, worst, rtol=1e-4, atol=1e-5)
    for name, rate in (("policy", 0.01), ("critic", 0.02)):  # Adam's first step is as long as its rate.
        steps = jax.tree.map(lambda x, y: np.abs(x - y), after.params[name], state.params[name])
        for step in jax.tree.leaves(steps):
            np.testing.assert_allclose(step, rate, rtol=0.02)
    for name, target in after.extra["target"]["critic"].items():
        expected = 0.25 * after.params["critic"][name] + 0.75 * state.extra["target"]["critic"][name]
        np.testing.assert_allclose(target, expected, rtol=1e-5)
    assert not np.array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))


@pytest.mark.parametrize(("target", "sign"), [(50.0, 1), (-50.0, -1)])
def test_the_temperature_rises_where_there_is_too_little_entropy_and_falls_where_there_is_too_much(target, sign):
    agent = make_toy_agent(target_entropy=target, temperature=0.5, temperature_optimizer=plain(0.1))
    learn, state = jax.jit(agent.learn), agent.init(jax.random.key(0))
    after, metrics, _ = learn(state, Batch(rollouts=random_sample()))
    assert float(metrics["policy/temperature"]) == pytest.approx(0.5)
    change = float(after.extra["log_temperature"] - state.extra["log_temperature"])
    assert change == pytest.approx(0.1 * sign, rel=1e-3)
    sample = random_sample()
    resets = dataclasses.replace(sample.trajectory, first=np.ones_like(sample.trajectory.first))
    after, _, _ = learn(state, Batch(rollouts=dataclasses.replace(sample, trajectory=resets)))
    assert float(after.extra["log_temperature"]) == float(state.extra["log_temperature"])


def test_the_first_env_steps_are_uniform_and_the_next_the_policys():
    """Evaluation never is. What is counted are steps of the whole job."""
    agent, rollouts = make_toy_agent(random_steps=100), random_sample(length=5, batch=10).trajectory
    many = 4000
    observation = np.tile(np.float32([2.0, -2.0]), (many, 1))
    row = np.zeros(many, np.float32)
    timestep = Timestep(observation=observation, reward=row, discount=row + 1, first=row > 0)
    keys, state = jax.random.split(jax.random.key(1), many), agent.init(jax.random.key(0))
    act, actions = jax.jit(agent.act), []
    for _ in range(3):
        params = agent.actor_params(state)
        actions.append(np.asarray(act(params, timestep, (), keys)[0]))
        greedy = agent.act_greedy(params, timestep, (), keys)[0]
        output = observation[:1] @ state.params["policy"]["weights"] + state.params["policy"]["bias"]
        np.testing.assert_allclose(greedy[0], np.tanh(output[0, :SIZE]), rtol=1e-4)
        state = agent.observe(state, rollouts)
    for uniform in actions[:2]:
        histogram = np.histogram(uniform, bins=8, range=(-1, 1))[0]
        np.testing.assert_allclose(histogram, many * SIZE / 8, rtol=0.15)
        assert abs(np.corrcoef(uniform.T)[0, 1]) < 0.06
    np.testing.assert_allclose(np.median(actions[2], axis=0), greedy[0], atol=0.05)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"core": "lstm", "squash_actions": True}, "agent.name='sac' learns from single .* Use network.core=none"),
        ({}, "network.squash_actions=False .* Use network.squash_actions=True"),
        ({"squash_actions": True, "separate_value": True}, "network.separate_value=True has no meaning"),
    ],
)
def test_networks_that_it_cannot_use_are_refused_in_one_line(network, said):
    networks = make_networks(NetworkConfig(**network), SPEC)
    with pytest.raises(ConfigError, match=said):
        make_agent(AgentConfig(), networks=networks, spec=SPEC, num_envs=4, num_updates=10)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"temperature": 0.0}, "agent.temperature=0.0 must lie in"),
        ({"critic_optimizer": OptimizerConfig(learning_rate=-1.0)}, "agent.critic_optimizer.learning_rate=-1.0 must"),
        ({"temperature_optimizer": OptimizerConfig(epsilon=-1.0)}, "agent.temperature_optimizer.epsilon=-1.0 must"),
        ({"target_rate": 1.5}, r"agent.target_rate=1.5 must lie in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        AgentConfig(**override)
