"""Whole networks: sizes, step against unroll, compute types, config errors, and sharding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions, MultiDiscreteActions
from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.actor_critic import make_actor_critic
from podrl.networks.last_inputs import encode_action
from podrl.types import EnvSpec, Timestep, Trajectory

MEMORY = {"core": "lstm", "core_size": 16, "last_action": True, "last_reward": True}
COLLECTIVES = ("all-gather", "all-to-all", "collective-permute", "all-reduce", "reduce-scatter")


def make_spec(shape, dtype=jnp.uint8, num_actions=18):
    observation = jax.ShapeDtypeStruct(shape, dtype)
    return EnvSpec(id="Test-v0", observation=observation, actions=DiscreteActions(num_actions))


def random_unroll(network, spec, rows, batch):
    """A trajectory of random observations in `rows` rows; some of them open an episode, the first does not."""
    frame, shape, rng = spec.observation, (rows - 1, batch), np.random.default_rng(1)
    first = rng.random((rows, batch)) < 0.3
    first[0] = False
    return Trajectory(
        observation=jax.tree.map(lambda x: rng.uniform(0, 255, (rows, batch, *x.shape)).astype(x.dtype), frame),
        first=first,
        action=spec.actions.sample(rng, shape),
        reward=rng.normal(size=shape).astype(np.float32),
        discount=np.ones(shape, np.float32),
        behaviour=(),
        carry=jax.device_get(network.initial_carry(batch)),
        opening_reward=rng.normal(size=batch).astype(np.float32),
        env_index=np.arange(batch, dtype=np.uint32),
        params_version=np.zeros(shape, np.int32),
    )


def timestep_of(trajectory, row):
    """What the actor saw in a row."""
    reward = trajectory.reward[row - 1] if row else trajectory.opening_reward
    discount = trajectory.discount[row - 1] if row else np.ones_like(reward)
    return Timestep(
        observation=jax.tree.map(lambda x: x[row], trajectory.observation),
        reward=reward,
        discount=discount,
        first=trajectory.first[row],
    )


@pytest.mark.parametrize(
    ("encoder", "width", "expected"), [("resnet", 1, 1_094_115), ("resnet", 2, 2_376_627), ("nature", 1, 1_693_875)]
)
def test_parameter_count_on_atari(encoder, width, expected):
    network = make_actor_critic(NetworkConfig(encoder=encoder, width=width, frame_stack=4), make_spec((84, 84, 1)))
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert type(params) is dict
    assert set(params) == {"encoder", "policy", "value"}
    assert sum(x.size for x in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize("memory", [{}, MEMORY], ids=["forgets", "remembers"])
@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize(
    ("encoder", "shape"),
    [("resnet", (13, 12, 2)), ("nature", (36, 38, 1)), ("minatar", (3, 4, 2)), ("mlp", (5,)), ("mlp", (4, 3, 2))],
)
def test_step_equals_unroll(encoder, shape, frame_stack, memory):
    spec = make_spec(shape, jnp.uint8 if len(shape) == 3 else jnp.float32, num_actions=4)
    check_step_equals_unroll(
        make_actor_critic(NetworkConfig(encoder=encoder, frame_stack=frame_stack, **memory), spec), spec
    )


@pytest.mark.parametrize("memory", [{"core": "lstm"}, {"last_action": True}, {"last_reward": True}], ids=str)
def test_step_equals_unroll_with_less_to_remember(memory):
    spec = make_spec((5,), jnp.float32, num_actions=4)
    check_step_equals_unroll(make_actor_critic(NetworkConfig(**memory), spec), spec)


def check_step_equals_unroll(network, spec, rows=6):
    """From a carry in the middle of an episode; relative to the scale of the outputs, which is that of the inputs."""
    params = jax.jit(network.init)(jax.random.key(0))
    trajectory = random_unroll(network, spec, rows, 3)
    assert trajectory.first[1:-1].any()
    rng = np.random.default_rng(6)
    carry = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), trajectory.carry)
    unrolled, last_carry = jax.jit(network.unroll)(params, dataclasses.replace(trajectory, carry=carry))
    assert unrolled.policy.shape == (rows, 3, 4)
    assert unrolled.value.shape == (rows, 3)
    assert np.std(unrolled.value) > 1e-3
    step, remember, scale = (
        jax.jit(network.step),
        jax.jit(network.remember),
        max(1.0, float(np.abs(unrolled.value).max())),
    )
    unrolled = jax.device_get(unrolled)
    for t in range(rows):
        output, carry = step(params, timestep_of(trajectory, t), carry)
        carry = remember(carry, trajectory.action[t]) if t < rows - 1 else carry
        np.testing.assert_allclose(output.policy / scale, unrolled.policy[t] / scale, atol=1e-6)
        np.testing.assert_allclose(output.value / scale, unrolled.value[t] / scale, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), carry, last_carry)


@pytest.mark.parametrize(
    ("encoder", "shape", "memory"),
    [("nature", (36, 38, 1), {}), ("mlp", (5,), {}), ("mlp", (5,), {"last_action": True, "last_reward": True})],
)
def test_rows_are_those_of_unroll(encoder, shape, memory):
    spec = make_spec(shape, jnp.uint8 if len(shape) == 3 else jnp.float32, num_actions=4)
    network = make_actor_critic(NetworkConfig(encoder=encoder, frame_stack=3, **memory), spec)
    params, trajectory = jax.jit(network.init)(jax.random.key(0)), random_unroll(network, spec, 6, 3)
    rows = np.array([[0, 5, 2], [3, 3, 0]], np.int32)
    found = jax.jit(network.rows)(params, trajectory, rows)
    unrolled, _ = jax.device_get(jax.jit(network.unroll)(params, trajectory))
    for x, y in ((found.policy, unrolled.policy), (found.value, unrolled.value)):
        np.testing.assert_allclose(x, y[rows, np.arange(3)], atol=1e-5, rtol=1e-5)
    assert np.std(found.value) > 1e-3
    assert make_actor_critic(NetworkConfig(encoder=encoder, core="lstm"), spec).rows is None


class TestMemory:
    """Which rows can see what: two environments, eight rows, and row 4 opens an episode in the second."""

    def rows_that_change(self, config, change):
        """[T, B] bool: whose value depends on what `change` changes."""
        spec = make_spec((5,), jnp.float32, num_actions=3)
        network = make_actor_critic(config, spec)
        trajectory = random_unroll(network, spec, 8, 2)
        trajectory = dataclasses.replace(trajectory, first=np.arange(16).reshape(8, 2) == 9)
        trajectory = jax.tree.map(jnp.asarray, trajectory)
        params, unroll = jax.jit(network.init)(jax.random.key(0)), jax.jit(network.unroll)
        before, after = (np.asarray(unroll(params, x)[0].value) for x in (trajectory, change(trajectory)))
        return before != after

    def test_an_lstm_sees_the_past_of_the_episode_and_nothing_else(self):
        def change(trajectory):
            return dataclasses.replace(trajectory, observation=trajectory.observation.at[2].add(1.0))

        seen = self.rows_that_change(NetworkConfig(core="lstm"), change)
        np.testing.assert_array_equal(seen[:, 0], np.arange(8) >= 2)
        np.testing.assert_array_equal(seen[:, 1], [False, False, True, True, False, False, False, False])
        np.testing.assert_array_equal(self.rows_that_change(NetworkConfig(), change)[:, 0], np.arange(8) == 2)

    def test_a_row_sees_the_action_and_reward_of_the_row_before_unless_it_opens_an_episode(self):
        def actions(trajectory):
            return dataclasses.replace(trajectory, action=(trajectory.action.at[3].add(1)) % 3)

        def rewards(trajectory):
            return dataclasses.replace(trajectory, reward=trajectory.reward.at[3].set(0.0))

        def openings(trajectory):
            carry = dataclasses.replace(trajectory.carry, action=trajectory.carry.action + 1)
            return dataclasses.replace(trajectory, carry=carry, opening_reward=jnp.zeros(2))

        both = NetworkConfig(last_action=True, last_reward=True)
        row_4 = [[row == 4, False] for row in range(8)]
        np.testing.assert_array_equal(self.rows_that_change(both, actions), row_4)
        np.testing.assert_array_equal(self.rows_that_change(both, rewards), row_4)
        np.testing.assert_array_equal(self.rows_that_change(both, openings), [[row == 0] * 2 for row in range(8)])
        assert not self.rows_that_change(NetworkConfig(last_reward=True), actions).any()
        assert not self.rows_that_change(NetworkConfig(last_action=True), rewards).any()

    @pytest.mark.parametrize(("reward", "seen"), [(0.9, True), (50.0, False)])
    def test_the_last_reward_is_clipped(self, reward, seen):
        spec = make_spec((5,), jnp.float32)
        network = make_actor_critic(NetworkConfig(last_reward=True), spec)
        trajectory, params = random_unroll(network, spec, 2, 1), jax.jit(network.init)(jax.random.key(0))
        one, other = (dataclasses.replace(trajectory, reward=np.full((1, 1), r, np.float32)) for r in (1.0, reward))
        unroll = jax.jit(network.unroll)
        values = [np.asarray(unroll(params, x)[0].value)[1] for x in (one, other)]
        assert (values[0] != values[1]).any() == seen

    def test_an_lstm_begins_by_remembering(self):
        network = make_actor_critic(NetworkConfig(core="lstm", core_size=8), make_spec((5,), jnp.float32))
        core = jax.device_get(jax.jit(network.init)(jax.random.key(0))["core"])
        np.testing.assert_array_equal(core["bias"], np.eye(4)[1][:, None] * np.ones(8))
        for gate in range(4):
            kernel = core["recurrent_kernel"][:, gate]
            np.testing.assert_allclose(kernel @ kernel.T, np.eye(8), atol=1e-5)
        assert np.std(core["input_kernel"]) == pytest.approx(64**-0.5, rel=0.1)


@pytest.mark.parametrize(
    ("actions", "action", "expected"),
    [
        (DiscreteActions(3), [2, 0], [[0, 0, 1], [1, 0, 0]]),
        (MultiDiscreteActions((2, 3)), [[1, 0], [0, 2]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (ContinuousActions(2), [[0.5, -3.0], [0.0, 1.0]], [[0.5, -3.0], [0.0, 1.0]]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_actions_as_inputs(actions, action, expected):
    encoded = encode_action(actions, jnp.asarray(action, actions.struct.dtype))
    assert encoded.dtype == jnp.float32
    np.testing.assert_array_equal(encoded, expected)


@pytest.mark.parametrize(("encoder", "memory"), [("resnet", {}), ("nature", {}), ("mlp", {}), ("mlp", MEMORY)])
def test_bfloat16_keeps_float32_params_and_outputs(encoder, memory):
    spec = make_spec((36, 36, 1), num_actions=4)
    exact = make_actor_critic(NetworkConfig(encoder=encoder, **memory), spec)
    network = make_actor_critic(NetworkConfig(encoder=encoder, compute_dtype="bfloat16", **memory), spec)
    params = jax.jit(network.init)(jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    arguments = (params, random_unroll(network, spec, 2, 2))
    output, expected = jax.jit(network.unroll)(*arguments)[0], jax.jit(exact.unroll)(*arguments)[0]
    assert output.policy.dtype == output.value.dtype == jnp.float32
    assert not np.array_equal(output.value, expected.value)
    np.testing.assert_allclose(output.value, expected.value, atol=0.05, rtol=0.05)


def test_pixels_are_scaled_and_floats_are_not():
    pixels = make_actor_critic(NetworkConfig(), make_spec((6,), jnp.uint8))
    floats = make_actor_critic(NetworkConfig(), make_spec((6,), jnp.float32))
    params = jax.jit(pixels.init)(jax.random.key(0))
    bytes_ = jnp.array([[0, 51, 102, 153, 204, 255]], jnp.uint8)
    timestep = Timestep(observation=bytes_, reward=jnp.zeros(1), discount=jnp.ones(1), first=jnp.zeros(1, bool))
    expected, _ = jax.jit(floats.step)(params, timestep.replace(observation=bytes_ / 255), floats.initial_carry(1))
    np.testing.assert_allclose(
        jax.jit(pixels.step)(params, timestep, pixels.initial_carry(1))[0].value, expected.value, rtol=1e-6
    )


def test_new_policy_is_nearly_uniform():
    spec = make_spec((84, 84, 1))
    network = make_actor_critic(NetworkConfig(encoder="nature"), spec)
    params = jax.jit(network.init)(jax.random.key(0))
    output, _ = jax.jit(network.unroll)(params, random_unroll(network, spec, 2, 2))
    assert 0 < np.abs(output.policy).max() < 0.1


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        (
            NetworkConfig(encoder="nature"),
            (50,),
            "network.encoder='nature' needs images [H, W, C] of at least 36x36; env.id='Test-v0' gives (50,). "
            "Use network.encoder='mlp'.",
        ),
        (
            NetworkConfig(encoder="nature"),
            (35, 84, 1),
            "network.encoder='nature' needs images [H, W, C] of at least 36x36; env.id='Test-v0' gives (35, 84, 1). "
            "Use network.encoder='mlp'.",
        ),
        (
            NetworkConfig(encoder="resnet"),
            (84, 84),
            "network.encoder='resnet' needs images [H, W, C]; env.id='Test-v0' gives (84, 84). "
            "Use network.encoder='mlp'.",
        ),
        (
            NetworkConfig(frame_stack=2),
            (),
            "network.frame_stack=2 needs observations with at least one axis; env.id='Test-v0' gives a scalar. "
            "Use network.frame_stack=1.",
        ),
    ],
)
def test_config_errors(config, shape, expected):
    with pytest.raises(ConfigError) as error:
        make_actor_critic(config, make_spec(shape))
    assert str(error.value) == expected


def test_sharded_unroll_moves_nothing_between_devices():
    """With environments sharded over eight devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = lambda *spec: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))  # noqa: E731
    spec = make_spec((13, 12, 1), num_actions=4)
    network = make_actor_critic(NetworkConfig(encoder="resnet", frame_stack=4, **MEMORY), spec)
    trajectory = random_unroll(network, spec, 3, 16)
    shardings = (sharding(), trajectory.map(lambda _: sharding(None, "data"), lambda _: sharding("data")))
    unroll = lambda *arguments: network.unroll(*arguments)[0]  # noqa: E731
    params = jax.eval_shape(network.init, jax.random.key(0))
    compiled = jax.jit(unroll, in_shardings=shardings).lower(params, trajectory).compile().as_text()
    assert "u8[3,2,13,12,1]" in compiled  # One device's share of the environments.
    assert not [name for name in COLLECTIVES if name in compiled]
