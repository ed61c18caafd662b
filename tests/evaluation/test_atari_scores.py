import json

import envpool
import pytest

from podrl.evaluation.atari_scores import human_normalised


@pytest.mark.parametrize(
    ("env_id", "score", "expected"),
    [
        ("Breakout-v5", 1.7, 0.0),
        ("Breakout-v5", 30.5, 1.0),
        ("Pong-v5", 21.0, (21 + 20.7) / (14.6 + 20.7)),
        ("ALE/MontezumaRevenge-v5", 4753.3 / 2, 0.5),
        ("Skiing-v5", -4336.9, 1.0),
    ],
)
def test_random_play_is_zero_and_the_human_one(env_id, score, expected):
    assert human_normalised(env_id, score) == pytest.approx(expected)


@pytest.mark.parametrize("env_id", ["AirRaid-v5", "Ant-v5", "Catch-v0", "Breakout-v4", "source"])
def test_other_environments_have_none(env_id):
    assert human_normalised(env_id, 1.0) is None


def test_the_table_has_57_games_by_the_names_of_envpool():
    known = [env_id for env_id in envpool.list_all_envs() if human_normalised(env_id, 0.0) is not None]
    assert len(known) == 57


def test_the_table_names_its_source():
    import importlib.resources

    table = json.loads(importlib.resources.files("podrl.evaluation").joinpath("atari_scores.json").read_text())
    assert "arXiv:1511.06581" in table["source"]
