"""ALE's vector environment against EnvPool's Atari: the same games, actions, episodes, rewards and pixels."""

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


def both_by_frames(game, actions, **options):
    """The same frame by frame, of which ALE is given one more, without an action, at the start."""
    config = config_of(game, **PLAIN, **options, frame_skip=1)
    return play(config, [0, *actions]), play(dataclasses.replace(config, source="envpool"), actions)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("full_action_space", [True, False])
def test_specs_agree(game, full_action_space):
    config = config_of(game, full_action_space=full_action_space, frame_skip=3, img_height=64)

    assert load_source("ale").make_spec(config) == load_source("envpool").make_spec(config)


@pytest.mark.parametrize(
    ("game", "options"),
    [
        ("Breakout-v5", {}),
        ("Seaquest-v5", {"full_action_space": True}),
        # Their own sets of actions have no place for doing nothing, and another than ALE's for firing.
        ("Backgammon-v5", {}),
        ("VideoCheckers-v5", {}),
        ("Breakout-v5", {"max_episode_steps": 40, "img_height": 52, "img_width": 60}),
        pytest.param("Pong-v5", {"max_episode_frames": 103}, marks=pytest.mark.slow),
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


@pytest.mark.parametrize(
    ("game", "options"), [("Skiing-v5", {"full_action_space": True}), ("Breakout-v5", {"use_fire_reset": False})]
)
def test_without_the_fire_button_envpool_opens_a_game_one_frame_later(game, options):
    """A difference to EnvPool, which plays this frame without an action."""
    num_actions = load_source("ale").make_spec(config_of(game, **options)).actions.num
    actions = np.random.default_rng(0).integers(num_actions, size=250)
    one, other = both_by_frames(game, actions, **options)

    for name in ("reward", "observation"):
        np.testing.assert_array_equal(one[name][2:], other[name][1:])
    np.testing.assert_array_equal(one["observation"][1], other["observation"][0])
    assert not np.array_equal(one["observation"][2:], other["observation"][2:])


@pytest.mark.slow
def test_a_games_last_picture_may_be_of_the_step_before():
    # A difference to EnvPool: ALE does not look at the screen if the game ends within the frames of a step.
    actions = np.random.default_rng(0).integers(18, size=690)
    one, other = both("Assault-v5", actions, **PLAIN, full_action_space=True)
    ((end,),) = np.nonzero(one["discount"][:, 0] == 0)

    np.testing.assert_array_equal(one["observation"][:end], other["observation"][:end])
    assert not np.array_equal(one["observation"][end], other["observation"][end])


class TestTimeLimit:
    """ALE's own limit stops before the last frame of a step, so podrl keeps it."""

    actions = np.random.default_rng(3).integers(4, size=40)

    def test_a_truncated_episode_ends_with_its_true_observation(self):
        whole, cut = (
            play(config_of("Seaquest-v5", max_episode_steps=steps, **PLAIN), self.actions) for steps in (0, 20)
        )

        assert np.flatnonzero(cut["first"]).tolist() == [0, 21]
        assert (cut["discount"] == 1).all()
        assert len(np.unique(whole["observation"][19:22], axis=0)) == 3  # Something moves.
        np.testing.assert_array_equal(cut["observation"][:21], whole["observation"][:21])

    def test_the_row_of_a_reset_ignores_its_action_and_others_play_on(self):
        config = config_of("Breakout-v5", max_episode_steps=20, noop_max=8, repeat_action_probability=0.25)
        once = np.array(self.actions)
        other = once.copy()
        other[20] = (once[20] + 1) % 4
        one, changed = play(config, once, seeds=[1, 2]), play(config, other, seeds=[1, 2])

        for name, values in one.items():
            np.testing.assert_array_equal(values, changed[name])

    def test_games_whose_limits_lie_at_different_steps_do_not_disturb_each_other(self):
        config = config_of("Breakout-v5", max_episode_steps=150, noop_max=30, repeat_action_probability=0.25)
        actions = np.random.default_rng(0).integers(4, size=400)
        together = play(config, actions, seeds=[1, 2, 3])

        assert len({tuple(np.flatnonzero(together["first"][:, row])) for row in range(3)}) > 1
        assert (together["first"].any(axis=1) & ~together["first"].all(axis=1)).any()
        for row, seed in enumerate([1, 2, 3]):
            alone = play(config, actions, seeds=[seed])
            for name, values in alone.items():
                np.testing.assert_array_equal(values[:, 0], together[name][:, row])


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
        actions = np.random.default_rng(1).integers(num_actions, size=steps)
        if ale_py.Action.FIRE in single(game).getMinimalActionSet():
            one, other = both(game, actions, **PLAIN)
        else:
            one, other = both_by_frames(game, actions)
            one, other = {n: v[2:] for n, v in one.items()}, {n: v[1:] for n, v in other.items()}
        goes_on = one["discount"] == 1  # The last picture is another matter, see below.
        same = {name: np.array_equal(one[name], other[name]) for name in ("reward", "discount", "first")}
        if game.removesuffix("-v5") not in TALL:
            same["observation"] = np.array_equal(one["observation"][goes_on], other["observation"][goes_on])
        differences += [f"{game}: {name}" for name, equal in same.items() if not equal]
    assert not differences


def single(game, **settings):
    """One game on ALE's interface of single games."""
    gymnasium.register_envs(ale_py)
    ale = ale_py.ALEInterface()
    for name, value in settings.items():
        (ale.setInt if isinstance(value, int) else ale.setFloat)(name, value)
    ale.loadROM(ale_py.roms.get_rom_path(gymnasium.spec(f"ALE/{game}").kwargs["game"]))
    ale.reset_game()
    return ale


def test_each_game_is_that_of_a_single_ale_with_its_seed():
    cv2 = pytest.importorskip("cv2")
    actions, seeds = np.random.default_rng(2).integers(18, size=60), [3, 4]
    config = config_of("Seaquest-v5", noop_max=1, repeat_action_probability=0.25, full_action_space=True)
    found = play(config, actions, seeds)["observation"]

    for row, seed in enumerate(seeds):
        ale = single("Seaquest-v5", random_seed=seed, repeat_action_probability=0.25)
        buttons = ale.getLegalActionSet()
        ale.act(ale_py.Action.FIRE)
        for step, action in enumerate(actions, start=1):
            screens = []
            for _ in range(4):
                ale.act(buttons[action])
                screens.append(ale.getScreenGrayscale())
            expected = cv2.resize(np.maximum(*screens[2:]), (84, 84), interpolation=cv2.INTER_AREA)
            np.testing.assert_array_equal(found[step, row, ..., 0], expected)
    assert not np.array_equal(found[:, 0], found[:, 1])


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


def test_an_action_that_the_game_does_not_have_is_an_error():
    """ALE would never answer."""
    pool = load_source("ale").make_pool(config_of("Pong-v5"), seeds=[1, 2], num_threads=1)
    pool.reset()
    with pytest.raises(ValueError, match=r"Found actions from 0 to 6; expected \[0, 6\)"):
        pool.send(np.array([0, 6], np.int32))


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
        ale = single("Carnival-v5", random_seed=7, repeat_action_probability=0.0)
        ale.act(ale_py.Action.FIRE)
        screen = ale.getScreenGrayscale()

        assert screen.shape == (214, 160)
        np.testing.assert_array_equal(cv2.resize(screen[:210], (84, 84), interpolation=cv2.INTER_AREA), other[..., 0])
        assert not np.array_equal(cv2.resize(screen, (84, 84), interpolation=cv2.INTER_AREA), other[..., 0])

    @pytest.mark.slow
    def test_these_are_all(self):
        gymnasium.register_envs(ale_py)
        games = [name.removeprefix("ALE/") for name in gymnasium.registry if name.startswith("ALE/")]
        shared = [name for name in games if name.endswith("-v5") and name in envpool.list_all_envs()]
        tall = {name for name in shared if single(name).getScreenDims()[0] > 210}

        assert tall == {f"{game}-v5" for game in TALL_GAMES}


def test_evaluation_has_the_protocol_of_envpool():
    config = config_of("Pong-v5", max_episode_frames=400, repeat_action_probability=0.25)
    protocol = load_source("ale").evaluation_protocol(config)
    other = load_source("envpool").evaluation_protocol(dataclasses.replace(config, source="envpool"))

    assert protocol.facts | {"episodic_life": False} == other.facts
    assert protocol.steps_per_second == other.steps_per_second
    assert protocol.env.options["max_episode_frames"] == 108_000


@pytest.mark.parametrize(("game", "height"), [("Pong-v5", 210), ("Carnival-v5", 214)])
def test_pictures_are_the_screens_of_the_games_that_the_agent_plays(game, height):
    config = config_of(game, max_episode_steps=15, noop_max=8, repeat_action_probability=0.25)
    seen = dataclasses.replace(config, options={**config.options, "gray_scale": False, "img_height": height})
    seen = dataclasses.replace(seen, options={**seen.options, "img_width": 160})
    filmed = load_source("ale").make_picture_pool(config, seeds=[1, 2], num_threads=1)
    plain, screens = (load_source("ale").make_pool(each, seeds=[1, 2], num_threads=1) for each in (config, seen))
    pools, actions = (filmed, plain, screens), np.random.default_rng(0).integers(3, size=(40, 2)).astype(np.int32)

    for action in [None, *actions]:
        timesteps = []
        for pool in pools:
            if action is None:
                timesteps.append(pool.reset())
            else:
                pool.send(action)
                timesteps.append(pool.recv())
        np.testing.assert_array_equal(timesteps[0].observation, timesteps[1].observation)
        for row in range(2):
            np.testing.assert_array_equal(filmed.picture(row), timesteps[2].observation[row])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (config_of("Pongs-v5"), "env.id='Pongs-v5' is not one of ALE's games; did you mean 'Pong-v5'"),
        (config_of("Pong-v5", frame_skp=4), "env.options.frame_skp is not an option.*did you mean 'frame_skip'"),
        (config_of("Pong-v5", frame_skip="4"), "env.options.frame_skip='4' has type str; expected int"),
        (config_of("Pong-v5", noop_max=0), r"env.options.noop_max=0 must lie in \[1, 10000\]"),
        (config_of("Pong-v5", repeat_action_probability=2), "repeat_action_probability=2.0 must lie in"),
        (config_of("Pong-v5", mode=1), "env.options.mode=1 is not available.*use env.source='envpool'"),
        (config_of("Pong-v5", difficulty=1), "env.options.difficulty=1 is not available"),
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


def test_a_missing_package_is_named(monkeypatch):
    for module in ("podrl.envs.sources.ale", "podrl.envs.pools.ale_games"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ConfigError, match=r"^env.source='ale' needs ALE: pip install -e '.\[ale\]'"):
        load_source("ale")


def test_it_is_quiet():
    program = (
        "from podrl.config.config import EnvConfig\n"
        "from podrl.envs.source import load_source\n"
        "source, config = load_source('ale'), EnvConfig(source='ale', id='Pong-v5')\n"
        "source.make_spec(config)\n"
        "source.make_pool(config, seeds=[1], num_threads=1).reset()\n"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("", "")
