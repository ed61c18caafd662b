"""Bits, lengths and files of a checkpoint that a disk has changed: all are found, or change nothing."""

import collections
import os
import random
import shutil

import pytest

from tests.faults.checkpoints import files, make_learner, make_snapshot, outcome, plain, put_back, save

FLIPS = int(os.environ.get("PODRL_FUZZ", "100"))  # By the seed below always the same ones.


@pytest.fixture(scope="module")
def learner():
    return make_learner()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, learner):
    folder = tmp_path_factory.mktemp("fuzz")
    save(folder, learner)
    return folder


def tally(outcomes):
    """Counts by outcome; whatever is neither found nor harmless is shown with its place."""
    counts = collections.Counter(found for _, found in outcomes)
    assert [(place, found) for place, found in outcomes if found not in ("damaged", "unchanged")] == []
    return counts


@pytest.mark.slow
def test_flipped_bits_are_found_or_change_nothing(workdir, learner):
    expected, chosen, outcomes = plain(make_snapshot(learner)), random.Random(1), []
    places = [(path, byte) for path in files(workdir / "checkpoints/80") for byte in range(path.stat().st_size)]
    for _ in range(FLIPS):
        path, byte = chosen.choice(places)
        bit = chosen.randrange(8)
        with put_back(path):
            content = bytearray(path.read_bytes())
            content[byte] ^= 1 << bit
            path.write_bytes(content)
            found = outcome(workdir, learner, expected)
        outcomes.append((f"{path.relative_to(workdir)}, byte {byte}, bit {bit}", found))
    assert outcome(workdir, learner, expected) == "unchanged"
    assert tally(outcomes)["damaged"] > FLIPS / 4


@pytest.mark.slow
def test_truncated_emptied_overwritten_and_missing_files_are_found_or_change_nothing(workdir, learner):
    expected, chosen, outcomes = plain(make_snapshot(learner)), random.Random(2), []

    def cut(path):
        os.truncate(path, chosen.randrange(path.stat().st_size))

    def empty(path):
        path.write_bytes(b"")

    def zero(path):
        path.write_bytes(bytes(path.stat().st_size))

    def noise(path):
        path.write_bytes(chosen.randbytes(path.stat().st_size))

    def double(path):
        path.write_bytes(2 * path.read_bytes())

    def delete(path):
        path.unlink()

    def replace_by_folder(path):
        path.unlink()
        path.mkdir()

    for damage in (cut, cut, empty, zero, noise, double, delete, replace_by_folder):
        for path in files(workdir / "checkpoints/80"):
            with put_back(path):
                damage(path)
                found = outcome(workdir, learner, expected)
            outcomes.append((f"{damage.__name__} {path.relative_to(workdir)}", found))
    assert outcome(workdir, learner, expected) == "unchanged"
    assert tally(outcomes)["damaged"] > len(outcomes) / 3


@pytest.mark.slow
def test_missing_folders_and_files_of_another_checkpoint_are_found_or_change_nothing(workdir, learner, tmp_path):
    expected, outcomes = plain(make_snapshot(learner)), []
    save(tmp_path / "two", learner, 40, 80)
    for path in sorted(path for path in (workdir / "checkpoints/80").rglob("*") if path.is_dir()):
        inner, copy = path.relative_to(workdir), tmp_path / "copy"
        shutil.copytree(workdir, copy)
        shutil.rmtree(copy / inner)
        outcomes.append((f"without {inner}", outcome(copy, learner, expected)))
        other = tmp_path / "two/checkpoints/40" / path.relative_to(workdir / "checkpoints/80")
        shutil.copytree(other, copy / inner, dirs_exist_ok=True)
        outcomes.append((f"that of another update for {inner}", outcome(copy, learner, expected)))
        shutil.rmtree(copy)
    assert tally(outcomes)["damaged"] > len(outcomes) / 3
