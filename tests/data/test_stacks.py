"""What a network sees of a recorded sequence is what the actor saw: frame stack, last action and last reward."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.agents.parts.sequences import resume_network
from podrl.agents.r2d2 import AgentConfig, make_agent
from podrl.config.config import NetworkConfig
from podrl.data.data_set import open_data
from podrl.data.gathering import WindowRows, gather_samples, with_initial_carry
from podrl.data.samplers import RecordedDraws
from podrl.data.window import Window, WindowPlan
from podrl.networks.action_values import make_q_network
from podrl.networks.available import make_networks
from podrl.types import Timestep
from tests.data.episodes import IMAGES, make_episode, write_episodes

LENGTH = 3
LENGTHS = (4, 1, 7, 2, 5, 1, 1, 6)


@pytest.fixture(scope="module")
def episodes():
    return [make_episode(n, length, IMAGES, truncated=bool(n % 2)) for n, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def data(episodes, tmp_path_factory):
    return open_data(write_episodes(tmp_path_factory.mktemp("images") / "set", episodes, IMAGES, shard_bytes=900))


def held_of(data, *, window, update):
    """The rows of a window after it has moved there, and the numbers of its episodes."""
    plan = WindowPlan(Window(rows=window), data.facts.length, seed=1)
    rows = WindowRows(data, plan)
    for each in range(update + 1):
        rows.move(plan.at(each))
    return rows.held, rows.episodes


def all_starts(held):
    """Every start of every episode that is held, as one batch."""
    starts = [(episode, step) for episode, length in enumerate(held.length) for step in range(length)]
    episode, step = np.array(starts, np.int32).T[:, None]
    return RecordedDraws(episode=episode, step=step, number=np.arange(len(starts), dtype=np.uint32))


def seen_by_actor(network, params, episode):
    """The carry before each row of an episode that is played from its start, and the network's output in each."""
    step, carry, found = jax.jit(network.step), network.initial_carry(1), []
    for t in range(episode.length + 1):
        timestep = Timestep(
            observation=jax.tree.map(lambda x, t=t: x[t : t + 1], episode.observation),
            reward=np.float32([episode.reward[t - 1] if t else 0]),
            discount=np.ones(1, np.float32),
            first=np.array([t == 0]),
        )
        before = carry
        output, carry = step(params, timestep, carry)
        found.append((before, output))
        carry = network.remember(carry, jnp.asarray(episode.action[t : t + 1])) if t < episode.length else carry
    return found


@pytest.mark.parametrize(("frame_stack", "last_action"), [(1, True), (2, False), (4, False), (4, True)])
@pytest.mark.parametrize(("window", "update"), [(0, 0), (20, 6)], ids=["whole", "moved"])
def test_the_stack_is_the_actors_at_every_start(data, episodes, frame_stack, last_action, window, update):
    config = NetworkConfig(encoder="minatar", frame_stack=frame_stack, last_action=last_action)
    network, before = make_q_network(config, IMAGES), max(frame_stack - 1, 1)
    params = jax.jit(network.init)(jax.random.key(0))
    held, numbers = held_of(data, window=window, update=update)
    draws = all_starts(held)
    (sample,) = of_each_batch(gather_samples(held, draws, LENGTH, np.ones(len(numbers), np.float32), before))
    kept = network.keep(network.initial_carry(sample.weight.size))
    sample = dataclasses.replace(sample, trajectory=dataclasses.replace(sample.trajectory, carry=kept))
    trajectory = resume_network(network, sample)
    outputs = jax.jit(network.unroll)(params, trajectory)[0].q_values
    played = [seen_by_actor(network, params, episodes[number]) for number in numbers]
    for b, (episode, step) in enumerate(zip(draws.episode[0], draws.step[0], strict=True)):
        carry, _ = played[episode][step]
        if step:  # What an episode's first row begins with is hidden by `first`.
            jax.tree.map(lambda x, y, b=b: np.testing.assert_array_equal(x[b], y[0]), trajectory.carry, carry)
        for t in range(min(LENGTH, len(played[episode]) - 1 - step) + 1):
            wanted = played[episode][step + t][1].q_values[0]
            np.testing.assert_allclose(outputs[t, b], wanted, rtol=2e-5, atol=2e-6)


def of_each_batch(samples):
    return [jax.tree.map(lambda x, k=k: x[k], samples) for k in range(samples.weight.shape[0])]


def test_no_row_of_another_episode_comes_before_the_first_step(data, episodes):
    """Rows before it are resets with the first observation, and nothing was done or earned there."""
    held, numbers = held_of(data, window=0, update=0)
    draws = all_starts(held)
    found = gather_samples(held, draws, 1, np.ones(len(numbers), np.float32), 3).before
    assert found.first.shape == (1, 3, sum(LENGTHS))
    for b, (number, step) in enumerate(zip(draws.episode[0], draws.step[0], strict=True)):
        episode = episodes[number]
        for r, at in enumerate(range(step - 3, step)):
            assert found.first[0, r, b] == (at <= 0)
            camera, action, reward = (x[0, r, b] for x in (found.observation["camera"], found.action, found.reward))
            np.testing.assert_array_equal(camera, episode.observation["camera"][max(at, 0)])
            acted = (action, reward, found.discount[0, r, b], found.params_version[0, r, b])
            if at < 0:
                assert acted == (0, 0, 1, 0)
            else:
                assert acted == (episode.action[at], episode.reward[at], 1, episode.params_version[at])


@pytest.mark.parametrize("before", [0, 1, 3])
def test_rows_before_are_the_same_on_the_host_and_in_a_program(data, before):
    held, numbers = held_of(data, window=20, update=6)
    draws, weight = all_starts(held), np.ones(len(numbers), np.float32)
    expected = gather_samples(held, draws, LENGTH, weight, before)
    narrow = dataclasses.replace(held, begin=held.begin.astype(np.int32), length=held.length.astype(np.int32))
    gather = jax.jit(gather_samples, static_argnums=(2, 4))
    found = jax.device_get(gather(*jax.device_put((narrow, draws)), LENGTH, jnp.asarray(weight), before))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert isinstance(found.before, tuple) == (before == 0)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.asarray(theirs).dtype


def test_a_recurrent_core_starts_from_its_initial_carry(data):
    network = NetworkConfig(encoder="minatar", frame_stack=3, core="lstm", core_size=16, last_action=True)
    agent = make_agent(AgentConfig(), networks=make_networks(network, IMAGES), spec=IMAGES, num_envs=4, num_updates=9)
    held, numbers = held_of(data, window=0, update=0)
    draws = all_starts(held)
    samples = gather_samples(held, draws, LENGTH, np.ones(len(numbers), np.float32), 2)
    (sample,) = of_each_batch(jax.jit(with_initial_carry, static_argnums=1)(samples, agent))
    core = jax.tree.leaves(sample.trajectory.carry.core)
    assert [x.shape for x in core] == [(draws.number.size, 16)] * 2
    assert all((x == 0).all() for x in core)
    carry = make_q_network(network, IMAGES).resume(sample.trajectory.carry, sample.before)
    assert jax.tree.structure(carry) == jax.tree.structure(make_q_network(network, IMAGES).initial_carry(2))
