"""Evaluations that a stop has interrupted are kept, made once, and forgotten."""

import shutil
from types import SimpleNamespace

from etils import epath
import jax
from jax import numpy as jnp
import pytest

from podrl.evaluation.evaluator import Evaluator
from podrl.runs.unfinished_evaluations import UnfinishedEvaluations
from podrl.types import Counters


def params(value):
    """Parameters with types that NumPy has not."""
    return {
        "dense": {"kernel": jnp.full((2, 3), value, jnp.float32), "bias": jnp.full((3,), value, jnp.bfloat16)},
        "step": jnp.uint32(value),
        "key": jax.random.key(value),
    }


def counters(update):
    return Counters(learner_steps=update, env_steps=32 * update, frames=128 * update)


def opened(folder, begin=100, done=()):
    return UnfinishedEvaluations(epath.Path(folder), counters(begin), lambda update: update in done)


def kept(folder):
    return sorted(path.name for path in (folder / "unfinished_evaluations").glob("*"))


def test_parameters_are_read_as_they_were_written(tmp_path):
    opened(tmp_path).keep([(counters(9), params(9)), (counters(10), params(10))], counters(11))
    read = opened(tmp_path).read(params(0))
    assert [each for each, _ in read] == [counters(9), counters(10)]
    for value, (_, found) in zip((9, 10), read, strict=True):
        assert jax.tree.structure(found) == jax.tree.structure(params(0))
        for leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(params(value)), strict=True):
            assert leaf.dtype == expected.dtype
            assert (leaf == expected).all()


def test_a_file_stays_until_the_evaluation_has_a_row(tmp_path):
    first = opened(tmp_path)
    first.keep([(counters(9), params(9)), (counters(10), params(10))], counters(10))
    assert kept(tmp_path) == ["9.npz"]  # Update 10 is in the checkpoint itself.
    second = opened(tmp_path, begin=10)
    second.keep([], counters(10))  # As in a run that is told to stop before it begins.
    assert kept(tmp_path) == ["9.npz"]
    assert len(second.read(params(0))) == 1
    second.keep([(counters(9), params(9))], counters(12))
    assert kept(tmp_path) == ["9.npz"]
    second.keep([], counters(14))
    assert kept(tmp_path) == []


def test_what_has_a_row_or_is_made_again_is_forgotten(tmp_path):
    made = [(counters(update), params(update)) for update in (4, 6, 8, 9)]
    opened(tmp_path).keep(made, counters(10))
    found = opened(tmp_path, begin=8, done={4}).read(params(0), made=8)
    assert [each.learner_steps for each, _ in found] == [6]
    assert kept(tmp_path) == ["6.npz", "8.npz"]  # Until the run has made it.


@pytest.mark.parametrize("damage", ["cut", "other", "nothing"])
def test_one_that_cannot_be_read_is_named(tmp_path, caplog, damage):
    opened(tmp_path).keep([(counters(9), params(9))], counters(10))
    path = tmp_path / "unfinished_evaluations" / "9.npz"
    like = params(0)
    if damage == "other":
        like["dense"]["bias"] = jnp.zeros((4,), jnp.bfloat16)
    else:
        path.write_bytes(path.read_bytes()[:-30] if damage == "cut" else b"")
    assert opened(tmp_path).read(like) == []
    assert f"The evaluation of update 9 has no row: {path}, kept when the run was stopped, cannot be" in caplog.text


def test_one_that_cannot_be_written_is_named_and_the_stop_goes_on(tmp_path, caplog):
    opened(tmp_path / "absent").keep([(counters(9), params(9))], counters(10))
    assert "The evaluation of update 9 is not kept for when the run resumes:" in caplog.text
    assert "cannot be written (No such file or directory)" in caplog.text


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_write_that_fails_leaves_no_part(tmp_path, monkeypatch, step):
    def fail(path, *_):
        path.write_text("part")
        raise OSError(28, "No space left on device")

    first = opened(tmp_path)
    monkeypatch.setattr(type(epath.Path(tmp_path)), step, fail)
    first.keep([(counters(9), params(9))], counters(10))
    assert kept(tmp_path) == []


def test_parts_of_files_that_a_kill_has_left_are_deleted(tmp_path):
    opened(tmp_path).keep([(counters(9), params(9))], counters(10))
    (tmp_path / "unfinished_evaluations/10.tmp").write_text("part")
    opened(tmp_path)
    assert kept(tmp_path) == ["9.npz"]


@pytest.mark.parametrize(("free_bytes", "is_kept"), [(10_900, False), (20_000, True)])
def test_the_checkpoint_has_its_room_first(tmp_path, monkeypatch, caplog, free_bytes, is_kept):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free_bytes))
    opened(tmp_path).keep([(counters(9), params(9))], counters(10), 10_000)
    assert kept(tmp_path) == (["9.npz"] if is_kept else [])
    assert ("it and the checkpoint need" in caplog.text) != is_kept


def test_one_that_cannot_be_read_now_stays_for_the_next_start(tmp_path, monkeypatch, caplog):
    def fail(path):
        raise OSError(5, "Input/output error")

    opened(tmp_path).keep([(counters(9), params(9))], counters(10))
    second = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path(tmp_path)), "read_bytes", fail)
        assert second.read(params(0)) == []
    assert "9.npz cannot be read now (Input/output error)" in caplog.text
    second.keep([], counters(12))
    second.keep([])
    assert len(opened(tmp_path).read(params(0))) == 1


def test_a_damaged_one_is_deleted(tmp_path):
    opened(tmp_path).keep([(counters(9), params(9))], counters(10))
    (tmp_path / "unfinished_evaluations/9.npz").write_bytes(b"")
    second = opened(tmp_path)
    assert second.read(params(0)) == []
    second.keep([], counters(12))
    assert kept(tmp_path) == []


def test_that_of_the_checkpoint_itself_is_kept_when_the_run_ends(tmp_path):
    first = opened(tmp_path)
    first.keep([(counters(97), params(97))], counters(97))
    assert kept(tmp_path) == []
    first.keep([(counters(97), params(97))])
    again = opened(tmp_path, begin=97)  # The same run makes it from the checkpoint, and is stopped again.
    assert again.read(params(0), made=97) == []
    again.keep([(counters(97), params(97))])
    longer = opened(tmp_path, begin=97)
    assert [each for each, _ in longer.read(params(0))] == [counters(97)]
    longer.keep([])
    assert kept(tmp_path) == []


def test_an_evaluator_begins_with_what_was_unfinished(tmp_path):
    opened(tmp_path).keep([(counters(2), params(2)), (counters(4), params(4))], counters(5))
    played, written = [], []

    def play(given, update, **options):
        played.append((update, int(given["step"])))
        return "episodes"

    evaluator = Evaluator(
        every_updates=2,
        last_update=8,
        timeout_s=30.0,
        play=play,
        write=lambda counters, episodes: written.append(counters),
        find_unfinished=opened(tmp_path, begin=6).read,
    )
    with evaluator:
        assert evaluator.add(counters(6), params(6))
        assert [each.learner_steps for each, _ in evaluator.unfinished()] == [2, 4, 6]
        assert evaluator.add(counters(8), params(8), saves=True)
        assert evaluator.settle()
        assert not evaluator.unfinished()
    assert written == [counters(update) for update in (2, 4, 6, 8)]
    assert played == [(update, update) for update in (2, 4, 6, 8)]
    assert kept(tmp_path) == ["2.npz", "4.npz"]  # Until the next checkpoint.
