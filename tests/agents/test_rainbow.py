"""Rainbow: targets, priorities and noise, against loops written from the papers."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.agents.parts.atom_loss import atom_loss
from podrl.agents.parts.augmented_sequences import augment_sequences
from podrl.agents.parts.interface import Batch, Partition
from podrl.agents.rainbow import AgentConfig, make_agent
from podrl.config.augment import AugmentConfig
from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.available import make_networks
from podrl.networks.interface import AtomNetwork, AtomOutput
from podrl.types import EnvSpec, Timestep
from tests.agents.test_r2d2 import NUM_ACTIONS, NUM_STATES, random_sample

SMALL = {"num_atoms": 5, "min_value": -3.0, "max_value": 5.0}
SPEC = EnvSpec(id="v", observation=jax.ShapeDtypeStruct((6,), jnp.float32), actions=DiscreteActions(3))


def table_network(atoms, rows=True):
    """Logits for each state and action; observations are states. What its first state may do has a mask."""

    def output(params, state):
        logits = params["logits"][state]
        q_values = jnp.sum(jax.nn.softmax(logits) * atoms, axis=-1)
        return AtomOutput(q_values=q_values, logits=logits, latent=state)

    def unroll(params, trajectory):
        return output(params, trajectory.observation), trajectory.carry

    def some_rows(params, trajectory, chosen):
        return output(params, jnp.take_along_axis(jnp.asarray(trajectory.observation), chosen, 0))

    unused = dict.fromkeys(("values", "transition", "project", "predict"))
    return AtomNetwork(
        init=lambda key: {},
        initial_carry=lambda batch_size: (),
        step=lambda params, timestep, carry: (output(params, timestep.observation), carry),
        unroll=unroll,
        rows=some_rows if rows else None,
        add_noise=lambda params, keys: params,
        **unused,
    )


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def paper_targets(config, online, slow, sample):
    """For each row that is learned from, the target and the distribution of the action, atom by atom."""
    trajectory, atoms = sample.trajectory, np.linspace(config.min_value, config.max_value, config.num_atoms)
    distance, found = atoms[1] - atoms[0], {}
    length, batch = trajectory.reward.shape
    stop = max(length - (config.n_steps - 1 if config.starts == "rows" else 0), config.burn_in + 1)
    for b in range(batch):
        for t in range(config.burn_in, stop):
            if trajectory.first[t + 1, b]:
                continue
            total, weight, at = 0.0, 1.0, t
            while at < min(t + config.n_steps, length) and not trajectory.first[at + 1, b]:
                reward = np.clip(trajectory.reward[at, b], -config.max_reward, config.max_reward)
                total += weight * reward
                weight *= trajectory.discount[at, b] * config.discount
                at += 1
            state = trajectory.observation[at, b]
            best = (softmax(online[state]) @ atoms).argmax()
            target = np.zeros(config.num_atoms)
            for atom, probability in zip(atoms, softmax(slow[state, best]), strict=True):
                place = (np.clip(total + weight * atom, atoms[0], atoms[-1]) - atoms[0]) / distance
                lower = min(int(place), config.num_atoms - 2)
                target[lower] += probability * (lower + 1 - place)
                target[lower + 1] += probability * (place - lower)
            taken = online[trajectory.observation[t, b], trajectory.action[t, b]]
            found[t, b] = target, softmax(taken)
    return found


@pytest.mark.parametrize(
    "config",
    [{}, {"n_steps": 1, "length": 3, "max_reward": 1.5}, {"starts": "unrolls", "burn_in": 2, "length": 4}],
    ids=["single rows", "one step", "recurrent"],
)
def test_loss_gradient_and_priorities_are_the_papers(config):
    config = AgentConfig(**SMALL, **config)
    rng = np.random.default_rng(0)
    online, slow = rng.normal(size=(2, NUM_STATES, NUM_ACTIONS, config.num_atoms)) * 2
    network = table_network(jnp.linspace(-3, 5, 5), rows=config.starts == "rows")
    for seed in range(2):
        sample = random_sample(seed, *((3, 24) if config.length == 1 else (9, 6)))
        batch, found = len(sample.weight), paper_targets(config, online, slow, sample)
        loss, gradient = 0.0, np.zeros_like(online)
        divergences = [[] for _ in range(batch)]
        for (t, b), (target, taken) in found.items():
            loss -= sample.weight[b] * np.sum(target * np.log(taken)) / batch
            state, action = sample.trajectory.observation[t, b], sample.trajectory.action[t, b]
            gradient[state, action] += sample.weight[b] * (taken - target) / batch
            divergences[b].append(sum(p * np.log(p / q) for p, q in zip(target, taken, strict=True) if p > 0))
        tables = [{"logits": jnp.float32(table)} for table in (online, slow)]
        own_loss = functools.partial(atom_loss, config, network, num_sequences=batch, num_learned=len(found))
        loss_and_grads = jax.jit(jax.value_and_grad(own_loss, has_aux=True))
        (total, (metrics, priority)), grads = loss_and_grads(*tables, sample)
        np.testing.assert_allclose(total, loss, rtol=1e-4)
        np.testing.assert_allclose(grads["logits"], gradient, rtol=1e-3, atol=1e-5)
        expected = [0.9 * max(own) + 0.1 * np.mean(own) if own else 0.0 for own in divergences]
        np.testing.assert_allclose(priority, expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(metrics["value/error"], sum(map(sum, divergences)) / len(found), rtol=1e-3)


def make(config=None, network=None, num_envs=8, **options):
    networks = make_networks(network or NetworkConfig(hidden_sizes=(16,)), SPEC)
    config = config or AgentConfig()
    return make_agent(config, networks=networks, spec=SPEC, num_envs=num_envs, num_updates=10, **options)


def same_observation(num):
    row = np.random.default_rng(0).normal(size=6).astype(np.float32)
    zeros = np.zeros(num, np.float32)
    return Timestep(observation=np.tile(row, (num, 1)), reward=zeros, discount=zeros + 1, first=zeros > 1)


def test_noise_explores_each_environment_by_its_own_key_and_evaluations_have_none():
    agent, num = make(), 64
    params = agent.actor_params(jax.jit(agent.init)(jax.random.key(0)))
    carry, keys = agent.initial_carry(np.arange(num, dtype=np.uint32)), jax.random.split(jax.random.key(1), num)
    act, timestep = jax.jit(agent.act), same_observation(num)
    action = np.asarray(act(params, timestep, carry, keys)[0])
    assert len(np.unique(action)) > 1
    order = np.random.default_rng(1).permutation(num)
    np.testing.assert_array_equal(act(params, timestep, carry, keys[order])[0], action[order])
    assert np.any(act(params, timestep, carry, jax.random.split(jax.random.key(2), num))[0] != action)
    greedy = np.asarray(jax.jit(agent.act_greedy)(params, timestep, carry, keys)[0])
    assert len(np.unique(greedy)) == 1


def test_an_agent_that_would_never_explore_is_refused():
    with pytest.raises(ConfigError, match=r"agent\.random_share=0 never explores.* Use agent\.random_share=0\.01"):
        AgentConfig(noisy=False)


def test_without_noise_epsilon_explores():
    agent, num = make(AgentConfig(noisy=False, random_share=0.6, **SMALL)), 2000
    params = agent.actor_params(jax.jit(agent.init)(jax.random.key(0)))
    assert not any("sigma" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    carry, keys = agent.initial_carry(np.arange(num, dtype=np.uint32)), jax.random.split(jax.random.key(1), num)
    action = np.asarray(jax.jit(agent.act)(params, same_observation(num), carry, keys)[0])
    greedy = np.asarray(jax.jit(agent.act_greedy)(params, same_observation(num), carry, keys)[0])
    np.testing.assert_allclose(np.mean(action != greedy), 0.6 * 2 / 3, atol=0.04)


def vectors(seed, length=4, batch=6):
    """`random_sample` with vectors for observations."""
    sample = random_sample(seed, length, batch)
    observation = np.random.default_rng(seed).normal(size=(length + 1, batch, 6)).astype(np.float32)
    trajectory = dataclasses.replace(sample.trajectory, observation=observation)
    return dataclasses.replace(sample, trajectory=trajectory, before=())


def test_learning_draws_new_noise_each_time_and_parts_of_a_batch_share_it():
    agent = make(AgentConfig(**SMALL))
    parts = make(AgentConfig(**SMALL), partition=Partition(micro_batches=3))
    state, batch = jax.jit(agent.init)(jax.random.key(0)), Batch(rollouts=with_carry(agent, vectors(0)))
    learn = jax.jit(agent.learn)
    after, metrics, priority = learn(state, batch)
    assert np.any(jax.random.key_data(after.key) != jax.random.key_data(state.key))
    _, again, _ = learn(dataclasses.replace(state, key=after.key), batch)
    assert float(again["loss/total"]) != float(metrics["loss/total"])
    in_parts = jax.jit(parts.learn)(state, batch)
    np.testing.assert_allclose(in_parts[1]["loss/total"], metrics["loss/total"], rtol=1e-5)
    np.testing.assert_allclose(in_parts[2], priority, rtol=1e-4)
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), after.params, state.params)
    assert min(jax.tree.leaves(moved["head"])) > 0  # The noise's scales are learned, too.


def with_carry(agent, sample):
    carry = agent.initial_carry(sample.trajectory.env_index)
    return dataclasses.replace(sample, trajectory=dataclasses.replace(sample.trajectory, carry=carry))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"burn_in": 2}, "agent.burn_in=2 has no meaning with agent.starts='rows'"),
        ({"num_atoms": 1}, r"agent.num_atoms=1 must lie in \[2, 10000\]"),
        ({"min_value": 10.0}, "agent.min_value=10 must lie below agent.max_value=10. Lower it"),
    ],
)
def test_values_that_do_not_fit_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        AgentConfig(**config)


def test_a_core_cannot_start_anywhere():
    with pytest.raises(ConfigError, match=r"agent.starts='rows' needs a network .* Use agent.starts=unrolls"):
        make(network=NetworkConfig(core="lstm"))


def test_sequences_reach_to_what_a_target_and_imagined_latents_need():
    assert AgentConfig(n_steps=3).sequences.rows == 3
    config = AgentConfig(n_steps=3, auxiliary=dataclasses.replace(AgentConfig().auxiliary, kind="value", steps=5))
    assert config.sequences.rows == 5
    assert dataclasses.replace(config, n_steps=10).sequences.rows == 10


def test_all_rows_of_a_sequence_are_shifted_alike_and_each_sequence_its_own_way():
    length, batch, size = 3, 16, 12
    sample = random_sample(0, length, batch)
    image = np.random.default_rng(0).integers(1, 255, (size, size, 1)).astype(np.uint8)
    rows = np.tile(image, (length + 1, batch, 1, 1, 1))
    vector = np.ones((length + 1, batch, 5), np.float32)
    sample = dataclasses.replace(
        sample,
        trajectory=dataclasses.replace(sample.trajectory, observation={"camera": rows, "vector": vector}),
        before=dataclasses.replace(sample.trajectory, observation={"camera": rows[:2], "vector": vector[:2]}),
    )
    augment = jax.jit(lambda key, sample: augment_sequences(AugmentConfig(kinds=("shift",), shift=3), key, sample))
    found = jax.device_get(augment(jax.random.key(0), sample))
    images, before = found.trajectory.observation["camera"], found.before.observation["camera"]
    assert images.dtype == np.uint8
    for row in (*images, *before):
        np.testing.assert_array_equal(row, images[0])
    assert len(np.unique(images[0].reshape(batch, -1), axis=0)) > batch / 2
    np.testing.assert_array_equal(found.trajectory.observation["vector"], vector)
    assert augment_sequences(AugmentConfig(kinds=()), None, sample) is sample


def test_augmentation_without_an_image_is_refused():
    with pytest.raises(ConfigError, match=r"agent.augment.kinds=.*shift.* has no effect: .* Leave out agent.augment"):
        make(AgentConfig(augment=AugmentConfig()))
