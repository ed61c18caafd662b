"""DrQ-v2: n-step transitions of augmented stacks, targets, who trains the encoder, and the noise of actions."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions
from podrl.agents.drq import AgentConfig, make_agent, noisy_action
from podrl.agents.parts.augmenting import augment_images, n_step_transitions
from podrl.agents.parts.interface import Batch, Partition
from podrl.config.augment import AugmentConfig
from podrl.config.config import ConfigError, NetworkConfig
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.available import make_networks
from podrl.networks.shared_encoder import join_encoder, split_encoder
from podrl.replay.batches import evenly_weighted
from podrl.types import VECTOR, EnvSpec
from tests.short_runs import random_trajectory

ACTIONS = ContinuousActions(2)
IMAGE = EnvSpec(id="image", observation=jax.ShapeDtypeStruct((15, 16, 2), jnp.uint8), actions=ACTIONS)
FLOATS = EnvSpec(id="floats", observation=jax.ShapeDtypeStruct((5,), jnp.float32), actions=ACTIONS)
PARTS = EnvSpec(id="parts", observation={"eye": IMAGE.observation, VECTOR: FLOATS.observation}, actions=ACTIONS)
NETWORK = NetworkConfig(encoder="drq", hidden_sizes=(8,), frame_stack=3)
STEPS, NUM = 3, 8
NONE = AugmentConfig(kinds=())


def plain(learning_rate):
    """With a large epsilon Adam's steps are in proportion to the gradients."""
    return OptimizerConfig(name="adam", learning_rate=learning_rate, learning_rate_decay=False, epsilon=1.0)


def make(spec=IMAGE, network=NETWORK, partition=Partition(), **config):  # noqa: B008 (frozen)
    config = AgentConfig(**{"random_steps": 0, "features": 6, **config})
    networks = make_networks(network, spec)
    return make_agent(config, networks=networks, spec=spec, num_envs=NUM, num_updates=10, partition=partition)


@functools.cache
def case():
    """An agent without noise and augmentation whose slow copies differ, its state, and rollouts of three steps."""
    agent = make(augment=NONE, noise_start=0.0, noise_end=0.0, discount=0.9)
    state = jax.jit(agent.init)(jax.random.key(0))
    target = jax.tree.map(lambda x: 0.7 * x + 0.1, state.extra["target"])
    state = dataclasses.replace(state, extra={**state.extra, "target": target})
    trajectory = random_trajectory(agent, IMAGE, STEPS, NUM, 3)
    first = np.array(trajectory.first)
    first[1, :2] = True  # Two sequences begin with a reset.
    return agent, state, evenly_weighted(dataclasses.replace(trajectory, first=first))


def folded_by_loop(trajectory, discount):
    """Row of the end, sum of rewards and product of discounts of each sequence."""
    for b in range(NUM):
        end, total, factor = 0, 0.0, 1.0
        for t in range(STEPS):
            if trajectory.first[t + 1, b]:
                break
            total += factor * trajectory.reward[t, b]
            factor *= discount * trajectory.discount[t, b]
            end = t + 1
        yield end, total, factor


def stack_by_loop(trajectory, b, row, carry):
    """The three newest frames of an episode, its first one repeated."""
    frames, before = [], np.split(np.asarray(carry[b]), 2, axis=-1)
    age = row
    for _ in range(3):
        frames.insert(0, trajectory.observation[age, b] if age >= 0 else before[age])
        age -= not (age >= 0 and trajectory.first[age, b])
    return np.concatenate(frames, axis=-1)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_sequence_is_one_transition_over_its_steps_with_stacks_at_both_ends(terminal):
    _, _, sample = case()
    network, _ = make_networks(NETWORK, IMAGE).shared(features=6)
    trajectory = jax.device_get(sample.trajectory)
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 255, trajectory.carry.frames.shape).astype(np.uint8)
    discount = np.where(trajectory.first[1:] | (not terminal), 1, rng.random((STEPS, NUM)) > 0.5).astype(np.float32)
    carry = dataclasses.replace(trajectory.carry, frames=frames)
    trajectory = dataclasses.replace(trajectory, carry=carry, discount=discount)
    assert {end for end, *_ in folded_by_loop(trajectory, 0.9)} >= {0, 3}

    config = AgentConfig(augment=NONE, discount=0.9, reward_scale=2.0)
    given = dataclasses.replace(sample, trajectory=trajectory)
    found = jax.jit(lambda sample: n_step_transitions(config, network, sample, jax.random.key(0)))(given).trajectory
    np.testing.assert_array_equal(found.is_transition, ~trajectory.first[1:2])
    np.testing.assert_array_equal(found.action, trajectory.action[:1])
    for b, (end, total, factor) in enumerate(folded_by_loop(trajectory, 0.9)):
        np.testing.assert_array_equal(found.observation[0, b], stack_by_loop(trajectory, b, 0, frames))
        np.testing.assert_array_equal(found.observation[1, b], stack_by_loop(trajectory, b, end, frames))
        if end:
            np.testing.assert_allclose(
                [found.reward[0, b], found.discount[0, b]], [2 * total, factor], rtol=1e-5, atol=1e-5
            )


def test_both_ends_of_each_transition_have_augmentation_of_their_own():
    _, _, sample = case()
    network, _ = make_networks(NETWORK, IMAGE).shared(features=6)
    image = np.random.default_rng(0).integers(0, 255, (15, 16, 2)).astype(np.uint8)
    alike = np.broadcast_to(image, sample.trajectory.observation.shape)
    first = np.ones((STEPS + 1, NUM), bool)
    sample = dataclasses.replace(
        sample, trajectory=dataclasses.replace(sample.trajectory, observation=alike, first=first)
    )

    def observed(sample, key):
        return np.asarray(n_step_transitions(AgentConfig(), network, sample, key).trajectory.observation)

    found = observed(sample, jax.random.key(0))
    frames = np.split(found, 3, axis=-1)
    assert all(np.array_equal(frame, frames[0]) for frame in frames)  # Those of a stack have the same shift.
    assert len(np.unique(found.reshape(2 * NUM, -1), axis=0)) > NUM
    assert np.any(found != observed(sample, jax.random.key(1)))
    few = sample.map(lambda x: x[:, 2:5], lambda x: x[2:5])
    np.testing.assert_array_equal(observed(few, jax.random.key(0)), found[:, 2:5])


def test_only_images_are_augmented_by_each_kind_in_its_order():
    keys = jax.random.split(jax.random.key(0), (2, 3))
    observation = {"eye": np.full((2, 3, 6, 6, 1), 100, np.uint8), VECTOR: np.ones((2, 3, 5), np.float32)}
    for kinds, darkest in ((("cutout", "noise"), 1), (("noise", "cutout"), 0)):
        found = augment_images(AugmentConfig(kinds=kinds, cutout=6, noise=0.3), keys, observation)
        np.testing.assert_array_equal(found[VECTOR], observation[VECTOR])
        holes = np.asarray(found["eye"])[:, :, 2:4, 2:4]
        assert (holes.max() > 0) or not darkest
        assert len(np.unique(np.asarray(found["eye"]).reshape(6, -1), axis=0)) == 6


def test_a_slow_copy_has_the_path_of_what_it_copies():
    state = case()[1]
    slow, params = (
        {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (state.extra["target"], state.params)
    )
    assert slow < params


def test_targets_bootstrap_from_slow_critics_behind_the_encoder_of_today():
    agent, state, sample = case()
    policy, critic = make_networks(NETWORK, IMAGE).shared(features=6)
    _, metrics, _ = jax.jit(agent.learn)(state, Batch(rollouts=sample))
    trajectory = sample.trajectory
    slow = {"critic": join_encoder(state.extra["target"]["critic"], split_encoder(state.params["critic"])[1])}
    targets, taken = [], []
    for b, (end, total, factor) in enumerate(folded_by_loop(jax.device_get(trajectory), 0.9)):
        if end:
            rows = np.full((1, NUM), end, np.int32)
            action = jnp.tanh(policy.rows(state.params, trajectory, rows))[:, :, None]
            targets.append(total + factor * critic.rows(slow, trajectory, rows, action)[0, b, 0].min())
            now = critic.rows(state.params, trajectory, 0 * rows, trajectory.action[:1, :, None])
            taken.append(now[0, b, 0])
    targets, taken = np.array(targets), np.array(taken)
    np.testing.assert_allclose(metrics["value/target"], targets.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["value/taken"], taken.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        metrics["loss/value"], np.mean(0.5 * ((targets[:, None] - taken) ** 2).sum(axis=1)), rtol=1e-4
    )


def differs(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(np.abs(x - y).max() > 1e-8 for x, y in pairs)


@pytest.mark.parametrize("who", ["policy", "critic"])
def test_critics_alone_train_the_encoder(who):
    rates = {"optimizer": "policy", "critic_optimizer": "critic"}
    rates = {name: plain(1.0 if whose == who else 1e-12) for name, whose in rates.items()}
    agent = make(target_rate=0.25, **rates)
    state, sample = jax.jit(agent.init)(jax.random.key(0)), case()[2]
    after, _, _ = jax.jit(agent.learn)(state, Batch(rollouts=sample))
    encoders = [split_encoder(x.params["critic"])[1] for x in (state, after)]
    heads = [split_encoder(x.params["critic"])[0] for x in (state, after)]
    assert differs(*encoders) == differs(*heads) == (who == "critic")
    assert differs(state.params["policy"], after.params["policy"]) == (who == "policy")
    jax.tree.map(
        lambda slow, old, new: np.testing.assert_allclose(slow, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-7),
        *(after.extra["target"]["critic"], state.extra["target"]["critic"], heads[1]),
    )


def test_actors_noise_falls_over_the_run_and_is_not_clipped():
    agent = make(noise_decay=0.5, max_noise=0.01)
    state = jax.jit(agent.init)(jax.random.key(0))
    at = [agent.actor_params(dataclasses.replace(state, step=jnp.int32(step)))["noise"] for step in (0, 2, 5, 10)]
    np.testing.assert_allclose(at, [1.0, 0.64, 0.1, 0.1], rtol=1e-5)


def test_noise_is_clipped_at_its_most_and_the_gradient_passes_the_bounds():
    keys, output = jax.random.split(jax.random.key(0), 2000), jnp.full((2000, 2), 0.3)
    mean = np.tanh(0.3)
    free = noisy_action(keys, output, jnp.float32(0.5))
    assert (np.abs(free) <= 1).all()
    assert (free == 1).any()
    inside = np.asarray(free)[np.abs(free) < 1]
    assert inside.min() < mean - 0.9
    held = np.asarray(noisy_action(keys, output, jnp.float32(0.5), 0.2))
    np.testing.assert_allclose([held.min(), held.max()], [mean - 0.2, mean + 0.2], rtol=1e-5)
    slope = jax.grad(lambda x: noisy_action(keys, x, jnp.float32(0.5)).sum())(output)
    np.testing.assert_allclose(slope, 1 - np.tanh(output) ** 2, rtol=1e-5)


def test_parts_of_the_batch_add_up_to_the_whole():
    agents = [
        make(optimizer=plain(0.1), critic_optimizer=plain(0.1), partition=Partition(micro_batches=n)) for n in (1, 4)
    ]
    state = jax.jit(agents[0].init)(jax.random.key(0))
    found = [jax.jit(agent.learn)(state, Batch(rollouts=case()[2])) for agent in agents]
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5),
        *((after.params, after.extra, metrics) for after, metrics, _ in found),
    )


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ({"kinds": ("shft",)}, "agent.augment.kinds[0]='shft' is not known; did you mean 'shift'?"),
        ({"kinds": ("shift", "shift")}, "agent.augment.kinds=('shift', 'shift') has a kind twice"),
        ({"noise": 0.1}, "agent.augment.noise=0.1 has no effect, as agent.augment.kinds=('shift',) lacks 'noise'."),
        ({"shift": 0}, "agent.augment.shift=0 must lie in [1, 64]."),
    ],
)
def test_augmentation_that_is_not_known_or_has_no_effect_is_refused(augment, said):
    with pytest.raises(ConfigError) as caught:
        AgentConfig(augment=AugmentConfig(**augment))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_augmentation_of_vectors_is_refused_unless_it_is_the_default():
    network = NetworkConfig(hidden_sizes=(8,))
    with pytest.raises(ConfigError, match=r"^agent.augment.kinds=.* has no effect: .*env.id='floats' gives vectors"):
        make(FLOATS, network, augment=AugmentConfig(kinds=("noise",)))
    for augment in (AugmentConfig(), NONE):
        assert make(FLOATS, network, augment=augment)
    assert make(PARTS, dataclasses.replace(NETWORK, encoder="minatar"), augment=AugmentConfig(kinds=("noise",)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"last_action": True}, r"^network.last_action=True has no place"),
        ({"last_reward": True}, r"^network.last_reward=True has no place"),
        ({"core": "lstm"}, r"network.core='lstm'. Use network.core=none"),
        ({"separate_value": True}, r"^network.separate_value=True has no meaning"),
    ],
)
def test_networks_that_it_cannot_use_are_refused(changed, said):
    with pytest.raises(ConfigError, match=said):
        make(network=dataclasses.replace(NETWORK, **changed))
