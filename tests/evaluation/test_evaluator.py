"""Evaluation while training goes on: it changes nothing, and misses nothing."""

import dataclasses
import functools
import json
import re
import threading
import time

import jax
import numpy as np
import pytest

from podrl import train
from podrl.envs.source import load_source
from podrl.evaluation.endless import EndlessError
from podrl.evaluation.evaluation_thread import EvaluationError, Turns
from podrl.evaluation.evaluator import Evaluator
from podrl.evaluation.making import prepare_evaluators
from podrl.evaluation.play import make_player
from podrl.runs.checkpoint_arrays import whole_steps
from podrl.saved_run import open_run
from podrl.types import Counters
from tests import short_runs
from tests.launch.test_launcher import read_rows
from tests.runs.test_resume import facts

pytestmark = pytest.mark.usefixtures("compiled_once")

SLOW = {"episode_lengths": (3, 5), "evaluation": {"sleep_s": 0.02}}


def run_with_evaluation(config, num_devices=1, done=frozenset(), **kwargs):
    """Trains; returns the outcome, the rows of training, and the (counters, episodes) that were played."""
    agent, spec = short_runs.make_agent(config)
    source, played = load_source(config.env.source), []
    make = prepare_evaluators(config, agent=agent, spec=spec, source=source, device=jax.devices()[num_devices - 1])
    evaluator = make(config.seed, begun=Counters(), done=done, write=lambda *each: played.append(each))
    with evaluator:
        outcome, rows = short_runs.run(config, num_devices, evaluator=evaluator, **kwargs)
    return outcome, rows, played


def updates(played):
    return [counters.learner_steps for counters, _ in played]


def evaluators():
    return [thread for thread in threading.enumerate() if thread.name == "evaluator"]


@pytest.mark.parametrize("num_devices", [1, 2])
def test_training_is_the_same_with_and_without(num_devices):
    options = {"actors__num_envs": 16, "total_env_steps": 10 * 16 * 4}
    _, without = short_runs.run(short_runs.make_config(**options), num_devices)
    config = short_runs.make_config(**options, evaluate__every_updates=3, evaluate__episodes=4)
    _, rows, played = run_with_evaluation(config, num_devices)
    assert [row["fingerprint"] for row in rows] == [row["fingerprint"] for row in without]
    assert [facts([row]) for row in rows] == [facts([row]) for row in without]
    assert updates(played) == [3, 6, 9, 10]  # The last one always.
    assert played[1][0] == Counters(learner_steps=6, env_steps=6 * 64, frames=6 * 64)
    assert all(len(episodes.returns) == 4 for _, episodes in played)
    assert any("time/learner/evaluate" in row for row in rows)
    assert not any("time/learner/evaluate" in row for row in without)
    assert not evaluators()


def test_parameters_are_those_of_the_update(tmp_path):
    config = short_runs.make_config(
        total_env_steps=8 * 8 * 4,
        agent__optimizer__learning_rate=0.05,
        checkpoint__every_updates=4,
        evaluate__every_updates=4,
        evaluate__episodes=32,
        topology__actor_devices_per_process=1,
        topology__learner_devices_per_process=1,
        log__tensorboard=True,
    )
    train.train(config, workdir=str(tmp_path))
    rows = {row["learner_steps"]: row for row in read_rows(tmp_path) if "evaluate/return" in row}
    assert sorted(rows) == [4, 8]
    means = {}
    for update in (4, 8):
        saved = open_run(str(tmp_path), update, jax.devices()[0])
        player = make_player(
            saved.agent,
            saved.spec,
            policy="sampled",
            episodes=32,
            device=jax.devices()[0],
            make_pool=lambda seeds, saved=saved: saved.source.make_pool(saved.config.env, seeds=seeds, num_threads=1),
        )
        episodes = player.play(saved.params, config.seed, update)
        means[update] = episodes.returns.mean()
        other = player.play(saved.params, config.seed, 12 - update)
        assert rows[update]["evaluate/return"] == pytest.approx(means[update])
        assert rows[update]["evaluate/return_median"] == np.median(episodes.returns)
        assert rows[update]["evaluate/episodes"] == 32
        assert rows[update]["evaluate/length"] == 9
        assert rows[update]["env_steps"] == update * 8 * 4
        assert (other.returns != episodes.returns).any()  # Every evaluation has episodes of its own.
    assert means[4] != means[8]


def test_greedy_evaluation_is_another_one():
    def returns(greedy):
        config = short_runs.make_config(evaluate__every_updates=10, evaluate__episodes=32, evaluate__greedy=greedy)
        return run_with_evaluation(config)[2][0][1].returns.tolist()

    assert returns(False) != returns(True)


class TestWaiting:
    def test_the_next_evaluation_waits_for_the_one_before(self):
        config = short_runs.scripted_config(SLOW, evaluate__every_updates=2, evaluate__episodes=2)
        _, rows, played = run_with_evaluation(config)
        assert updates(played) == [2, 4, 6, 8, 10]
        assert max(row.get("time/learner/evaluate", 0) for row in rows) > 0.3
        np.testing.assert_array_equal(played[0][1].returns, [6, 15])

    @pytest.mark.slow
    def test_actors_have_patience_with_a_learner_that_waits_for_an_evaluation(self):
        options = SLOW | {"evaluation": {"sleep_s": 0.3}}
        config = short_runs.scripted_config(
            options, evaluate__every_updates=4, evaluate__episodes=2, actors__timeout_s=1.0, total_env_steps=12 * 8 * 4
        )
        outcome, _, played = run_with_evaluation(config)
        assert outcome.finished
        assert updates(played) == [4, 8, 12]

    def test_an_evaluation_has_its_row_before_a_later_checkpoint_is_saved(self):
        config = short_runs.scripted_config(
            SLOW, evaluate__every_updates=3, evaluate__episodes=2, checkpoint__every_updates=5
        )
        agent, spec = short_runs.make_agent(config)
        log = []
        source = load_source(config.env.source)
        make = prepare_evaluators(config, agent=agent, spec=spec, source=source, device=jax.devices()[0])
        evaluator = make(
            config.seed,
            begun=Counters(),
            done=set(),
            write=lambda counters, episodes: log.append(("row", counters.learner_steps)),
        )
        with evaluator:
            short_runs.run(
                config,
                evaluator=evaluator,
                save=lambda snapshot: log.append(("save", snapshot.counters.learner_steps)),
            )
        assert log == [("row", 3), ("save", 5), ("row", 6), ("row", 9), ("save", 10), ("row", 10)]

    def test_an_evaluation_that_does_not_end_is_named(self):
        options = {"evaluation": {"sleep_s": 1.0, "episode_lengths": (1000,)}}
        config = short_runs.scripted_config(
            options, evaluate__every_updates=2, evaluate__episodes=2, evaluate__timeout_s=2.0
        )
        with pytest.raises(TimeoutError) as caught:
            run_with_evaluation(config)
        assert re.fullmatch(
            r"The learner waited 2 s for an evaluation: the evaluation of update 2 has finished 0 episodes and is at "
            r"step [12]\. If it is this slow, raise evaluate\.timeout_s or lower evaluate\.episodes\.",
            str(caught.value),
        )
        assert not evaluators()


def test_one_that_has_ended_when_the_run_is_told_to_stop_is_written():
    written = []
    evaluator = Evaluator(
        every_updates=4,
        last_update=10,
        timeout_s=30.0,
        play=lambda params, update, **options: "episodes",
        write=lambda counters, episodes: written.append((counters.learner_steps, episodes)),
    )
    with evaluator:
        assert evaluator.add(Counters(learner_steps=4), {})
        while evaluator.is_alive():
            time.sleep(0.01)
        assert evaluator.settle(should_stop=lambda: True)
    assert written == [(4, "episodes")]


class TestSeveral:
    """Evaluators of several seeds."""

    def make(self, turns, play, count=4):
        return [
            Evaluator(
                every_updates=1,
                last_update=2,
                timeout_s=30.0,
                play=functools.partial(play, seed),
                write=lambda counters, episodes: None,
                turns=turns,
                whose=f" of seed {seed}",
            )
            for seed in range(count)
        ]

    @pytest.mark.parametrize("at_once", [1, 2])
    def test_they_play_in_the_order_in_which_they_were_added_and_few_at_a_time(self, at_once):
        begun, playing, most = [], [], []
        meeting = threading.Barrier(at_once, timeout=60)

        def play(seed, params, update, **_):
            begun.append((update, seed))
            playing.append(seed)
            meeting.wait()
            time.sleep(0.02)
            most.append(len(playing))
            playing.remove(seed)
            return "episodes"

        evaluators = self.make(Turns(at_once), play)
        for update in (1, 2):
            for evaluator in evaluators:
                assert evaluator.add(Counters(learner_steps=update), None)
        assert all(evaluator.settle() for evaluator in evaluators)
        assert max(most) == at_once
        expected = [(update, seed) for update in (1, 2) for seed in range(4)]
        assert begun == expected if at_once == 1 else sorted(begun) == expected

    def test_one_that_waits_for_its_turn_ends_when_it_is_told_to(self):
        begun, ended = [], threading.Event()

        def play(seed, params, update, **_):
            begun.append(seed)
            ended.wait(20)
            return "episodes"

        first, second, third, _ = self.make(Turns(), play)
        for evaluator in (first, second, third):
            evaluator.add(Counters(learner_steps=1), None)
        second.close()
        assert not second.is_alive()
        ended.set()
        assert third.settle()
        first.settle()
        assert begun == [0, 2]

    def test_one_that_fails_is_named_and_the_next_plays(self):
        def play(seed, params, update, **_):
            if seed == 0:
                raise ValueError("lost")
            return "episodes"

        first, second, *_ = self.make(Turns(), play)
        for evaluator in (first, second):
            evaluator.add(Counters(learner_steps=1), None)
        assert second.settle()
        with pytest.raises(EvaluationError, match="The evaluation of update 1 of seed 0 failed: ValueError: lost"):
            first.settle()


def test_one_whose_policy_ends_no_episode_is_given_up_and_training_goes_on(caplog):
    def play(params, update, **_):
        if update == 1:
            raise EndlessError("No episode of x has ended.")
        return "episodes"

    written = []
    evaluator = Evaluator(
        every_updates=1, last_update=2, timeout_s=5.0, play=play, write=lambda *each: written.append(each)
    )
    first, second = (Counters(learner_steps=update) for update in (1, 2))
    with evaluator:
        assert evaluator.add(first, None)
        assert evaluator.add(second, None)
        assert evaluator.settle()
    assert written == [(second, "episodes")]
    assert not evaluator.is_due(first)
    assert "The evaluation of update 1 failed: EndlessError: No episode of x has ended. It has no row;" in caplog.text


def test_a_failure_is_raised_in_the_run_by_name():
    config = short_runs.scripted_config(
        {"evaluation": {"raise_at_step": 2}}, evaluate__every_updates=3, evaluate__episodes=2
    )
    with pytest.raises(
        EvaluationError, match="The evaluation of update 3 failed: RuntimeError: scripted failure at step 2"
    ) as caught:
        run_with_evaluation(config)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not evaluators()


ONE_DEVICE = {
    "topology__actor_devices_per_process": 1,
    "topology__learner_devices_per_process": 1,
    "log__tensorboard": False,
}
EVALUATED = short_runs.make_config(
    **ONE_DEVICE,
    total_env_steps=12 * 8 * 4,
    agent__optimizer__learning_rate=0.05,
    checkpoint__every_updates=4,
    checkpoint__keep=99,
    evaluate__every_updates=2,
    evaluate__episodes=32,
)


def sorted_facts(folder):
    """In the order of updates: an evaluation's row is written when it ends, among later ones."""
    return sorted(facts(read_rows(folder)), key=lambda row: (row["learner_steps"], "evaluate/return" in row))


def evaluated_updates(folder):
    return sorted(row["learner_steps"] for row in read_rows(folder) if "evaluate/return" in row)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    train.train(EVALUATED, workdir=str(folder))
    assert evaluated_updates(folder) == [2, 4, 6, 8, 10, 12]
    return sorted_facts(folder)


class TestGoingOn:
    """A stopped run that goes on has every evaluation once, and the same ones."""

    @pytest.mark.parametrize("update", [4, 6, 8, 11])
    def test_after_a_stop(self, tmp_path, straight, update):
        def should_stop():
            path = tmp_path / "metrics.jsonl"
            return path.exists() and f'"learner_steps": {update - 1}' in path.read_text()

        outcome = train.train(EVALUATED, workdir=str(tmp_path), stop_code=should_stop)
        assert not outcome.finished
        assert train.train(EVALUATED, workdir=str(tmp_path)).finished
        assert sorted_facts(tmp_path) == straight

    def test_without_the_row_of_the_checkpoints_own_update(self, tmp_path, straight):
        """As after `kill -9` while that evaluation is under way."""
        for update in (8, 12):
            train.train(EVALUATED, workdir=str(tmp_path))
            path = tmp_path / "metrics.jsonl"
            lines = path.read_text().splitlines(keepends=True)
            lost = [
                line for line in lines if '"evaluate/return"' in line and json.loads(line)["learner_steps"] >= update
            ]
            path.write_text("".join(line for line in lines if line not in lost))
            for later in (tmp_path / "checkpoints").iterdir():
                if later.name.isdigit() and int(later.name) > update:
                    for file in sorted(later.rglob("*"), reverse=True):
                        file.unlink() if file.is_file() else file.rmdir()
                    later.rmdir()
            assert train.train(EVALUATED, workdir=str(tmp_path)).finished
            assert sorted_facts(tmp_path) == straight

    def test_a_run_told_to_stop_leaves_the_evaluation_undone(self, tmp_path, caplog):
        caplog.set_level("INFO", logger="absl")
        config = short_runs.scripted_config(
            {"evaluation": {"sleep_s": 0.5, "episode_lengths": (1000,)}},
            **ONE_DEVICE,
            evaluate__every_updates=10,
            evaluate__episodes=2,
        )
        start_s = time.monotonic()
        outcome = train.train(config, workdir=str(tmp_path), stop_code=self.once_evaluating_after(tmp_path, 9))
        assert outcome.counters.learner_steps == 10
        assert not outcome.finished
        assert "Left undone: the evaluation of update 10 has finished 0 episodes" in caplog.text
        assert time.monotonic() - start_s < 60
        assert not evaluators()
        assert evaluated_updates(tmp_path) == []

    @pytest.mark.slow
    def test_what_was_learned_is_saved_though_the_last_update_waits_for_an_evaluation(self, tmp_path, caplog):
        caplog.set_level("INFO", logger="absl")
        config = short_runs.scripted_config(
            {"evaluation": {"sleep_s": 0.5}}, **ONE_DEVICE, evaluate__every_updates=9, evaluate__episodes=2
        )
        outcome = train.train(config, workdir=str(tmp_path), stop_code=self.once_evaluating_after(tmp_path, 9))
        assert outcome.counters.learner_steps == 10
        assert not outcome.finished
        assert whole_steps(tmp_path) == [10]
        assert "Left undone: the evaluation of update 9" in caplog.text
        assert "Left undone: the evaluation of update 10" in caplog.text
        assert sorted(path.name for path in (tmp_path / "unfinished_evaluations").iterdir()) == ["10.npz", "9.npz"]
        assert train.train(config, workdir=str(tmp_path)).finished
        assert evaluated_updates(tmp_path) == [9, 10]
        assert not list((tmp_path / "unfinished_evaluations").iterdir())

    @pytest.mark.slow
    def test_the_last_evaluation_is_not_lost_where_the_run_is_lengthened(self, tmp_path):
        config = short_runs.scripted_config(
            {"evaluation": {"sleep_s": 0.5}}, **ONE_DEVICE, evaluate__every_updates=20, evaluate__episodes=2
        )
        stops = self.once_evaluating_after(tmp_path, 9)
        assert not train.train(config, workdir=str(tmp_path), stop_code=stops).finished
        assert evaluated_updates(tmp_path) == []
        longer = dataclasses.replace(config, total_env_steps=config.total_env_steps * 12 // 10)
        assert train.train(longer, workdir=str(tmp_path), accept_changes=True).finished
        assert evaluated_updates(tmp_path) == [10, 12]
        assert not list((tmp_path / "unfinished_evaluations").iterdir())

    def once_evaluating_after(self, folder, update):
        """Whether that update has its row and an evaluation is under way."""

        def should_stop():
            rows = folder / "metrics.jsonl"
            return rows.exists() and f'"learner_steps": {update},' in rows.read_text() and bool(evaluators())

        return should_stop
