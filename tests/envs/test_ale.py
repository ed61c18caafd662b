"""ALE through Gymnasium against EnvPool's Atari: the same games, actions, episodes, rewards and pixels."""

import dataclasses
import json
import os
import subprocess
import sys

import envpool
import gymnasium
import numpy as np
import pytest

from podrl.config.config import ENV_SETTINGS, ConfigError, EnvConfig
from podrl.config.config_dict import to_dict
from podrl.envs.pools.atari_screens import TALL_GAMES
from podrl.envs.source import load_source
from podrl.envs.workers.atari import AtariRecipe, Opening
from podrl.runs.workdir import make_workdir
from tests import short_runs

ale_py = pytest.importorskip("ale_py")

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
        # Their own sets of actions have no place for doing nothing, and another than ALE's for firing.
        ("Backgammon-v5", {}),
        ("VideoCheckers-v5", {}),
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


# EnvPool shows the top 210 rows of their screens, which have more.
TALL = {"Adventure", "AirRaid", "Carnival", "JourneyEscape", "KeystoneKapers", "KingKong", "Klax", "LaserGates"} | {
    "MrDo",
    "Pacman",
    "Pooyan",
    "SirLancelot",
    "SpaceWar",
}


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("one_in", [pytest.param(8, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.long)])
def test_every_shared_game_is_the_same(one_in):
    """A few hundred steps of each; `ATARI_STEPS` plays more."""
    envpool, differences = pytest.importorskip("envpool"), []
    steps = int(os.environ.get("ATARI_STEPS", "200"))
    ale_games = {name.removeprefix("ALE/") for name in gymnasium.registry if name.startswith("ALE/")}
    games = sorted(set(envpool.list_all_envs()) & ale_games)
    assert len(games) > 50
    for game in games[::one_in]:
        num_actions = load_source("ale").make_spec(config_of(game)).actions.num
        one, other = both(game, np.random.default_rng(1).integers(num_actions, size=steps), **PLAIN)
        goes_on = one["discount"] == 1  # The last picture is another matter, see below.
        same = {name: np.array_equal(one[name], other[name]) for name in ("reward", "discount", "first")}
        if game.removesuffix("-v5") not in TALL:
            same["observation"] = np.array_equal(one["observation"][goes_on], other["observation"][goes_on])
        differences += [f"{game}: {name}" for name, equal in same.items() if not equal]
    assert not differences


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_a_game_is_gymnasiums_own_after_a_random_opening(sticky):
    """Without the fire button, which Gymnasium's preprocessing does not press."""
    recipe = AtariRecipe(game="Seaquest-v5", use_fire_reset=False, repeat_action_probability=sticky)
    plain = gymnasium.wrappers.AtariPreprocessing(
        gymnasium.make("ALE/Seaquest-v5", frameskip=1, repeat_action_probability=sticky), grayscale_newaxis=True
    )
    actions = np.random.default_rng(2).integers(18, size=100)

    def played(env):
        for seed in (3, 4):
            yield env.reset(seed=seed)[0]
            for action in actions:
                observation, reward, terminated, *_ = env.step(action)
                yield from (observation, reward, terminated)

    for found, expected in zip(played(recipe.make()), played(plain), strict=True):
        np.testing.assert_array_equal(found, expected)


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


@pytest.mark.parametrize("game", ["Backgammon-v5", "VideoCheckers-v5", "Pong-v5"])
def test_openings_press_ales_buttons_and_not_places_in_a_games_own_set(game):
    env = AtariRecipe(game=game, noop_max=3).make()
    (opening,) = [wrapper for wrapper in wrappers_of(env) if isinstance(wrapper, Opening)]
    opening._ale = pressed = Buttons(opening._ale)
    env.reset(seed=5)

    assert [ale_py.Action(button).name for button in pressed.actions] == ["NOOP", "NOOP", "FIRE"]


def wrappers_of(env):
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env


class Buttons:
    """An ALE that notes what is pressed."""

    def __init__(self, ale):
        self._ale, self.actions = ale, []

    def act(self, action):
        self.actions.append(action)
        return self._ale.act(action)

    def __getattr__(self, name):
        return getattr(self._ale, name)


class TestTallGames:
    """Games with screens of more than 210 rows, of which EnvPool shows the first 210."""

    def rest(self, tmp_path, game, before, now, caplog):
        """The warnings where a run goes on with its game in another source."""
        config = short_runs.make_config(game, env__source=before)
        (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
        now = dataclasses.replace(config, env=dataclasses.replace(config.env, source=now))
        with caplog.at_level("WARNING"):
            make_workdir(now, str(tmp_path), accept_changes=True)
        return [record.getMessage() for record in caplog.records]

    @pytest.mark.parametrize(("before", "now"), [("envpool", "ale"), ("ale", "envpool")])
    def test_an_agent_that_meets_one_in_the_other_source_is_warned(self, tmp_path, caplog, before, now):
        (warning,) = self.rest(tmp_path, "Carnival-v5", before, now, caplog)
        assert warning.startswith(f"The agent was trained on Carnival-v5 of env.source={before!r} and sees another")

    @pytest.mark.parametrize(
        ("game", "before", "now"),
        [("Pong-v5", "envpool", "ale"), ("Carnival-v5", "ale", "ale"), ("Catch-v0", "envpool", "gymnasium")],
    )
    def test_nobody_else_is(self, tmp_path, caplog, game, before, now):
        assert self.rest(tmp_path, game, before, now, caplog) == []

    def test_envpool_shows_the_first_210_rows(self):
        import cv2

        other = play(EnvConfig(id="Carnival-v5", options=PLAIN), [])["observation"][0, 0]
        env = AtariRecipe(game="Carnival-v5", noop_max=1).make()
        env.reset(seed=7)
        screen = env.unwrapped.ale.getScreenGrayscale()

        assert screen.shape == (214, 160)
        np.testing.assert_array_equal(cv2.resize(screen[:210], (84, 84), interpolation=cv2.INTER_AREA), other[..., 0])
        assert not np.array_equal(cv2.resize(screen, (84, 84), interpolation=cv2.INTER_AREA), other[..., 0])

    @pytest.mark.slow
    def test_these_are_all(self):
        gymnasium.register_envs(ale_py)
        games = [name.removeprefix("ALE/") for name in gymnasium.registry if name.startswith("ALE/")]
        shared = [name for name in games if name.endswith("-v5") and name in envpool.list_all_envs()]
        tall = {name for name in shared if AtariRecipe(game=name).make().unwrapped.ale.getScreenDims()[0] > 210}

        assert tall == {f"{game}-v5" for game in TALL_GAMES}


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
        (config_of("Pong-v5", noop_max=0), r"env.options.noop_max=0 must lie in \[1, 10000\]"),
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
        "from podrl.config.config import EnvConfig\n"
        "from podrl.envs.source import load_source\n"
        "load_source('ale').make_spec(EnvConfig(source='ale', id='Pong-v5'))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("", "")
