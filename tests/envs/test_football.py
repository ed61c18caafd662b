"""Google Research Football: its rewards, the checkpoints beyond them, and the features of its minimap."""

import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.sources import envpool, football
from podrl.types import Timestep

CLOSE = "gfootball/academy_empty_goal_close-v1"
RIGHT, SHOT = 5, 12
# With seed 3, that scores: run towards the goal, then shoot.
SCORING = [RIGHT] * 25 + [SHOT] * 10


def config_of(env_id=CLOSE, max_episode_steps=0, **options):
    return EnvConfig(source="football", id=env_id, max_episode_steps=max_episode_steps, options=options)


def play(config, actions, seeds=(3,), source=football):
    pool = source.make_pool(config, seeds=list(seeds), num_threads=1)
    timesteps = [pool.reset()]
    for action in actions:
        pool.send(np.broadcast_to(np.int32(action), (len(seeds),)))
        timesteps.append(pool.recv())
    return timesteps


def rewards(timesteps, env=0):
    return np.array([t.reward[env] for t in timesteps])


def minimap(ball, player, theirs=(), ours=()):
    """[1, 72, 96, 4] with these cells (row, column)."""
    layers = np.zeros((1, 72, 96, 4), np.uint8)
    for layer, cells in enumerate(([player, *ours], theirs, [ball], [player])):
        for row, column in cells:
            layers[0, row, column, layer] = 255
    return layers


def seen(ball, player, *, reward=0.0, first=False):
    return Timestep(
        observation=minimap(ball, player),
        reward=np.float32([reward]),
        discount=np.float32([1]),
        first=np.array([first]),
    )


def test_rewards_are_the_change_of_the_score():
    pool = envpool.make_pool(EnvConfig(id=CLOSE), seeds=range(4), num_threads=1)
    pool.reset()
    score, scored = np.zeros((4, 2), int), 0
    for action in np.random.default_rng(0).integers(19, size=(250, 4), dtype=np.int32):
        pool.send(action)
        timestep = pool.recv()
        before, score = score, np.array(pool.extras["score"])
        change = (score - before) @ [1, -1]
        np.testing.assert_array_equal(timestep.reward, np.where(timestep.first, 0, change))
        scored += timestep.reward.sum()
    assert scored >= 1


def test_seeds_decide_the_match():
    once, again = (play(config_of(), SCORING, seeds=(3, 4)) for _ in range(2))

    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one.observation, other.observation)
    assert any(not np.array_equal(t.observation[0], t.observation[1]) for t in once)


def test_a_goal_pays_all_checkpoints():
    plain, paid = play(config_of(), SCORING), play(config_of(checkpoints=True), SCORING)
    goal = int(rewards(plain).argmax())

    assert rewards(plain).sum() == 1
    assert rewards(paid).sum() == pytest.approx(2)
    assert rewards(paid)[: goal - 1].sum() > 0.3  # He starts near the goal, and runs there with the ball.
    np.testing.assert_array_equal([t.first[0] for t in plain], [t.first[0] for t in paid])


def test_checkpoints_by_hand():
    # Columns 48 and 93 are at x = 0.0104 and 0.948, row 36 at y = 0.0062: 0.9896 and 0.0525 from the goal.
    none, owns = np.zeros(1, int), np.array([True])
    paid, collected = football.checkpoint_reward(seen((36, 48), (36, 47)), owns, none)
    assert (paid.tolist(), collected.tolist()) == ([np.float32(0.1)], [1])
    paid, collected = football.checkpoint_reward(seen((36, 40), (36, 40)), owns, collected)
    assert (paid.tolist(), collected.tolist()) == ([0], [1])  # Back again: nothing, and nothing is lost.
    paid, collected = football.checkpoint_reward(seen((36, 93), (37, 94)), owns, collected)
    assert (paid.tolist(), collected.tolist()) == ([np.float32(0.9)], [10])
    paid, collected = football.checkpoint_reward(seen((36, 93), (36, 93), reward=1), owns, collected)
    assert (paid.tolist(), collected.tolist()) == ([0], [10])  # All are paid.
    paid, collected = football.checkpoint_reward(seen((36, 93), (36, 93), first=True), owns, collected)
    assert (paid.tolist(), collected.tolist()) == ([0], [0])  # A new episode.


@pytest.mark.parametrize(
    ("player", "owns", "reward", "expected"),
    [
        ((36, 91), True, 0, 0.0),  # two cells from the ball
        ((36, 93), False, 0, 0.0),  # the others' ball
        ((36, 93), False, 1, 1.0),  # a goal
        ((36, 93), False, -1, 0.0),  # theirs
    ],
)
def test_who_has_no_ball_is_paid_for_goals_only(player, owns, reward, expected):
    paid, _ = football.checkpoint_reward(seen((36, 93), player, reward=reward), np.array([owns]), np.zeros(1, int))
    assert paid[0] == pytest.approx(expected)


def test_distances_of_the_checkpoints():
    # Along the middle of the field towards the goal: how many are collected, by the distance.
    columns = range(96)
    distance = np.hypot(1 - (2 * (np.array(columns) + 0.5) / 96 - 1), (2 * 36.5 / 72 - 1) / 2.25)
    collected = [
        int(football.checkpoint_reward(seen((36, c), (36, c)), np.array([True]), np.zeros(1, int))[1][0])
        for c in columns
    ]
    assert collected == [sum(d <= 0.99 - k * 0.8 / 9 for k in range(10)) for d in distance]
    assert {*collected} == {*range(11)}


def test_features_by_hand():
    x, y = lambda column: 2 * (column + 0.5) / 96 - 1, lambda row: (2 * (row + 0.5) / 72 - 1) / 2.25
    (found,) = football.features(minimap((36, 84), (34, 83), theirs=[(10, 20), (40, 90), (60, 90)], ours=[(0, 0)]))

    ball, keeper = np.array([x(84), y(36)]), np.array([x(90), y(40)])
    np.testing.assert_allclose(found[:6], [*ball, x(83), y(34), *keeper], atol=1e-6)
    np.testing.assert_allclose(found[6:8], [10 * 2 / 96, 10 * 2 * 2 / 72 / 2.25], atol=1e-6)
    np.testing.assert_allclose(found[8:10], [1 - ball[0], -ball[1]], atol=1e-6)
    np.testing.assert_allclose(found[10:], [np.hypot(*found[8:10]), np.linalg.norm(ball - keeper)], atol=1e-6)


def test_features_of_an_empty_map_are_finite():
    (found,) = football.features(np.zeros((1, 72, 96, 4), np.uint8))
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0])


def test_the_scenarios_start_is_where_it_should_be():
    (first,) = play(config_of(observation="features"), [])
    # academy_empty_goal_close: the ball lies at x = 0.77 in the middle.
    np.testing.assert_allclose(first.observation[0, :2], [0.77, 0.0], atol=0.012)


def test_specs():
    plain, features = football.make_spec(config_of()), football.make_spec(config_of(observation="features"))
    assert (plain.observation.shape, plain.observation.dtype) == ((72, 96, 4), np.uint8)
    assert (features.observation.shape, features.observation.dtype) == ((12,), np.float32)
    assert plain.actions == features.actions == DiscreteActions(19)


def test_evaluation_counts_goals():
    protocol = football.evaluation_protocol(config_of(checkpoints=True, observation="features", max_episode_steps=9))

    assert protocol.env.options == {"checkpoints": False, "observation": "features"}
    assert protocol.env.max_episode_steps == 0
    assert protocol.facts == {"max_episode_steps": 400, "checkpoints": False}


def test_pictures_are_minimaps():
    pool = football.SOURCE.make_picture_pool(config_of(observation="features"), seeds=[3], num_threads=1)
    pool.reset()
    picture = pool.picture(0)

    assert (picture.shape, picture.dtype) == ((72, 96, 3), np.uint8)
    assert (picture[36, 84] == 255).all()  # the ball


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            config_of("gfootball/academy_empty_gol-v1"),
            "not an EnvPool environment; did you mean 'gfootball/academy_empty_goal",
        ),
        (config_of("Pong-v5"), "env.id='Pong-v5' is no football"),
        (config_of(checkpoints=1), "env.options.checkpoints=1 must be True or False"),
        (config_of(observation="map"), "env.options.observation='map' is not known.*features, minimap"),
        (config_of(checkpoint=True), "env.options.checkpoint is not an option"),
    ],
    ids=lambda value: f"{value.id}-{'-'.join(value.options)}" if isinstance(value, EnvConfig) else "",
)
def test_mistakes_are_one_clear_error(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        football.make_spec(config)
    assert "\n" not in str(caught.value)
