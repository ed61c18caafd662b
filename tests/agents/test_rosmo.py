"""ROSMO: what its model learns, against loops written from the paper, and a model of a small chain."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.agents.parts.interface import Batch, Partition
from podrl.agents.parts.model_unroll import count_known, make_targets, unroll_model
from podrl.agents.parts.planning import Roots, make_improvement, row_keys
from podrl.agents.parts.recorded import UNIFORM
from podrl.agents.rosmo import AgentConfig, make_agent, rosmo_loss
from podrl.config.config import ConfigError, NetworkConfig
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.available import make_networks
from podrl.networks.interface import ModelNetwork
from podrl.networks.model_records import LatentState, ModelOutput
from podrl.ops.categorical import make_categorical
from podrl.types import EnvSpec, Sample, Trajectory
from tests.agents.test_impala import networks_of
from tests.short_runs import random_recorded

SIZE, ACTIONS, BINS = 2, 3, 5
SPEC = EnvSpec(id="toy", observation=jax.ShapeDtypeStruct((SIZE,), jnp.float32), actions=DiscreteActions(ACTIONS))
CONFIG = AgentConfig(unroll_steps=3, n_steps=2, discount=0.9, num_bins=BINS, samples=4)


def toy_network():
    """States are observations; each action mixes them in its own way; heads are linear."""
    rng = np.random.default_rng(3)
    shapes = {
        "mix": (ACTIONS, SIZE, SIZE),
        "policy": (SIZE, ACTIONS),
        "value": (SIZE, BINS),
        "reward": (SIZE, BINS),
    }
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    def predict(params, latent, mask=None):
        return ModelOutput(**{name: latent @ params[name] for name in ("policy", "value", "reward")})

    return ModelNetwork(
        init=lambda key: weights,
        initial_carry=lambda batch_size: (),
        step=lambda params, timestep, carry: (LatentState(latent=timestep.observation), carry),
        unroll=lambda params, trajectory: (LatentState(latent=trajectory.observation), trajectory.carry),
        policy=make_categorical(ACTIONS),
        transition=lambda params, latent, action: jnp.tanh(
            jnp.einsum("...i,...ij->...j", latent, jnp.asarray(params["mix"])[action])
        ),
        predict=predict,
    )


NETWORK = toy_network()
PARAMS = NETWORK.init(None)
FUTURE = {name: x * 0.7 for name, x in PARAMS.items()}  # The parameters that learn; PARAMS are the target network's.


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def rescale(x):
    return np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 1e-3 * x


def number(logits):
    """The mean over bins -2 to 2, scaled back by a search."""
    wanted = float(softmax(np.float64(logits)) @ np.arange(-2.0, 3.0))
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rescale(middle) < wanted else (low, middle)
    return low


def follow(params, latent, action):
    return np.tanh(latent @ jnp.asarray(params["mix"])[action])


def value_of(params, latent):
    return number(latent @ params["value"])


def advantage_of(params, latent, action):
    ahead = follow(params, latent, action)
    return number(ahead @ params["reward"]) + 0.9 * value_of(params, ahead) - value_of(params, latent)


def recorded(seed=0, length=5, batch=12):
    sample = random_recorded(AGENT, SPEC, length, batch, seed)
    return dataclasses.replace(sample, before=())


def make_toy_agent(**config):
    config = dataclasses.replace(CONFIG, **config)
    return make_agent(config, networks=networks_of(model=lambda shape: NETWORK), spec=SPEC, num_envs=4, num_updates=10)


AGENT = make_toy_agent()


def targets_of(sample, key=None, config=CONFIG):
    improve = make_improvement(config, NETWORK)
    key = jax.random.key(5) if key is None else key
    found = jax.jit(lambda: make_targets(config, NETWORK, improve, PARAMS, sample.trajectory, key))()
    return jax.device_get(found)


def walk(trajectory, b, last):
    """What each row from 0 to `last` is: `real`, `absorbed`, or `unknown`."""
    kinds = ["real" if trajectory.is_transition[0, b] else "unknown"]
    for t in range(last):
        if kinds[-1] == "absorbed" or (
            kinds[-1] == "real" and trajectory.discount[t, b] == 0 and trajectory.is_transition[t, b]
        ):
            kinds.append("absorbed")
        elif kinds[-1] == "real" and trajectory.is_transition[t, b]:
            kinds.append("real")
        else:
            kinds.append("unknown")
    return kinds


def return_from(trajectory, b, row):
    """The discounted rewards of two steps, and the target network's value behind them."""
    total, weight = 0.0, 1.0
    for _ in range(2):
        if row == len(trajectory.reward) or not trajectory.is_transition[row, b]:
            break
        total += weight * trajectory.reward[row, b]
        weight *= 0.9 * trajectory.discount[row, b]
        row += 1
    return total + weight * value_of(PARAMS, trajectory.observation[row, b])


def test_targets_equal_a_loop_over_rows():
    sample = recorded()
    trajectory, found, seen = jax.device_get(sample.trajectory), targets_of(sample), set()
    for b in range(12):
        kinds = walk(trajectory, b, 3)
        seen.update(kinds)
        for k, kind in enumerate(kinds):
            latent = trajectory.observation[k, b]
            assert found.is_known[b, k] == (kind != "unknown")
            is_step = kind == "real" and trajectory.is_transition[k, b]
            advantages = np.array([advantage_of(PARAMS, latent, action) for action in range(ACTIONS)])
            assert found.is_better[b, k] == (is_step and advantages[trajectory.action[k, b]] > 0)
            if kind == "real":
                assert found.value[b, k] == pytest.approx(return_from(trajectory, b, k), rel=1e-3, abs=1e-4)
                weights = softmax(latent @ PARAMS["policy"]) * np.exp(advantages)
                np.testing.assert_allclose(found.policy[b, k], weights / weights.sum(), rtol=1e-3)
            if kind == "absorbed":
                assert found.value[b, k] == 0
                np.testing.assert_allclose(found.policy[b, k], 1 / ACTIONS)
            if k == 3:
                continue
            assert found.is_known_step[b, k] == (is_step or kind == "absorbed")
            assert found.reward[b, k] == (trajectory.reward[k, b] if is_step else 0)
            if is_step:
                assert found.action[b, k] == trajectory.action[k, b]
    assert seen == {"real", "absorbed", "unknown"}
    assert 0 < found.is_better.mean() < 1


def test_actions_behind_the_end_are_random_ones_of_the_sequence_alone():
    """Not of its place in the batch, nor of which others are there, so that any devices draw the same."""
    sample = recorded(batch=64)
    ended = dataclasses.replace(
        sample.trajectory, discount=np.zeros((5, 64), np.float32), first=np.arange(6)[:, None].repeat(64, 1) > 1
    )
    sample = dataclasses.replace(sample, trajectory=ended)
    found, other = targets_of(sample), targets_of(sample, jax.random.key(6))
    np.testing.assert_array_equal(found.action[:, 0], sample.trajectory.action[0])
    counts = np.bincount(found.action[:, 1:].ravel(), minlength=ACTIONS)
    assert counts.min() > 128 / ACTIONS / 2
    assert (found.action[:, 1:] != other.action[:, 1:]).any()
    some = np.array([40, 3, 17])
    few = sample.map(lambda x: x[:, some], lambda x: x[some])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y[some], rtol=1e-5), targets_of(few), found)


def test_sampled_targets_equal_a_loop_and_keep_the_exact_advantages_of_the_data():
    sample, config = recorded(), dataclasses.replace(CONFIG, improvement="sampled", max_advantage=0.5)
    trajectory, found, exact = jax.device_get(sample.trajectory), targets_of(sample, config=config), targets_of(sample)
    keys = row_keys(jax.random.split(jax.random.key(5))[1], sample.trajectory.env_index, 4)
    np.testing.assert_array_equal(found.is_better, exact.is_better)
    for b, k in np.argwhere(found.is_known & (walks(trajectory) == "real")):
        latent = trajectory.observation[k, b]
        actions = np.asarray(jax.random.categorical(keys[b, k], latent @ PARAMS["policy"], shape=(4,)))
        grown = [np.exp(np.clip(advantage_of(PARAMS, latent, action), -0.5, 0.5)) for action in actions]
        expected = np.zeros(ACTIONS)
        for i, action in enumerate(actions):
            expected[action] += grown[i] / ((1 + sum(grown) - grown[i]) / 4) / 4
        np.testing.assert_allclose(found.policy[b, k], expected, rtol=1e-3)


def walks(trajectory):
    return np.array([walk(trajectory, b, 3) for b in range(trajectory.reward.shape[1])])


def losses_of(sample, **config):
    config = dataclasses.replace(CONFIG, **config)
    targets = targets_of(sample, config=config)
    counts = count_known(config, sample)
    loss = jax.jit(lambda: rosmo_loss(config, NETWORK, FUTURE, sample.trajectory, targets, sample.weight, counts))
    _, metrics = loss()
    return {name: float(x) for name, x in metrics.items()}, targets


def test_losses_equal_a_loop_along_each_unroll():
    sample = recorded(seed=1)
    trajectory, weight = jax.device_get((sample.trajectory, sample.weight))
    found, targets = losses_of(sample)
    total, count = (
        dict.fromkeys(("reward", "value", "policy", "behaviour"), 0.0),
        dict.fromkeys(("row", "step", "action"), 0),
    )

    def cross_entropy(target, logits):
        x = np.clip(rescale(target), -2, 2)
        code = np.maximum(1 - np.abs(np.arange(-2, 3) - x), 0)
        return -code @ np.log(softmax(logits))

    for b in range(12):
        latent, kinds = trajectory.observation[0, b], walk(trajectory, b, 3)
        for k in range(4):
            if k:
                latent = follow(FUTURE, latent, targets.action[b, k - 1])
                if targets.is_known_step[b, k - 1]:
                    count["step"] += 1
                    total["reward"] += weight[b] * cross_entropy(targets.reward[b, k - 1], latent @ FUTURE["reward"])
            log_policy = np.log(softmax(latent @ FUTURE["policy"]))
            if targets.is_known[b, k]:
                count["row"] += 1
                total["value"] += weight[b] * cross_entropy(targets.value[b, k], latent @ FUTURE["value"])
                total["policy"] -= weight[b] * (targets.policy[b, k] @ log_policy)
            count["action"] += kinds[k] == "real" and trajectory.is_transition[k, b]
            if targets.is_better[b, k]:
                total["behaviour"] -= weight[b] * log_policy[trajectory.action[k, b]]
    units = {"reward": "step", "value": "row", "policy": "row", "behaviour": "action"}
    means = {name: total[name] / count[units[name]] for name in total}
    for name, mean in means.items():
        assert found[f"loss/{name}"] == pytest.approx(mean, rel=1e-3), name
    expected = means["reward"] + 0.25 * means["value"] + means["policy"] + 0.2 * means["behaviour"]
    assert found["loss/total"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_the_tree_search_imitates_nothing_and_never_visits_what_is_forbidden():
    pytest.importorskip("mctx")
    config = dataclasses.replace(CONFIG, improvement="mcts", simulations=12)
    found, targets = losses_of(recorded(), improvement="mcts")
    assert found["loss/behaviour"] == 0
    np.testing.assert_allclose(targets.policy.sum(-1), 1.0, rtol=1e-5)
    latent = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, SIZE)), jnp.float32)
    output = NETWORK.predict(PARAMS, latent)
    output = dataclasses.replace(output, policy=output.policy.at[..., 1].set(-jnp.inf))
    keys = row_keys(jax.random.key(0), jnp.arange(3), 2)
    roots = Roots(latent=latent, output=output, action=jnp.zeros((3, 2), jnp.int32), key=keys)
    policy = np.asarray(jax.jit(make_improvement(config, NETWORK))(PARAMS, roots).policy)
    assert (policy[..., 1] == 0).all()
    assert (policy[..., 0] > 0).all()


def test_the_target_network_is_a_copy_at_every_nth_call_and_the_key_moves_on():
    agent = make_toy_agent(target_period=2, optimizer=OptimizerConfig(name="adamw", learning_rate=0.1))
    learn = jax.jit(lambda state, sample: agent.learn(state, Batch(recorded={UNIFORM: sample}))[0])
    first = agent.init(jax.random.key(0))
    second = dataclasses.replace(learn(first, recorded()), learner_step=jnp.int32(1))
    third = learn(second, recorded())
    jax.tree.map(np.testing.assert_array_equal, second.extra["target"], first.params)
    assert any((x != y).any() for x, y in zip(*map(jax.tree.leaves, (second.params, first.params)), strict=True))
    jax.tree.map(np.testing.assert_array_equal, third.extra["target"], third.params)
    assert (jax.random.key_data(second.key) != jax.random.key_data(first.key)).any()


def test_parts_of_a_sample_add_up_to_the_whole():
    def gradient(partition):
        config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(name="adamw", learning_rate=1e-3))
        networks = networks_of(model=lambda shape: NETWORK)
        agent = make_agent(config, networks=networks, spec=SPEC, num_envs=4, num_updates=10, partition=partition)
        learn = jax.jit(lambda sample: agent.learn(agent.init(jax.random.key(0)), Batch(recorded={UNIFORM: sample}))[1])
        return learn(recorded())

    whole, parts = gradient(Partition()), gradient(Partition(micro_batches=3, rolls_micro_batches=True))
    assert set(whole) == set(parts)
    for name in whole:
        assert float(parts[name]) == pytest.approx(float(whole[name]), rel=1e-4, abs=1e-6), name


def test_half_of_a_states_gradient_goes_on_to_the_state_before():
    sample = recorded()
    targets = targets_of(sample)

    def last_value(mix, halves):
        params = {**PARAMS, "mix": mix}
        if halves:
            return unroll_model(NETWORK, params, sample.trajectory, targets).value[:, 2].sum()
        latent = jnp.asarray(sample.trajectory.observation[0])
        for k in range(2):
            latent = NETWORK.transition({**PARAMS, "mix": mixes[k]} if k else params, latent, targets.action[:, k])
        return NETWORK.predict(params, latent).value.sum()

    mixes = [PARAMS["mix"]] * 2
    first_alone = jax.grad(last_value)(PARAMS["mix"], False)

    def second_alone(mix):
        latent = NETWORK.transition(PARAMS, jnp.asarray(sample.trajectory.observation[0]), targets.action[:, 0])
        return NETWORK.predict(
            PARAMS, NETWORK.transition({**PARAMS, "mix": mix}, latent, targets.action[:, 1])
        ).value.sum()

    expected = first_alone / 4 + jax.grad(second_alone)(PARAMS["mix"]) / 2
    np.testing.assert_allclose(
        jax.jit(jax.grad(lambda mix: last_value(mix, True)))(PARAMS["mix"]), expected, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_bins": 20}, "agent.num_bins=20 has no bin for zero. Use an odd number, such as 21."),
        ({"improvement": "two_step"}, "agent.improvement='two_step' is not known"),
        ({"optimizer": OptimizerConfig(weight_decay=-1.0)}, "agent.optimizer.weight_decay=-1.0 must lie in"),
    ],
)
def test_values_that_cannot_be_are_refused_in_one_line(config, said):
    with pytest.raises(ConfigError) as caught:
        AgentConfig(**config)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tree_search_without_mctx_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^agent.improvement='mcts' needs mctx: pip install -e '\.\[mctx\]'\.$"):
        make_toy_agent(improvement="mcts")


CHAIN = 4  # States of a chain: action 1 goes on and earns 1 at its end, action 0 goes back to the start.


def chain_sample(seed, length, batch):
    """Episodes of random actions, each from a state of its own, as a data set gives them."""
    rng = np.random.default_rng(seed)
    state = np.zeros((length + 1, batch), int)
    action = rng.integers(2, size=(length, batch)).astype(np.int32)
    reward, discount = np.zeros((2, length, batch), np.float32)
    first = np.zeros((length + 1, batch), bool)
    state[0] = rng.integers(CHAIN, size=batch)
    over = np.zeros(batch, bool)
    for t in range(length):
        wins = (state[t] == CHAIN - 1) & (action[t] == 1) & ~over
        reward[t], discount[t] = wins, ~wins
        first[t + 1] = over
        over = over | wins
        state[t + 1] = np.where(over, state[t], np.where(action[t] == 1, np.minimum(state[t] + 1, CHAIN - 1), 0))
    return Sample(
        trajectory=Trajectory(
            observation=np.eye(CHAIN, dtype=np.float32)[state],
            first=first,
            action=action,
            reward=reward,
            discount=np.where(first[1:], 1, discount).astype(np.float32),
            behaviour=(),
            carry=(),
            opening_reward=np.zeros(batch, np.float32),
            env_index=np.arange(batch, dtype=np.uint32),
            params_version=(),
        ),
        weight=np.ones(batch, np.float32),
    )


@pytest.mark.slow
def test_the_model_of_a_chain_predicts_rewards_and_its_policy_walks_to_the_end():
    spec = EnvSpec(id="chain", observation=jax.ShapeDtypeStruct((CHAIN,), jnp.float32), actions=DiscreteActions(2))
    config = AgentConfig(
        unroll_steps=3,
        n_steps=3,
        discount=0.9,
        num_bins=7,
        target_period=20,
        optimizer=OptimizerConfig(name="adamw", learning_rate=3e-3, learning_rate_decay=False, weight_decay=1e-4),
    )
    networks = make_networks(NetworkConfig(hidden_sizes=(32,)), spec)
    agent = make_agent(config, networks=networks, spec=spec, num_envs=4, num_updates=1000)
    carry = agent.keep(agent.initial_carry(np.arange(64, dtype=np.uint32)))

    def with_carry(sample):
        return dataclasses.replace(sample, trajectory=dataclasses.replace(sample.trajectory, carry=carry))

    @jax.jit
    def learn(state, samples):
        def step(state, sample):
            learned, metrics, _ = agent.learn(state, Batch(recorded={UNIFORM: with_carry(sample)}))
            return dataclasses.replace(learned, learner_step=state.learner_step + 1), metrics

        return jax.lax.scan(step, state, samples)

    state = jax.jit(agent.init)(jax.random.key(0))
    samples = [chain_sample(seed, 6, 64) for seed in range(50)]
    for _ in range(16):
        state, metrics = learn(state, jax.tree.map(lambda *x: np.stack(x), *samples))
    held_out = jax.tree.map(lambda x: np.asarray(x)[None], chain_sample(1000, 6, 64))
    _, metrics = learn(state, held_out)
    assert metrics["model/reward_error"][0] < 0.05
    network = networks.model(config.model_shape)
    trajectory = with_carry(chain_sample(0, 6, 64)).trajectory
    every = dataclasses.replace(
        trajectory, observation=np.broadcast_to(np.eye(CHAIN, dtype=np.float32)[:, None], (CHAIN, 64, CHAIN))
    )
    every = dataclasses.replace(
        every, first=np.zeros((CHAIN, 64), bool), action=every.action[:3], reward=every.reward[:3]
    )
    policy = network.predict(state.params, network.unroll(state.params, every)[0].latent).policy
    assert (np.argmax(policy, axis=-1) == 1).all()
