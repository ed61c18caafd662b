"""A run of several seeds that was stopped resumes with all of them, from what all of them have saved."""

import itertools
import json
import shutil
import threading
import time

import jax
import numpy as np
import pytest

from podrl import train
from podrl.config.config import ConfigError
from podrl.evaluation import making
from podrl.evaluation.evaluation_thread import EvaluationError, Turns
from podrl.runs import checkpoint
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_arrays import whole_steps
from podrl.runs.checkpoint_errors import CheckpointError
from podrl.runtime.waiting import Stopped
from tests.loops.seeds import FIRST, NUM, check_same, folders, seeds_config, words
from tests.processes import read_rows

pytestmark = pytest.mark.usefixtures("compiled_once")


def damage(checkpoint_folder):
    for path in (checkpoint_folder / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def test_stopping_anywhere_and_continuing_changes_nothing(straight_seeds, tmp_path, capsys, caplog):
    caplog.set_level("INFO", logger="absl")
    stops = iter([0] * 7 + [75] * 99)
    stopped = train.train(seeds_config(), workdir=str(tmp_path), stop_code=lambda: next(stops))
    assert not stopped.finished
    assert 4 < stopped.counters.learner_steps < 8
    assert all(stopped.counters.learner_steps in whole_steps(own) for own in folders(tmp_path))
    outcome = train.train(seeds_config(), workdir=str(tmp_path))
    assert outcome.finished
    check_same(tmp_path, straight_seeds[0])
    for one, other in zip(outcome.seeds, straight_seeds[1].seeds, strict=True):
        jax.tree.map(np.testing.assert_array_equal, words(one.state), words(other.state))
    assert caplog.text.count("Resumes the run in this folder after update") == 1
    assert f"after update {stopped.counters.learner_steps}." in caplog.text
    assert train.train(seeds_config(), workdir=str(tmp_path)).finished  # Nothing is left to do.
    assert caplog.text.count("This run is finished") == 1
    told = capsys.readouterr().out
    assert "12 of each of 3 seeds" in told
    assert f"seed {FIRST + 2}" in told


def test_all_resume_from_the_newest_update_that_all_have_saved(straight_seeds, tmp_path):
    shutil.copytree(straight_seeds[0], tmp_path / "run")
    one, other, _ = folders(tmp_path / "run")
    for lost in (one / "checkpoints/12", other / "checkpoints/12", other / "checkpoints/8"):
        shutil.rmtree(lost)
    assert train.train(seeds_config(), workdir=str(tmp_path / "run")).finished
    check_same(tmp_path / "run", straight_seeds[0])


def test_a_damaged_checkpoint_of_one_seed_takes_all_to_the_one_before(straight_seeds, tmp_path):
    shutil.copytree(straight_seeds[0], tmp_path / "run")
    _, other, _ = folders(tmp_path / "run")
    damage(other / "checkpoints/12")
    assert train.train(seeds_config(), workdir=str(tmp_path / "run")).finished
    assert (other / "checkpoints/damaged-12").exists()
    check_same(tmp_path / "run", straight_seeds[0])


def test_where_all_common_ones_of_a_seed_are_damaged_nothing_is_deleted(straight_seeds, tmp_path):
    shutil.copytree(straight_seeds[0], tmp_path / "run")
    one, other, _ = folders(tmp_path / "run")
    shutil.rmtree(other / "checkpoints/12")
    for update in (4, 8):
        damage(other / f"checkpoints/{update}")
    with pytest.raises(CheckpointError, match=r"All checkpoints of the updates that every seed has \(4, 8\) are"):
        train.train(seeds_config(), workdir=str(tmp_path / "run"))
    assert [whole_steps(own) for own in (one, other)] == [[4, 8, 12], [4, 8]]


def cut_short(straight, run):
    """Makes a run of which the first seed alone has completed its first save."""
    shutil.copytree(straight, run)
    for index, own in enumerate(folders(run)):
        for update in (8, 12) if index == 0 else (4, 8, 12):
            shutil.rmtree(own / f"checkpoints/{update}")
        if index > 0:
            (own / "checkpointed.json").unlink()
        rows = [line for line in (own / "metrics.jsonl").open() if json.loads(line)["learner_steps"] <= 5]
        (own / "metrics.jsonl").write_text("".join(rows))


def test_a_first_save_that_was_cut_short_is_made_again(straight_seeds, tmp_path):
    cut_short(straight_seeds[0], tmp_path / "run")
    assert train.train(seeds_config(), workdir=str(tmp_path / "run")).finished
    check_same(tmp_path / "run", straight_seeds[0])


def test_also_if_the_run_that_clears_it_is_killed(straight_seeds, tmp_path, monkeypatch):
    cut_short(straight_seeds[0], tmp_path / "run")
    clear = Checkpointer.forget_after

    def clear_and_end(self, step, among=None):
        clear(self, step, among)
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "forget_after", clear_and_end)
        with pytest.raises(InterruptedError):
            train.train(seeds_config(), workdir=str(tmp_path / "run"))
    assert train.train(seeds_config(), workdir=str(tmp_path / "run")).finished
    check_same(tmp_path / "run", straight_seeds[0])


def test_a_save_that_one_seed_lost_after_a_stop_between_two_leaves_a_common_checkpoint(
    straight_seeds, tmp_path, monkeypatch
):
    config, stops = seeds_config(checkpoint__keep=1), iter([0] * 3 + [75] * 99)
    stopped = train.train(config, workdir=str(tmp_path), stop_code=lambda: next(stops)).counters.learner_steps
    assert 0 < stopped < 4
    save, saved = Checkpointer.save, []

    def save_one(self, snapshot, **facts):
        if saved:
            raise CheckpointError("lost")
        saved.append(snapshot.counters.learner_steps)
        save(self, snapshot, **facts)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_one)
        with pytest.raises(CheckpointError, match="lost"):
            train.train(config, workdir=str(tmp_path))
    assert [whole_steps(own) for own in folders(tmp_path)] == [[stopped, 4], [stopped], [stopped]]
    assert train.train(config, workdir=str(tmp_path)).finished
    assert [whole_steps(own) for own in folders(tmp_path)] == NUM * [[8, 12]]
    check_same(tmp_path, straight_seeds[0])


def test_no_seed_saves_before_all_have_completed_the_save_before(tmp_path, monkeypatch):
    save, check, calls, whole = Checkpointer.save, checkpoint.check_index, itertools.count(1), []

    def check_slowly(*facts):
        if next(calls) % NUM == 0:  # The last of the seeds.
            time.sleep(1.0)
        check(*facts)

    def look_and_save(self, snapshot, **facts):
        whole.append({max(whole_steps(own), default=0) for own in folders(tmp_path)})
        save(self, snapshot, **facts)

    monkeypatch.setattr(checkpoint, "check_index", check_slowly)
    monkeypatch.setattr(Checkpointer, "save", look_and_save)
    train.train(seeds_config(), workdir=str(tmp_path))
    assert whole[::NUM] == [{0}, {4}, {8}]


def test_an_evaluation_that_fails_at_the_end_comes_after_the_last_save_of_every_seed(tmp_path, monkeypatch):
    class Failing:
        def __init__(self, play, counters, params, *parts):
            self.counters, self.params = counters, params

        def join(self, timeout_s):
            return True

        def result(self):
            raise EvaluationError("lost")

        def stop(self):
            pass

        def doing(self):
            return "nothing"

    monkeypatch.setattr("podrl.evaluation.evaluator.Evaluation", Failing)
    config = seeds_config(evaluate__every_updates=12, checkpoint__every_updates=5)
    with pytest.raises(EvaluationError, match="lost"):
        train.train(config, workdir=str(tmp_path))
    assert [whole_steps(own) for own in folders(tmp_path)] == NUM * [[5, 10, 12]]


def test_seeds_without_a_common_checkpoint_are_refused(straight_seeds, tmp_path):
    shutil.copytree(straight_seeds[0], tmp_path / "run")
    one, *others = folders(tmp_path / "run")
    shutil.rmtree(one / "checkpoints/12")
    for own in others:
        for update in (4, 8):
            shutil.rmtree(own / f"checkpoints/{update}")
    with pytest.raises(CheckpointError, match="No update has a checkpoint of every seed"):
        train.train(seeds_config(), workdir=str(tmp_path / "run"))


def test_a_seed_more_cannot_join(straight_seeds, tmp_path):
    shutil.copytree(straight_seeds[0], tmp_path / "run")
    more = seeds_config(topology__seeds=NUM + 1, total_env_steps=24 * 8 * 4)
    with pytest.raises(ConfigError, match=r"another config: .*topology\.seeds was 3, is 4"):
        train.train(more, workdir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"seed-8 cannot begin where seed-5, seed-6, seed-7 resume"):
        train.train(more, workdir=str(tmp_path / "run"), accept_changes=True)


class NoTurn(Turns):
    """Lets no evaluation play."""

    def wait(self, one, stopping):
        stopping.wait()
        raise Stopped


def evaluations(folder):
    rows = [row for row in read_rows(folder) if "evaluate/return" in row]
    return sorted((row["learner_steps"], row["env_steps"], row["evaluate/return"]) for row in rows)


@pytest.mark.slow
def test_each_seed_makes_the_evaluation_that_a_stop_has_interrupted(tmp_path, monkeypatch):
    config = seeds_config(evaluate__every_updates=3, evaluate__episodes=5)
    train.train(config, workdir=str(tmp_path / "straight"))
    asked = []

    def stop_code():  # Once the checkpoint of update 4 waits for the evaluation of update 3.
        asked.extend(thread for thread in threading.enumerate() if thread.name == "evaluator")
        return 75 if len(asked) > 5 * NUM else 0

    with monkeypatch.context() as patch:
        patch.setattr(making, "Turns", NoTurn)
        assert train.train(config, workdir=str(tmp_path), stop_code=stop_code).counters.learner_steps == 4
    for own in folders(tmp_path):
        assert [path.name for path in (own / "unfinished_evaluations").iterdir()] == ["3.npz"]
        assert evaluations(own) == []
    assert train.train(config, workdir=str(tmp_path)).finished
    for own, other in zip(folders(tmp_path), folders(tmp_path / "straight"), strict=True):
        assert [update for update, *_ in evaluations(own)] == [3, 6, 9, 12]
        assert evaluations(own) == evaluations(other)
        assert not list((own / "unfinished_evaluations").iterdir())
