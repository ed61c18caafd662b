import ctypes.util
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions, MultiDiscreteActions
from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.sources.envpool import make_picture_pool, make_pool, make_spec


def play(pool, actions):
    timesteps = [pool.reset()]
    for action in np.asarray(actions):
        pool.send(action.astype(np.float32 if np.issubdtype(action.dtype, np.floating) else np.int32))
        timesteps.append(pool.recv())
    return timesteps


def one_row(env_id, actions, max_episode_steps=0, **options):
    """Plays one environment; observations, rewards, discounts and first flags with time leading."""
    config = EnvConfig(id=env_id, max_episode_steps=max_episode_steps, options=options)
    pool = make_pool(config, seeds=[7], num_threads=1)
    timesteps = play(pool, [[action] for action in actions])
    return tuple(
        np.array([getattr(t, name)[0] for t in timesteps]) for name in ("observation", "reward", "discount", "first")
    )


def test_cartpole_falls_and_resets_on_the_next_step():
    observation, reward, discount, first = one_row("CartPole-v1", [1] * 30)

    end = int(np.argmin(discount))
    assert abs(observation[end, 2]) > 0.2095  # the final observation arrives with the final step: the pole has fallen
    assert (reward[1 : end + 1] == 1).all()
    assert reward[end + 1] == 0
    assert np.flatnonzero(first)[:2].tolist() == [0, end + 1]
    assert (np.abs(observation[end + 1]) < 0.05).all()  # where CartPole starts


def test_catch_pays_with_the_final_step():
    _, reward, discount, first = one_row("Catch-v0", [1] * 20)

    assert np.flatnonzero(discount == 0).tolist() == [9, 19]
    assert np.flatnonzero(first).tolist() == [0, 10, 20]
    assert np.flatnonzero(reward).tolist() == [9, 19]


def test_frozen_lake_ends_in_holes_and_pays_at_the_goal():
    holes, goal = [5, 7, 11, 12], 15
    pool = make_pool(EnvConfig(id="FrozenLake-v1"), seeds=range(8), num_threads=1)
    timesteps = play(pool, np.random.default_rng(0).integers(0, 4, (200, 8)))
    state = np.array([t.observation.argmax(axis=1) for t in timesteps])
    reward, discount, first = (
        np.array([getattr(t, name) for t in timesteps]) for name in ("reward", "discount", "first")
    )

    assert (state == goal).any()
    np.testing.assert_array_equal(discount == 0, np.isin(state, [*holes, goal]))
    np.testing.assert_array_equal(reward, state == goal)
    np.testing.assert_array_equal(first[1:], discount[:-1] == 0)
    assert (state[first] == 0).all()


@pytest.mark.parametrize(
    ("env_id", "options", "limit"),
    [
        ("MountainCar-v0", {}, 200),
        ("CartPole-v1", {"max_episode_steps": 5}, 5),
        ("Breakout-v5", {"max_episode_steps": 6, "noop_max": 1}, 6),
        ("Breakout-v5", {"max_episode_frames": 24, "noop_max": 1}, 6),
        ("Breakout-v5", {"max_episode_frames": 24, "noop_max": 1, "max_episode_steps": 9}, 9),
    ],
)
def test_truncation_keeps_discount_one_and_is_followed_by_a_reset_row(env_id, options, limit):
    _, reward, discount, first = one_row(env_id, [0] * (2 * limit + 2), **options)

    assert (discount == 1).all()
    assert np.flatnonzero(first).tolist() == [0, limit + 1, 2 * limit + 2]
    assert (reward[first] == 0).all()


def test_action_before_a_reset_row_is_ignored():
    actions = [1] * 30
    observation, _, discount, _ = one_row("CartPole-v1", actions)
    end = int(np.argmin(discount))
    others = actions.copy()
    others[end] = 0

    np.testing.assert_array_equal(one_row("CartPole-v1", others)[0], observation)
    others[end + 1] = 0  # the check itself: the next action does count
    assert not np.array_equal(one_row("CartPole-v1", others)[0], observation)


def test_life_lost_opens_an_episode_where_elapsed_step_does_not():
    # Breakout without moving: five lives, and the ball is served by the reset.
    _, _, discount, first = one_row("Breakout-v5", [0] * 200, episodic_life=True, noop_max=1)

    ends = np.flatnonzero(discount == 0)
    assert len(ends) >= 5
    np.testing.assert_array_equal(np.flatnonzero(first)[1:], (ends + 1)[: len(ends)])


def test_game_over_on_the_time_limit_is_a_termination():
    # Serving for ever without moving loses all lives; then the same game with its limit on that very step.
    _, _, discount, _ = one_row("Breakout-v5", [1] * 400, noop_max=1)
    end = int(np.argmin(discount))
    assert discount[end] == 0
    _, _, limited, first = one_row("Breakout-v5", [1] * 400, noop_max=1, max_episode_steps=end)

    assert limited[end] == 0
    assert first[end + 1]


def test_atari_defaults():
    spec = make_spec(EnvConfig(id="Pong-v5"))

    assert spec.id == "Pong-v5"
    assert spec.observation == jax.ShapeDtypeStruct((84, 84, 1), np.uint8)
    assert spec.actions == DiscreteActions(6)
    assert spec.frames_per_step == 4


def test_atari_options():
    options = {"full_action_space": True, "frame_skip": 2, "img_height": 64, "gray_scale": False}
    spec = make_spec(EnvConfig(id="Pong-v5", options=options))

    assert spec.actions == DiscreteActions(18)
    assert spec.frames_per_step == 2
    assert spec.observation == jax.ShapeDtypeStruct((64, 84, 3), np.uint8)


def test_sticky_actions_reach_the_emulator():
    # Certain repetition of the first action, whatever is sent, against none.
    actions = np.random.default_rng(0).integers(0, 6, 40)
    free = one_row("Pong-v5", actions)[0]
    sticky = one_row("Pong-v5", actions, repeat_action_probability=1)[0]

    assert not np.array_equal(free, sticky)
    np.testing.assert_array_equal(one_row("Pong-v5", [0] * 40, repeat_action_probability=1)[0], sticky)


def test_rgb_frames_keep_their_pixels():
    rgb = one_row("Breakout-v5", [0] * 3, gray_scale=False)[0][-1].astype(float)
    gray = one_row("Breakout-v5", [0] * 3)[0][-1, :, :, 0].astype(float)

    assert np.abs(rgb @ [0.299, 0.587, 0.114] - gray).max() <= 2


def test_discrete_observations_are_one_hot():
    observation = one_row("Taxi-v3", [0, 1, 2])[0]

    assert observation.shape == (4, 500)
    assert (observation.sum(axis=1) == 1).all()


def test_dictionaries_are_concatenated_in_sorted_order():
    def start(*keys, **settings):
        config = EnvConfig(id="MiniGrid-Empty-5x5-v0", observation_keys=keys, parts="joined", **settings)
        return make_pool(config, seeds=[7], num_threads=1).reset().observation[0]

    direction, image, mission = start("direction"), start("image"), start("mission")
    assert (direction.shape, image.shape, mission.shape) == ((4,), (7, 7, 3), (96,))
    assert (image.dtype, mission.dtype) == (np.uint8, np.uint8)
    numbers = np.concatenate([image.ravel(), mission]).astype(np.float32)
    np.testing.assert_array_equal(start(), np.concatenate([direction, numbers / np.float32(255)]))
    np.testing.assert_array_equal(start(uint8="numbers"), np.concatenate([direction, numbers]))
    np.testing.assert_array_equal(start("mission", "direction", uint8="numbers"), np.concatenate([direction, mission]))


def test_floats_span_the_range_of_the_environments_actions():
    # Pendulum's reward is -(angle^2 + 0.1 speed^2 + 0.001 torque^2), its torque within [-2, 2].
    def torque(action):
        still, rewards = (one_row("Pendulum-v1", [[a]])[1][1] for a in (0.0, action))
        return np.sqrt((still - rewards) / 0.001)

    np.testing.assert_allclose([torque(a) for a in (-1.0, 0.5, 1.0, 7.0)], [2.0, 1.0, 2.0, 2.0], atol=0.02)
    speeds = [one_row("Pendulum-v1", [[a]])[0][1][2] for a in (-0.5, 0.5)]
    np.testing.assert_allclose(speeds[1] - speeds[0], 3 * 0.05 * 2.0, atol=1e-4)  # 3 / (m l^2) * torque * dt.


def test_mujoco_terminates_and_is_truncated():
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 1))
    _, reward, discount, first = one_row("InvertedDoublePendulum-v5", actions)
    end = int(np.argmin(discount))
    assert discount[end] == 0
    assert 9 < reward[1] < 10
    assert first[end + 1]
    _, reward, limited, first = one_row("InvertedDoublePendulum-v5", actions, max_episode_steps=end - 1)
    assert limited[: end + 1].all()
    assert np.flatnonzero(first)[:2].tolist() == [0, end]
    assert reward[end] == 0


def test_dm_control_is_truncated_only_and_its_reset_rows_pay_nothing():
    observation, reward, discount, first = one_row("CartpoleSwingup-v1", np.zeros((45, 1)), max_episode_steps=20)
    assert (observation.shape, observation.dtype) == ((46, 5), np.float32)
    assert (discount == 1).all()
    assert np.flatnonzero(first).tolist() == [0, 21, 42]
    assert (reward[first] == 0).all()
    assert (reward[~first] > 0).all()
    position = make_pool(EnvConfig(id="CartpoleSwingup-v1", observation_keys=("position",)), seeds=[7], num_threads=1)
    np.testing.assert_array_equal(observation[0, :3], position.reset().observation[0])  # Sorted: before `velocity`.


def test_steps_of_simulation_are_no_frames():
    spec = make_spec(EnvConfig(id="HalfCheetah-v5"))
    assert spec.actions == ContinuousActions(6)
    assert spec.observation == jax.ShapeDtypeStruct((17,), np.float32)
    assert spec.frames_per_step == 1


def test_arrays_of_integers_are_several_choices():
    config = EnvConfig(id="Tetris-v0", observation_keys=("grid",), action_mask="none")
    assert make_spec(config).actions == MultiDiscreteActions((4, 10))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            EnvConfig(id="Breakouts-v5"),
            "env.id='Breakouts-v5' is not an EnvPool environment; did you mean 'Breakout-v5'",
        ),
        (EnvConfig(id="TicTacToe-v1"), "TicTacToe-v1.*2 players"),
        (EnvConfig(id="Pong-v5", options={"frame_skp": 4}), "env.options.frame_skp .*did you mean 'frame_skip'"),
        (EnvConfig(id="Pong-v5", options={"frame_skip": "4"}), "env.options.frame_skip='4' has type str; expected int"),
        (EnvConfig(id="Pong-v5", options={"frame_skip": True}), "env.options.frame_skip=True has type bool"),
        (EnvConfig(id="Pong-v5", options={"gray_scale": 1}), "env.options.gray_scale=1 has type int; expected bool"),
        (EnvConfig(id="Pong-v5", options={"frame_skip": 0}), r"env.options.frame_skip=0 must lie in \[1, 1000\]"),
        (EnvConfig(id="Pong-v5", options={"stack_num": 4}), "env.options.stack_num.*network.frame_stack"),
        (EnvConfig(id="Pong-v5", options={"reward_clip": True}), "env.options.reward_clip.*agents clip"),
        (EnvConfig(id="Pong-v5", options={"num_envs": 8}), "env.options.num_envs.*actors.num_envs"),
        (EnvConfig(id="Pong-v5", options={"mode": 99}), "mode.*Invalid game mode"),
        (EnvConfig(id="CartPole-v1", options={"max_episode_frames": 400}), "max_episode_frames is not an option"),
        (EnvConfig(id="Hopper-v5", options={"max_episode_frames": 400}), "max_episode_frames is not an option"),
        (EnvConfig(id="Hopper-v5", options={"frame_stack": 2}), "env.options.frame_stack.*network.frame_stack"),
        (
            EnvConfig(id="CliffWalking-v0", max_episode_steps=50),
            "env.max_episode_steps has no effect on Cliff",
        ),
        (EnvConfig(id="CartPole-v1", observation_keys=("image",)), "env.observation_keys.*no dictionary"),
        (
            EnvConfig(id="MiniGrid-Empty-5x5-v0", observation_keys=("images",)),
            "no entry 'images'; did you mean 'image'[?] Available: direction, image, mission",
        ),
    ],
    ids=lambda value: (
        value.id + "-" + "-".join([*value.options, *value.observation_keys]) if isinstance(value, EnvConfig) else ""
    ),
)
def test_mistakes_are_one_clear_error(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_pool(config, seeds=[1], num_threads=1)
    assert "\n" not in str(caught.value)


def test_vizdooms_buttons_are_one_choice_unless_asked_for():
    spec = make_spec(EnvConfig(id="DefendTheCenter-v1"))
    assert spec.actions == DiscreteActions(6)
    assert spec.observation == jax.ShapeDtypeStruct((84, 84, 3), np.uint8)
    buttons = make_spec(EnvConfig(id="DefendTheCenter-v1", options={"use_combined_action": False}))
    assert buttons.actions == ContinuousActions(3)


def test_missing_system_library_is_named(monkeypatch):
    def refuse(*args, **kwargs):
        raise ImportError("EnvPool Procgen requires the system Qt 5 runtime on Linux.")

    monkeypatch.setattr("envpool.make_spec", refuse)
    with pytest.raises(ConfigError, match=r"env.id='CoinrunEasy-v0'.*Qt 5 runtime.*apt-get install libqt5gui5"):
        make_spec(EnvConfig(id="CoinrunEasy-v0"))


def test_without_a_preloaded_opengl_mujoco_has_pictures_or_a_message(monkeypatch, tmp_path):
    """EnvPool 1.2.7 loads OpenGL by itself, where it is installed; 1.2.5 does not."""
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.chdir(tmp_path)
    config = EnvConfig(id="Hopper-v5")
    pool, said = None, ""
    try:
        pool = make_picture_pool(config, seeds=[1], num_threads=1)
    except ConfigError as error:
        said = str(error)
    if pool is None:
        assert re.fullmatch(r".* cannot draw env.id='Hopper-v5': .* with LD_PRELOAD=libGL.so.1 .*", said)
    else:
        pool.reset()
        assert pool.picture(0).std() > 10
        pool.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(ctypes.util.find_library("GL") is None, reason="MuJoCo draws with OpenGL")
def test_mujoco_has_pictures():
    program = """
from podrl.config.config import EnvConfig
from podrl.envs.sources.envpool import make_picture_pool
pool = make_picture_pool(EnvConfig(id="CartpoleSwingup-v1"), seeds=[1, 2], num_threads=1)
pool.reset()
shown = pool.picture(1)
assert shown.ndim == 3 and shown.shape[-1] == 3 and shown.dtype == "uint8" and shown.std() > 10
"""
    environment = {**os.environ, "LD_PRELOAD": "libGL.so.1"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("seeds", "num_threads"), [([], 1), ([1], 0)])
def test_empty_pools_are_refused(seeds, num_threads):
    with pytest.raises(ValueError, match="needs seeds and threads"):
        make_pool(EnvConfig(id="CartPole-v1"), seeds=seeds, num_threads=num_threads)


def test_calls_in_the_wrong_order_raise_instead_of_waiting():
    pool = make_pool(EnvConfig(id="CartPole-v1"), seeds=[1, 2], num_threads=1)
    action = np.zeros(2, np.int32)

    with pytest.raises(RuntimeError, match=r"before reset\(\)"):
        pool.send(action)
    pool.reset()
    with pytest.raises(RuntimeError, match=r"without send\(\)"):
        pool.recv()
    with pytest.raises(ValueError, match=r"expected \(2,\)"):
        pool.send(action[:1])
    pool.send(action)
    with pytest.raises(RuntimeError, match="twice"):
        pool.send(action)
    with pytest.raises(RuntimeError, match="is running"):
        pool.reset()
    assert not pool.recv().first.any()
