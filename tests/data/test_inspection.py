"""What the inspector says of a data set, against plain counts."""

import numpy as np
import pytest

from podrl.commands import inspect_data as tool
from podrl.config import programs
from podrl.data.inspection import inspect_data, principal_plane
from podrl.data.manifest import DataSpec
from podrl.data.writer import DataWriter
from podrl.telemetry import data_picture
from tests.data.episodes import IMAGES, VECTOR, make_episode, write_episodes
from tests.data.test_writer import flip


@pytest.fixture
def folder(tmp_path):
    episodes = [make_episode(n, 4 + n, truncated=n == 2, is_whole=n != 3) for n in range(6)]
    return write_episodes(tmp_path / "set", episodes, shard_bytes=300, facts={"policy": "random"})


def test_counts_what_was_written(folder):
    details = inspect_data(folder)
    lengths = np.arange(4, 10)
    np.testing.assert_array_equal(details.facts.length, lengths)
    np.testing.assert_array_equal(details.facts.episode_return, lengths * (lengths + 1) / 2)
    np.testing.assert_array_equal(details.terminated, [True, True, False, True, True, True])
    assert details.distinct == lengths.sum() + 6  # Each is (episode, step).
    assert len(details.actions) == lengths.sum()
    steps = np.concatenate([[(n, t) for t in range(length)] for n, length in enumerate(lengths)]).astype(np.float64)
    expected = np.stack([steps.mean(0), steps.std(0), steps.min(0), steps.max(0)])
    np.testing.assert_allclose(details.moments["observation"], expected, atol=1e-9)
    np.testing.assert_array_equal(details.points, steps)
    assert not details.damage


def test_observations_that_come_again_are_counted_once(tmp_path):
    write_episodes(tmp_path / "set", [make_episode(n % 2, 5) for n in range(6)])
    assert inspect_data(tmp_path / "set").distinct == 12
    write_episodes(tmp_path / "images", [make_episode(n % 2, 5, IMAGES) for n in range(6)], IMAGES)
    details = inspect_data(tmp_path / "images")
    assert details.distinct == 12
    assert list(details.moments) == ["observation/arm%2Fangle%25"]


def test_the_plane_has_the_directions_of_the_largest_spread():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(500, 1))
    points = np.concatenate([hidden, hidden + 0.1 * rng.normal(size=(500, 1)), rng.normal(size=(500, 1))], axis=1)
    plane = principal_plane(points)
    assert abs(np.corrcoef(plane[:, 0], hidden[:, 0])[0, 1]) > 0.98
    assert abs(np.corrcoef(plane[:, 1], points[:, 2])[0, 1]) > 0.98
    assert principal_plane(np.zeros((4, 1))).shape == (4, 2)


def test_the_tool_shows_them_and_draws_a_picture(folder, tmp_path, capsys):
    assert tool.main(["inspect_data.py", str(folder), "--out", str(tmp_path / "picture.png")]) == 0
    printed = capsys.readouterr().out
    assert "set: vector" in printed
    assert "6 of 39 steps in all, in" in printed
    assert "5 terminated, 1 truncated, 1 are parts of episodes" in printed
    assert "45 distinct of 45 (100.0%)" in printed
    assert "2 entries, deviation" in printed
    row = next(line for line in printed.splitlines() if "random" in line)
    assert [cell.strip() for cell in row.strip("| ").split("|")][1:] == [
        *("6", "39", f"{np.mean([10, 15, 21, 36, 45]):.2f}", "10.00 to 45.00", "6.5", "yes")
    ]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_damage_is_a_line_for_each_shard_and_exit_code_1(folder, capsys):
    flip(folder / "shard-000001/action/c/0/0", 30)
    (folder / "shard-000002/shard.json").unlink()
    assert tool.main(["inspect_data.py", str(folder)]) == 1
    said = capsys.readouterr()
    assert [line.split(" in ")[0] for line in said.out.splitlines() if "damaged" in line] == [
        *("Shard shard-000001", "Shard shard-000002")
    ]
    num = len(list(folder.glob("shard-*")))
    assert said.err.splitlines() == [f"inspect_data: error: 2 of {num} shards are damaged."]
    for shard in folder.glob("shard-*/shard.json"):
        shard.unlink()
    assert tool.main(["inspect_data.py", str(folder), "--out", str(folder.parent / "x.png")]) == 1
    assert capsys.readouterr().err.splitlines() == [f"inspect_data: error: {num} of {num} shards are damaged."]
    flip(folder / "manifest.json", 60)
    assert tool.main(["inspect_data.py", str(folder)]) == 1
    assert "manifest.json is damaged" in capsys.readouterr().err


def test_what_is_the_same_in_all_episodes_is_said_and_not_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(data_picture, "draw_histograms", lambda *shown, **facts: drawn.append((*shown, facts)) or b"")
    with DataWriter(tmp_path / "set", DataSpec(env=VECTOR)) as writer:
        for policy in ("random", "medium"):
            writer.begin({"policy": policy})
            for number in range(3):
                writer.add(make_episode(number, 9, reward=number))
            writer.end()
    details = inspect_data(tmp_path / "set")
    data_picture.write_data_picture(str(tmp_path / "x.png"), details)
    ((shown, _, facts),) = drawn
    assert list(shown) == ["return of whole episodes", "action"]
    assert facts["title"] == "vector: 6 episodes of 54 steps in all, all of length 9"
    plane = facts["plane"]
    assert {name: int(mask.sum()) for name, mask in plane.groups.items()} == {"random": 27, "medium": 27}
    assert plane.labels[0].startswith("main direction of observations (")


@pytest.mark.parametrize("policies", [1, 2])
def test_the_picture_of_one_policy_and_of_two(tmp_path, policies):
    with DataWriter(tmp_path / "set", DataSpec(env=VECTOR)) as writer:
        for policy in range(policies):
            writer.begin({"policy": f"policy {policy}"})
            writer.add(make_episode(policy, 9))
            writer.end()
    data_picture.write_data_picture(str(tmp_path / "x.png"), inspect_data(tmp_path / "set"))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("content", ['{"a": 1}', "["])
def test_a_manifest_of_something_else_is_a_mistake_and_no_damage(tmp_path, capsys, monkeypatch, content):
    monkeypatch.setattr(programs, "is_clone", lambda: False)
    (tmp_path / "manifest.json").write_text(content)
    assert tool.main(["inspect_data.py", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no data set: its manifest.json is something else's" in line
    assert line.endswith("Name one of podrl record (docs/offline.md).")


def test_mistakes_are_one_line(tmp_path, capsys):
    assert tool.main(["inspect_data.py", str(tmp_path)]) == 2
    assert "is no data set: it has no manifest.json" in capsys.readouterr().err
    with DataWriter(tmp_path / "empty", DataSpec(env=VECTOR)) as writer:
        writer.begin({"policy": "random"})
    assert tool.main(["inspect_data.py", str(tmp_path / "empty")]) == 0
    assert tool.main(["inspect_data.py", str(tmp_path / "empty"), "--out", str(tmp_path / "x.png")]) == 2
    assert "the data set has no episodes to draw" in capsys.readouterr().err
    write_episodes(tmp_path / "set", [make_episode(0, 3)])
    assert tool.main(["inspect_data.py", str(tmp_path / "set"), "--out", str(tmp_path / "x.y")]) == 2
    assert "is not a format of images" in capsys.readouterr().err
