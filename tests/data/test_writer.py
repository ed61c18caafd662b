"""What was written is what is read, and nothing else, whatever happened meanwhile."""

import builtins
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.data import durable
from podrl.data.manifest import DataError, DataSpec, read_manifest
from podrl.data.shards import Shard
from podrl.data.trees import from_columns
from podrl.data.writer import DataWriter
from tests.data.episodes import IMAGES, LOGITS, VECTOR, content_of, make_episode, write_episodes
from tests.data.killed_writer import write
from tests.processes import LIMIT_S, ROOT, environment


def shards_of(folder):
    manifest = read_manifest(folder)
    return [Shard(folder, manifest.spec, record) for record in manifest.shards]


def check_shards(folder):
    for shard in shards_of(folder):
        shard.read_checked()


def test_rows_are_aligned_and_the_true_final_observation_is_kept(tmp_path):
    episodes = [
        make_episode(0, 3, IMAGES, behaviour=LOGITS, truncated=True),
        make_episode(1, 2, IMAGES, behaviour=LOGITS),
    ]
    write_episodes(tmp_path / "set", episodes, IMAGES, behaviour=LOGITS)
    manifest = read_manifest(tmp_path / "set")
    assert manifest.spec == DataSpec(env=IMAGES, behaviour=LOGITS)
    assert [record.rows for record in manifest.shards] == [4 + 3]
    (shard,) = shards_of(tmp_path / "set")
    rows = shard.read(0, 7)
    observation = from_columns("observation", rows)
    for name in IMAGES.observation:
        expected = np.concatenate([episode.observation[name] for episode in episodes])
        np.testing.assert_array_equal(observation[name], expected)
    np.testing.assert_array_equal(rows["reward"], [1, 2, 3, 0, 1, 2, 0])
    np.testing.assert_array_equal(rows["discount"], [1, 1, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(rows["params_version"], [0, 0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(rows["action"][:3], episodes[0].action)
    np.testing.assert_array_equal(rows["behaviour/logits"][4:6], episodes[1].behaviour["logits"])
    np.testing.assert_array_equal(shard.facts.episode_return, [6, 3])
    np.testing.assert_array_equal(shard.facts.begin, [0, 4])
    np.testing.assert_array_equal(shard.read(4, 6)["reward"], [1, 2])


def test_shards_are_committed_by_bytes_and_every_recording_ends_one(tmp_path):
    with DataWriter(tmp_path, DataSpec(env=VECTOR), shard_bytes=200) as writer:
        for facts in ({"policy": "a"}, {"policy": "b"}):
            assert writer.begin(facts) == 0
            for number in range(5):
                writer.add(make_episode(number, 4))
            writer.end()
        assert writer.begin({"policy": "a"}) is None
    manifest = read_manifest(tmp_path)
    assert [(shard.recording, shard.episodes) for shard in manifest.shards] == [
        (i, n) for i in (0, 1) for n in (2, 2, 1)
    ]
    assert [shard.facts.recording.tolist() for shard in shards_of(tmp_path)][3] == [1, 1]


def test_rows_of_zeros_are_not_missing(tmp_path):
    write_episodes(tmp_path, [make_episode(0, 4, reward=0)])
    (shard,) = shards_of(tmp_path)
    np.testing.assert_array_equal(shard.read_checked()["reward"], np.zeros(5))


def test_the_same_episodes_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_episodes(tmp_path / name, [make_episode(n, 50 + n, IMAGES) for n in range(9)], IMAGES, shard_bytes=9000)
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    assert len(read_manifest(tmp_path / "a").shards) > 2


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_writer_that_is_killed_leaves_whole_shards_and_continues_to_the_same_bytes(tmp_path, kills):
    episodes = 40 + 25 * kills
    write(str(tmp_path / "straight"), episodes)
    folder, seen = tmp_path / "killed", 0
    for kill in range(kills):
        command = [sys.executable, "-m", "tests.data.killed_writer", str(folder), str(episodes)]
        with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
            try:
                for _ in range(3):
                    told = process.stdout.readline()
                time.sleep(kill * 0.004)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait(LIMIT_S)
        check_shards(folder)
        assert len(read_manifest(folder).shards) >= int(told) > seen
        seen = int(told)
    write(str(folder), episodes)
    assert content_of(folder) == content_of(tmp_path / "straight")


@pytest.mark.parametrize("moment", ["write_durably", "rename_durably"])
def test_what_a_writer_had_not_committed_is_deleted(tmp_path, monkeypatch, moment):
    """It ends at each step of a commit in turn: before `shard.json`, before the name, before the manifest."""
    import podrl.data.manifest
    import podrl.data.shards
    import podrl.data.writer

    write(str(tmp_path / "straight"), 40)
    for calls in range(1, 4):
        folder, left = tmp_path / f"{moment}-{calls}", [calls + 4]

        def fail(*arguments, left=left):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return getattr(durable, moment)(*arguments)

        for module in (podrl.data.manifest, podrl.data.shards, podrl.data.writer):
            if hasattr(module, moment):
                monkeypatch.setattr(module, moment, fail)
        with pytest.raises(KeyboardInterrupt):
            write(str(folder), 40)
        monkeypatch.undo()
        check_shards(folder)
        write(str(folder), 40)
        assert content_of(folder) == content_of(tmp_path / "straight")


@pytest.mark.parametrize("moment", ["open", "fsync", "replace"])
def test_a_writer_that_ends_before_its_first_manifest_leaves_a_folder_that_can_be_used(tmp_path, monkeypatch, moment):
    write(str(tmp_path / "straight"), 3)
    module = durable if moment == "open" else os
    real = getattr(builtins if moment == "open" else os, moment)

    def fail(*arguments):
        if moment == "open":
            real(*arguments).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, moment, fail, raising=False)
    with pytest.raises(KeyboardInterrupt):
        write(str(tmp_path / "set"), 3)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["manifest.json.tmp"]
    write(str(tmp_path / "set"), 3)
    assert content_of(tmp_path / "set") == content_of(tmp_path / "straight")


def test_other_settings_of_the_environment_are_not_appended(tmp_path):
    settings = {"max_episode_steps": 100, "wrappers": ("a:B",), "options": {"speed": 1, "size": 2}, "workers": 1}

    def opened(**fields):
        return DataWriter(tmp_path, DataSpec(env=VECTOR, settings={**settings, **fields} if fields else {}))

    with opened(workers=2) as writer:
        writer.begin({})
        writer.end()
    for fields, said in (
        ({"max_episode_steps": 200}, r"holds episodes with env\.max_episode_steps=100; these have 200"),
        ({"options": {"speed": 1, "size": 3}}, r"env\.options\.size=2; these have 3"),
        ({"wrappers": ()}, r"env\.wrappers=\['a:B'\]; these have \[\]"),
    ):
        with pytest.raises(ConfigError, match=said):
            opened(**fields)
    opened(workers=8).close()
    opened().close()  # An import knows no settings.


def test_another_writer_that_has_just_made_the_data_set_is_no_other_content(tmp_path, monkeypatch):
    """The folder gets its manifest after the second writer has found it and before it has the lock."""
    real = os.open

    def late(path, *arguments):
        monkeypatch.undo()
        write_episodes(tmp_path, [make_episode(0, 3)])
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", late)
    with DataWriter(tmp_path, DataSpec(env=VECTOR)) as writer:
        assert len(writer.manifest.shards) == 1


def test_episodes_without_a_step_do_not_count_when_a_recording_is_resumed(tmp_path):
    def add(writer, numbers):
        for number in numbers:
            writer.add(make_episode(number, 0 if number == 1 else 3))

    with DataWriter(tmp_path, DataSpec(env=VECTOR), shard_bytes=1) as writer:
        writer.begin({})
        add(writer, range(3))
    with DataWriter(tmp_path, DataSpec(env=VECTOR), shard_bytes=1) as writer:
        assert writer.begin({}) == 2
        add(writer, range(5))
        writer.end()
    assert [int(shard.facts.number[0]) for shard in shards_of(tmp_path)] == [0, 2, 3, 4]


@pytest.mark.parametrize("name", ["reward", "observation", "action"])
def test_what_is_not_finite_is_refused(tmp_path, name):
    episode = make_episode(4, 3)
    getattr(episode, name).flat[1] = np.nan
    with DataWriter(tmp_path, DataSpec(env=VECTOR)) as writer:
        writer.begin({"policy": "random"})
        with pytest.raises(ConfigError, match=f"random: {name} of episode 4, seed 7, has a number that is not finite"):
            writer.add(episode)


def test_nothing_else_is_written_over(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("x")
    with pytest.raises(ConfigError, match="is no data set, and not empty"):
        DataWriter(tmp_path / "mine", DataSpec(env=VECTOR))
    write_episodes(tmp_path / "set", [make_episode(0, 3)])
    with pytest.raises(ConfigError, match=r"holds episodes of vector .* these are of images"):
        DataWriter(tmp_path / "set", DataSpec(env=IMAGES))
    wider = dataclasses.replace(VECTOR, observation=IMAGES.observation)
    with pytest.raises(ConfigError, match="holds other rows: observation is"):
        DataWriter(tmp_path / "set", DataSpec(env=wider))
    with DataWriter(tmp_path / "set", DataSpec(env=VECTOR)), pytest.raises(ConfigError, match="another process"):
        DataWriter(tmp_path / "set", DataSpec(env=VECTOR))


def test_a_recording_that_was_cut_short_comes_first(tmp_path):
    with DataWriter(tmp_path, DataSpec(env=VECTOR), shard_bytes=1) as writer:
        writer.begin({"policy": "sampled", "run": "a", "update": 8, "steps": 50, "seed": 3})
        writer.add(make_episode(0, 3))
    with DataWriter(tmp_path, DataSpec(env=VECTOR)) as writer:
        with pytest.raises(ConfigError, match=r"cut short: a@8 steps=50 seed=3\. Repeat its"):
            writer.begin({"policy": "b"})
        assert writer.begin({"policy": "sampled", "run": "a", "update": 8, "steps": 50, "seed": 3}) == 1


def test_rows_of_another_shape_are_refused(tmp_path):
    with DataWriter(tmp_path, DataSpec(env=VECTOR, behaviour=LOGITS)) as writer:
        writer.begin({})
        writer.add(make_episode(0, 3))
        with pytest.raises(ValueError, match=r"behaviour/logits \(0,\) of an episode, expected \(4, 4\)"):
            writer.end()


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: flip(folder / "shard-000001/reward/c/0", 40), r"Shard shard-000001 in .* is damaged: reward: "),
        (lambda folder: (folder / "shard-000001/action/c/0/0").unlink(), r"Shard shard-000001 .* is damaged: action: "),
        (
            lambda folder: (folder / "shard-000001/action/zarr.json").unlink(),
            r"Shard shard-000001 .* damaged: action: ",
        ),
        (lambda folder: flip(folder / "shard-000001/shard.json", 30), r"Shard shard-000001 .* the hash of shard.json"),
        (
            lambda folder: (folder / "shard-000001/shard.json").unlink(),
            r"Shard shard-000001 .* cannot be read \(No such",
        ),
        (lambda folder: flip(folder / "manifest.json", 40), r"manifest.json is damaged: its hash is not"),
        (lambda folder: (folder / "manifest.json").write_text("["), r"manifest.json is damaged: it is no manifest"),
        (
            lambda folder: shutil.copy(folder / "shard-000000/reward/c/0", folder / "shard-000001/reward/c/0"),
            r"Shard shard-000001 .* is damaged: reward: the hash is not",
        ),
    ],
)
def test_damage_is_named_in_one_line(tmp_path, damage, said):
    write_episodes(tmp_path, [make_episode(n, 5, reward=n) for n in range(4)], shard_bytes=200)
    damage(tmp_path)
    with pytest.raises(DataError, match=said) as error:
        check_shards(tmp_path)
    assert "\n" not in str(error.value)


def test_rows_that_are_missing_are_not_zeros(tmp_path):
    """Zarr takes what is not there for rows of its fill value; a read of some rows compares no hash."""
    write_episodes(tmp_path, [make_episode(0, 5)])
    (tmp_path / "shard-000000/reward/c/0").unlink()
    (shard,) = shards_of(tmp_path)
    with pytest.raises(DataError, match=r"Shard shard-000000 in .* is damaged: reward: "):
        shard.read(0, 3)


def test_a_manifest_of_a_later_format_is_no_damage(tmp_path):
    write_episodes(tmp_path, [make_episode(0, 3)])
    content = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**content, "format": 9}))
    with pytest.raises(ConfigError, match="is of format 9; this podrl reads format 1"):
        read_manifest(tmp_path)
    with pytest.raises(ConfigError, match=r"is no data set: it has no manifest\.json"):
        read_manifest(tmp_path / "shard-000000")
    with pytest.raises(ConfigError, match="is no data set: there is no such folder"):
        read_manifest(tmp_path / "nowhere")


def test_the_folder_of_a_run_is_no_damaged_data_set(tmp_path):
    for name in ("manifest.json", "config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        ConfigError, match=r"is the folder of a run, and no data set\. Record one from it: tools/record"
    ):
        read_manifest(tmp_path)
