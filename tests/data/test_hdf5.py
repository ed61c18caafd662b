"""Imports, against files that Minari itself has written, and against files of D4RL's layout."""

import json

import gymnasium
from gymnasium import spaces
import numpy as np
import pytest

from podrl.data import hdf5
from podrl.data.hdf5 import cut_episodes
from podrl.data.raw_actions import encode_actions
from podrl.data.spaces_json import read_space
from podrl.data.writer import DataWriter
from podrl.envs.spaces import make_action_encoding
from tests.data.episodes import content_of
from tests.data.test_recording import read_set, record_set

h5py = pytest.importorskip("h5py")


class Parts(gymnasium.Env):
    """Observes a picture and numbers; ends after 4 steps, or is cut off after 3 in every second episode."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (8, 8, 3), np.uint8),
            "place": spaces.Box(-1, 1, (2,), np.float32),
            "mode": spaces.Discrete(3),
        }
    )
    action_space = spaces.Discrete(2, start=1)
    episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episodes = 0, self.episodes + 1
        return self._observe(), {}

    def _observe(self):
        return {
            "camera": np.full((8, 8, 3), self.steps, np.uint8),
            "place": np.full(2, self.steps / 10, np.float32),
            "mode": self.steps % 3,
        }

    def step(self, action):
        self.steps += 1
        is_cut = self.episodes % 2 == 0 and self.steps == 3
        return self._observe(), float(action * self.steps), self.steps == 4, is_cut, {}


def collect(folder, monkeypatch, name, env, *, episodes, last=None):
    """A file that Minari writes, the actions that were taken, and what they earned; the last episode may be left."""
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    collector, taken = minari.DataCollector(env), []
    for episode in range(episodes):
        collector.reset(seed=episode + 5)
        for step in range(10**6):
            action = collector.action_space.sample()
            _, reward, terminated, truncated, _ = collector.step(action)
            taken.append((action, reward))
            if terminated or truncated or (episode == episodes - 1 and step + 1 == last):
                break
    about = {"author": "x", "author_email": "x", "code_permalink": "x", "algorithm_name": "random"}
    collector.create_dataset(dataset_id=name, **about)
    (file,) = (folder / name).rglob("*.hdf5")
    return file, taken


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_minari_with_continuous_actions_and_an_episode_that_was_left(tmp_path, monkeypatch):
    env = gymnasium.make("Pendulum-v1", max_episode_steps=7)
    file, taken = collect(tmp_path, monkeypatch, "pendulum/test-v0", env, episodes=3, last=5)
    assert record_set("--import", file, "--out", tmp_path / "set") == 0
    manifest, (facts,), rows = read_set(tmp_path / "set")
    assert manifest.spec.env.id == "Pendulum-v1"
    assert manifest.recordings[0].facts["dataset_id"] == "pendulum/test-v0"
    np.testing.assert_array_equal(facts.length, [7, 7, 5])
    np.testing.assert_array_equal(facts.is_whole, [True, True, False])
    np.testing.assert_array_equal(facts.seed, [5, 6, 7])
    assert (rows["discount"] == 1).all()
    is_step = np.ones(len(rows["reward"]), bool)
    is_step[facts.begin + facts.length] = False
    np.testing.assert_allclose(rows["reward"][is_step], [reward for _, reward in taken], rtol=1e-6)
    np.testing.assert_allclose(2 * rows["action"][is_step], [action for action, _ in taken], rtol=1e-6)  # Torque 2.
    first, _ = gymnasium.make("Pendulum-v1").reset(seed=6)
    np.testing.assert_allclose(rows["observation"][facts.begin[1]], first, rtol=1e-6)
    assert "params_version" not in rows


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_minari_with_pictures_and_choices(tmp_path, monkeypatch):
    file, taken = collect(tmp_path, monkeypatch, "parts/test-v0", Parts(), episodes=4)
    for _ in range(2):  # The second time nothing is added.
        assert record_set("--import", file, "--out", tmp_path / "set", "--env_id", "tests:Parts") == 0
    manifest, (facts,), rows = read_set(tmp_path / "set")
    assert manifest.spec.env.id == "tests:Parts"
    np.testing.assert_array_equal(facts.length, [4, 3, 4, 3])
    assert facts.is_whole.all()
    np.testing.assert_array_equal(rows["discount"][facts.begin + facts.length - 1], [0, 1, 0, 1])
    steps = np.concatenate([np.arange(length + 1) for length in facts.length])
    pictures = np.broadcast_to(steps[:, None, None, None], (18, 8, 8, 3))
    np.testing.assert_array_equal(rows["observation/camera"], pictures)
    vectors = np.column_stack([np.eye(3)[steps % 3], steps / 10, steps / 10])
    np.testing.assert_allclose(rows["observation/vector"], vectors, rtol=1e-6)
    is_step = np.ones(len(steps), bool)
    is_step[facts.begin + facts.length] = False
    np.testing.assert_array_equal(rows["action"][is_step] + 1, [action for action, _ in taken])


def d4rl_columns(lengths, *, timeouts=True, after=True):
    """Episodes that end in turn by themselves and by a limit, and the part of one; observations are (episode, step)."""
    observations = np.concatenate([[(e, t) for t in range(n)] for e, n in enumerate(lengths)]).astype(np.float32)
    num = len(observations)
    ends = np.cumsum(lengths) - 1
    columns = {
        "observations": observations,
        "actions": np.random.default_rng(0).uniform(-1, 1, (num, 3)).astype(np.float32),
        "rewards": np.arange(num, dtype=np.float64),
        "terminals": np.zeros(num, bool),
    }
    columns["terminals"][ends[0:-1:2]] = True
    if timeouts:
        columns["timeouts"] = np.zeros(num, bool)
        columns["timeouts"][ends[1:-1:2]] = True
    if after:
        columns["next_observations"] = observations + np.array([0, 1], np.float32)
    return columns


LENGTHS = [3, 4, 2, 5, 3]  # The last is the part of one.


@pytest.mark.parametrize("timeouts", [True, False])
def test_d4rl_s_columns_are_cut_where_episodes_ended_or_jump(timeouts):
    columns = d4rl_columns(LENGTHS, timeouts=timeouts)
    found = list(cut_episodes(columns))
    assert [episode.length for episode in found] == LENGTHS
    assert [episode.is_whole for episode in found] == [True] * 4 + [False]
    assert [episode.discount[-1] for episode in found] == [0, 1, 0, 1, 1]
    for number, episode in enumerate(found):
        steps = np.arange(episode.length + 1)
        np.testing.assert_array_equal(episode.observation, np.column_stack([np.full(len(steps), number), steps]))
    np.testing.assert_array_equal(np.concatenate([episode.action for episode in found]), columns["actions"])
    np.testing.assert_array_equal(np.concatenate([episode.reward for episode in found]), columns["rewards"])


def test_without_the_observation_that_a_cut_off_step_led_to_the_step_is_left_out():
    found = list(cut_episodes(d4rl_columns(LENGTHS, after=False)))
    assert [episode.length for episode in found] == [3, 3, 2, 4, 2]
    for number, (episode, length) in enumerate(zip(found, LENGTHS, strict=True)):
        assert episode.observation[-1].tolist() == [number, length - 1]
        assert len(episode.observation) == episode.length + 1


def write_file(path, columns):
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
        file["infos/qpos"] = np.zeros(3)
    return path


def test_a_file_of_d4rl_is_a_data_set(tmp_path):
    file = write_file(tmp_path / "hopper-medium-v2.hdf5", d4rl_columns(LENGTHS))
    for name in ("a", "b"):
        assert record_set("--import", file, "--out", tmp_path / name) == 0
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    manifest, (facts,), rows = read_set(tmp_path / "a")
    assert manifest.spec.env.id == "hopper-medium-v2"
    np.testing.assert_array_equal(facts.length, LENGTHS)
    np.testing.assert_array_equal(facts.is_whole, [True] * 4 + [False])
    assert rows["action"].shape == (sum(LENGTHS) + 5, 3)


def test_an_import_that_was_cut_short_has_every_episode_once(tmp_path, monkeypatch):
    """Without the observation that a cut off step led to, an episode of one step has none."""
    columns = d4rl_columns([3, 1, 4, 2, 1, 3], after=False)
    file = write_file(tmp_path / "d.hdf5", {**columns, "terminals": np.zeros(14, bool), "timeouts": ends_of(columns)})
    monkeypatch.setattr(hdf5, "DataWriter", lambda *arguments: DataWriter(*arguments, shard_bytes=1))
    assert record_set("--import", file, "--out", tmp_path / "straight") == 0
    encoded, left = hdf5._encoded, 4

    def fail(*arguments):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return encoded(*arguments)

    monkeypatch.setattr(hdf5, "_encoded", fail)
    assert record_set("--import", file, "--out", tmp_path / "cut") == 130
    assert [int(each.number[0]) for each in read_set(tmp_path / "cut")[1]] == [0, 2]
    left = 0
    assert record_set("--import", file, "--out", tmp_path / "cut") == 0
    assert [int(each.number[0]) for each in read_set(tmp_path / "cut")[1]] == [0, 2, 3, 5]
    assert content_of(tmp_path / "cut") == content_of(tmp_path / "straight")


def ends_of(columns):
    return columns["terminals"] | columns["timeouts"]


def test_another_file_of_one_name_and_size_is_another_recording(tmp_path):
    columns = d4rl_columns(LENGTHS)
    for folder, rewards in (("a", columns["rewards"]), ("b", columns["rewards"] + 1), ("a", None)):
        file = tmp_path / folder / "x.hdf5"
        if rewards is not None:
            file.parent.mkdir()
            write_file(file, {**columns, "rewards": rewards})
        assert record_set("--import", file, "--out", tmp_path / "set") == 0
    assert [shard.episodes for shard in read_set(tmp_path / "set")[0].shards] == [5, 5]


def test_flags_that_do_not_belong_together_are_one_line(tmp_path, capfd):
    assert record_set("--import", "x.hdf5", "--steps", 3, "--out", tmp_path) == 2
    assert "--import plays no run" in capfd.readouterr().err
    assert record_set("--workdir", "x", "--steps", 3, "--out", tmp_path, "--env_id", "x") == 2
    assert "--env_id is for --import" in capfd.readouterr().err
    assert record_set("--workdir", "x", "--out", tmp_path) == 2
    assert "No length given. Add --steps N." in capfd.readouterr().err


SPACES = [
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 5]),
    spaces.MultiBinary(4),
    spaces.Box(np.array([-2.0, 0, -np.inf], np.float32), np.array([2.0, 10, np.inf], np.float32)),
    spaces.Box(-3, 4, (2, 2), np.int64),
    spaces.Dict({"b": spaces.Box(0, 5, (2,), np.float32), "a": spaces.Discrete(4)}),
    spaces.Tuple([spaces.MultiDiscrete([3, 3]), spaces.Dict({"x": spaces.Box(-1, 3, (1,), np.float32)})]),
]


def stacked(space, samples):
    if isinstance(space, spaces.Dict):
        return {key: stacked(each, [sample[key] for sample in samples]) for key, each in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(each, [sample[place] for sample in samples]) for place, each in enumerate(space.spaces))
    return np.array(samples)


def flat(space, raw):
    return np.array(spaces.flatten(space, raw), np.float64)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_actions_are_what_podrl_would_have_sent(space):
    space.seed(0)
    samples = [space.sample() for _ in range(20)]
    encoding = make_action_encoding(space, "test")
    encoded = encode_actions(space, encoding.actions, stacked(space, samples))
    assert encoded.dtype == encoding.actions.struct.dtype
    assert encoded.shape[1:] == encoding.actions.struct.shape
    decoded = encoding.decode(encoded)
    for sample, found in zip(samples, decoded, strict=True):
        np.testing.assert_allclose(flat(space, found), flat(space, sample), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_are_read_as_minari_writes_them(space):
    pytest.importorskip("minari")
    from minari.serialization import serialize_space

    assert read_space(json.loads(serialize_space(space))) == space
