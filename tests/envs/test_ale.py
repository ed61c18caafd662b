"""ALE through Gymnasium against EnvPool's Atari: the same games, actions, episodes, rewards and pixels."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from podrl.config import ENV_SETTINGS, ConfigError, EnvConfig
from podrl.envs import load_source

pytest.importorskip("ale_py")

GAMES = ("Breakout-v5", "Pong-v5", "MsPacman-v5")  # Breakout and Pong fire to open a game, Ms. Pac-Man cannot.
PLAIN = {"noop_max": 1, "repeat_action_probability": 0.0}  # Nothing random is left but the actions.


def config_of(game, **values):
    settings = {name: values.pop(name) for name in ENV_SETTINGS if name in values}
    return EnvConfig(source="ale", id=game, **settings, options=values)


def play(config, actions, seeds=(7,)):
    pool = load_source(config.source).make_pool(config, seeds=list(seeds), num_threads=1)
    timesteps = [pool.reset()]
    for action in actions:
        pool.send(np.full(len(seeds), action, np.int32))
        timesteps.append(pool.recv())
    pool.close()
    return {
        name: np.array([getattr(t, name) for t in timesteps]) for name in ("observation", "reward", "discount", "first")
    }


def both(game, actions, **options):
    """What the two sources make of the same actions."""
    config = config_of(game, **options)
    return play(config, actions), play(dataclasses.replace(config, source="envpool"), actions)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("full_action_space", [True, False])
def test_specs_agree(game, full_action_space):
    config = config_of(game, full_action_space=full_action_space, frame_skip=3, img_height=64)

    assert load_source("ale").make_spec(config) == load_source("envpool").make_spec(config)


@pytest.mark.parametrize(
    ("game", "options"),
    [
        ("Breakout-v5", {"full_action_space": True}),
        ("MsPacman-v5", {"full_action_space": True}),
        ("Breakout-v5", {"max_episode_steps": 40, "use_fire_reset": False, "img_height": 52, "img_width": 60}),
        pytest.param("Pong-v5", {"max_episode_frames": 103, "mode": 1, "difficulty": 1}, marks=pytest.mark.slow),
        pytest.param("Pong-v5", {"frame_skip": 3}, marks=pytest.mark.slow),
        pytest.param("SpaceInvaders-v5", {"gray_scale": False}, marks=pytest.mark.slow),
    ],
)
def test_the_same_actions_give_the_same_timesteps(game, options):
    num_actions = load_source("ale").make_spec(config_of(game, **options)).actions.num
    actions = np.random.default_rng(0).integers(num_actions, size=250)
    one, other = both(game, actions, **PLAIN, **options)

    for name in ("reward", "discount", "first"):
        np.testing.assert_array_equal(one[name], other[name])
    goes_on = one["discount"] == 1
    np.testing.assert_array_equal(one["observation"][goes_on], other["observation"][goes_on])


@pytest.mark.slow
def test_a_games_last_picture_may_be_the_one_before():
    # A difference to EnvPool: Gymnasium does not look at the screen if the game ends within the frames of a step.
    actions = np.random.default_rng(0).integers(18, size=690)
    one, other = both("Assault-v5", actions, **PLAIN, full_action_space=True)
    ((end,),) = np.nonzero(one["discount"][:, 0] == 0)

    np.testing.assert_array_equal(one["observation"][end], one["observation"][end - 1])
    assert not np.array_equal(other["observation"][end], other["observation"][end - 1])


def test_sticky_actions_repeat_the_one_before():
    # Certain repetition of the very first action, the opening's; against none.
    actions = np.random.default_rng(0).integers(6, size=60)
    stuck = play(config_of("Pong-v5", noop_max=1, repeat_action_probability=1), actions)["observation"]

    np.testing.assert_array_equal(
        play(config_of("Pong-v5", noop_max=1, repeat_action_probability=1), [0] * 60)["observation"], stuck
    )
    assert not np.array_equal(play(config_of("Pong-v5", **PLAIN), actions)["observation"], stuck)


@pytest.mark.slow
def test_random_openings_differ_with_the_seed():
    opened = play(config_of("Seaquest-v5", noop_max=30), [], seeds=range(12))["observation"][0]

    assert len(np.unique(opened.reshape(12, -1), axis=0)) > 5


def test_evaluation_has_the_protocol_of_envpool():
    config = config_of("Pong-v5", max_episode_frames=400, repeat_action_probability=0.25, workers=2)
    protocol = load_source("ale").evaluation_protocol(config)
    other = load_source("envpool").evaluation_protocol(dataclasses.replace(config, source="envpool", workers=0))

    assert protocol.facts | {"episodic_life": False} == other.facts
    assert protocol.steps_per_second == other.steps_per_second
    assert protocol.env.options["max_episode_frames"] == 108_000


def test_pictures_are_the_screen():
    pool = load_source("ale").make_picture_pool(config_of("Pong-v5"), seeds=[1], num_threads=1)
    pool.reset()

    assert pool.picture(0).shape == (210, 160, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (config_of("Pongs-v5"), "env.id='Pongs-v5' is not one of ALE's games; did you mean 'Pong-v5'"),
        (config_of("Pong-v5", frame_skp=4), "env.options.frame_skp is not an option.*did you mean 'frame_skip'"),
        (config_of("Pong-v5", frame_skip="4"), "env.options.frame_skip='4' has type str; expected int"),
        (config_of("Pong-v5", noop_max=0), "env.options.noop_max=0 must be at least 1"),
        (config_of("Pong-v5", repeat_action_probability=2), "repeat_action_probability=2.0 must lie in"),
        (config_of("Pong-v5", mode=99), "ALE cannot make env.id='Pong-v5': Invalid game mode"),
        (config_of("Pong-v5", episodic_life=True), "env.options.episodic_life=True.*use env.source='envpool'"),
        (EnvConfig(source="ale", id="Pong-v5", options={"workers": 2}), "env.options.workers is .* env.workers"),
        (EnvConfig(source="ale", id="Pong-v5", observation_keys=("a",)), "env.observation_keys"),
    ],
    ids=lambda value: "-".join(value.options) if isinstance(value, EnvConfig) else "",
)
def test_mistakes_are_one_clear_error(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_source("ale").make_spec(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["ale_py", "cv2"])
def test_a_missing_package_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"pip install -e '.\[ale\]'"):
        load_source("ale").make_spec(config_of("Pong-v5"))


def test_it_is_quiet():
    program = (
        "from podrl.config import EnvConfig\n"
        "from podrl.envs import load_source\n"
        "load_source('ale').make_spec(EnvConfig(source='ale', id='Pong-v5'))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("", "")
