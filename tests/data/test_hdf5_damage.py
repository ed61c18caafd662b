"""Files that cannot be imported: each is one line that names the file and the array, and writes nothing."""

import json

import numpy as np
import pytest

from tests.data.test_hdf5 import LENGTHS, d4rl_columns, write_file
from tests.data.test_recording import record_set

h5py = pytest.importorskip("h5py")


def refused(file, folder, capfd, said):
    """Asserts that an import is refused in one line and writes nothing; or is not, if nothing is said."""
    assert record_set("--import", file, "--out", folder) == (2 if said else 0)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("record: error: ")]
    assert len(errors) == bool(said)
    assert folder.exists() == (not said)
    assert not said or said in errors[0]


def without(name):
    return {key: value for key, value in d4rl_columns(LENGTHS, after=False).items() if key != name}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (without("timeouts"), "has neither timeouts nor next_observations: where its episodes were cut"),
        (without("terminals"), "has neither Minari's layout (groups episode_0, episode_1, ...) nor D4RL's"),
        ({"episode_0/observations": np.zeros(3)}, "metadata.json, which Minari keeps beside its file, cannot be read"),
        (None, "cannot be read as HDF5"),
    ],
)
def test_other_files_are_one_line(tmp_path, capfd, columns, said):
    file = tmp_path / "file.hdf5"
    file.write_text("no") if columns is None else write_file(file, columns)
    refused(file, tmp_path / "set", capfd, said)


def minari_columns(**fields):
    """One episode of 4 steps as Minari keeps it; observations of 3 numbers, actions of 1."""
    columns = {
        "observations": np.zeros((5, 3), np.float32),
        "actions": np.zeros((4, 1), np.float32),
        "rewards": np.zeros(4),
        "terminations": np.array([0, 0, 0, 1], bool),
        "truncations": np.zeros(4, bool),
        **fields,
    }
    return {f"episode_0/{name}": values for name, values in columns.items() if values is not None}


def box(size):
    bounds = {"low": [-1.0] * size, "high": [1.0] * size}
    return json.dumps({"type": "Box", "dtype": "float32", "shape": [size], **bounds})


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            minari_columns(observations=np.zeros((4, 3))),
            "/episode_0/observations has shape (4, 3), expected shape (5, 3)",
        ),
        (
            minari_columns(observations=np.zeros((5, 2))),
            "/episode_0/observations has shape (5, 2), expected shape (5, 3)",
        ),
        (minari_columns(actions=np.zeros((3, 1))), "/episode_0/actions has shape (3, 1), expected shape (4, 1)"),
        (minari_columns(rewards=np.zeros(3)), "/episode_0/rewards has shape (3,), expected 4 rows of one number."),
        (minari_columns(rewards=None), "/episode_0/rewards is missing"),
        (minari_columns(rewards=np.array([b"x"] * 4)), "/episode_0/rewards cannot be read (it has |S1, not numbers)."),
        (minari_columns(rewards=np.full(4, np.nan)), "reward of episode 0, seed -1, has a number that is not finite."),
        (
            {**minari_columns(), "episode_last/rewards": np.zeros(1)},
            "the group episode_last is not named episode_NUMBER",
        ),
        ({**minari_columns(), "episode_1": np.zeros(1)}, "episode_1 is an array, expected a group."),
    ],
)
def test_broken_files_of_minari_are_one_line(tmp_path, capfd, columns, said):
    (tmp_path / "metadata.json").write_text(json.dumps({"observation_space": box(3), "action_space": box(1)}))
    refused(write_file(tmp_path / "file.hdf5", minari_columns()), tmp_path / "good", capfd, None)
    refused(write_file(tmp_path / "file.hdf5", columns), tmp_path / "set", capfd, said)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("actions", np.zeros((9, 3)), "/actions has shape (9, 3), expected shape (17, 3)."),
        ("rewards", np.zeros(16), "/rewards has shape (16,), expected 17 rows of one number."),
        ("terminals", np.zeros((17, 2)), "/terminals has shape (17, 2), expected 17 rows of one number."),
        ("timeouts", np.zeros(3), "/timeouts has shape (3,), expected 17 rows of one number."),
        ("next_observations", np.zeros((17, 3)), "/next_observations has shape (17, 3), expected shape (17, 2)."),
        ("observations", np.zeros((0, 2)), "/observations has no rows."),
        (
            "observations",
            np.full((17, 2), np.inf),
            "observation of episode 0, seed -1, has a number that is not finite.",
        ),
    ],
)
def test_broken_files_of_d4rl_are_one_line(tmp_path, capfd, name, values, said):
    refused(write_file(tmp_path / "file.hdf5", {**d4rl_columns(LENGTHS), name: values}), tmp_path / "set", capfd, said)


def test_a_chunk_that_cannot_be_unpacked_is_one_line(tmp_path, capfd):
    file = write_file(tmp_path / "file.hdf5", d4rl_columns(LENGTHS))
    with h5py.File(file, "a") as content:
        del content["rewards"]
        content.create_dataset("rewards", data=np.zeros(17), chunks=(17,), compression="gzip")
        place = content["rewards"].id.get_chunk_info(0).byte_offset
    damaged = bytearray(file.read_bytes())
    damaged[place : place + 8] = bytes(8)
    file.write_bytes(damaged)
    refused(file, tmp_path / "set", capfd, f"--import={file}: /rewards cannot be read (")
