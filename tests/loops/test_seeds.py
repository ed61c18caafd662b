"""Several seeds in one program: each is the run of that seed alone, in a folder of its own."""

import dataclasses
import itertools
import json
import shutil
import time
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl import assembly, train
from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.envs.pools.seeds_in_graph import join_seeds
from podrl.envs.source import JaxEnvironment, load_source, make_environment
from podrl.evaluation import play
from podrl.evaluation.evaluation_thread import EvaluationError
from podrl.learning.fused_report import fetch_reports
from podrl.learning.memory_check import check_state_fits
from podrl.learning.seeds import check_seeds
from podrl.loops.interface import Hooks, SeedRun, Services
from podrl.runs import checkpoint
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_arrays import whole_steps
from podrl.runs.checkpoint_errors import CheckpointError
from podrl.runs.checkpoint_replay import OlderReplays, has_replay
from podrl.runs.folder_guard import FolderGuard
from podrl.runs.opening import open_folder
from podrl.runs.seed_folders import find_seeds
from podrl.runs.state_arrays import to_arrays
from podrl.runtime.job.job import ALONE
from podrl.saved_run import open_run
from podrl.types import Counters, Snapshot
from tests.processes import read_rows
from tests.short_runs import anakin_config, facts, make_config

pytestmark = pytest.mark.usefixtures("compiled_once")

NUM, FIRST = 3, 5
OVERRIDES = types.MappingProxyType(
    {
        "seed": FIRST,
        "total_env_steps": 12 * 8 * 4,
        "checkpoint__every_updates": 4,
        "checkpoint__keep": 99,
        "log__tensorboard": False,
        "env__max_episode_steps": 9,
    }
)
SEEDS = range(FIRST, FIRST + NUM)


def seeds_config(**overrides):
    return anakin_config(**{**OVERRIDES, "topology__seeds": NUM, **overrides})


def run_seeds(config, starts=None, **services):
    """Outcome, and the rows of each seed."""
    parts = assemble(config, jax.devices()[:1])
    alone = parts.of_each_seed()
    rows = [[] for _ in alone]
    seeds = [
        SeedRun(
            assembly=each,
            start=start,
            hooks=Hooks(write_row=lambda row, to=to: to.append(dict(row))),
            services=Services(),
        )
        for each, start, to in zip(alone, starts or len(alone) * [None], rows, strict=True)
    ]
    return assembly.run(parts, hooks=Hooks(), services=Services(**services), seeds=seeds), rows


def words(state):
    return jax.tree.map(np.asarray, to_arrays(state))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a run that was not stopped, and its outcome."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, train.train(seeds_config(), workdir=str(folder))


def folders(folder):
    return [folder / f"seed-{seed}" for seed in SEEDS]


def damage(checkpoint_folder):
    for path in (checkpoint_folder / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


class TestEachSeed:
    def test_it_starts_from_the_state_that_it_has_alone(self):
        learner = assemble(seeds_config(), jax.devices()[:1]).learner
        together = learner.init(FIRST)
        for index, seed in enumerate(SEEDS):
            alone = assemble(seeds_config(seed=seed, topology__seeds=1), jax.devices()[:1]).learner.init(seed)
            jax.tree.map(np.testing.assert_array_equal, words(learner.take(together, index)), words(alone))

    def test_it_does_what_it_does_alone(self):
        """Sums are taken in another order; until actions differ by that, environments go the same way."""
        config = seeds_config(env__max_episode_steps=0)
        learner = assemble(config, jax.devices()[:1]).learner
        together, report = learner.run(learner.init(FIRST), 4)
        for index, (seed, told) in enumerate(zip(SEEDS, fetch_reports(report, NUM), strict=True)):
            single = assemble(
                seeds_config(seed=seed, topology__seeds=1, env__max_episode_steps=0), jax.devices()[:1]
            ).learner
            alone, other = single.run(single.init(seed), 4)
            (other,) = fetch_reports(other, 1)
            mine = learner.take(together, index)
            np.testing.assert_array_equal(told.episodes.lengths, other.episodes.lengths)
            np.testing.assert_array_equal(told.episodes.returns, other.episodes.returns)
            np.testing.assert_array_equal(mine.environments.timestep.first, alone.environments.timestep.first)
            for name in ("loss/total", "grad/norm", "policy/entropy", "value/mean"):
                np.testing.assert_allclose(told.metrics[name], other.metrics[name], rtol=1e-4, atol=1e-6)
            for x, y in zip(jax.tree.leaves(words(mine)), jax.tree.leaves(words(alone)), strict=True):
                np.testing.assert_allclose(x, y, atol=1e-5)

    def test_seeds_differ(self, straight):
        assert len({read_rows(folder)[0]["fingerprint/batch"] for folder in folders(straight[0])}) == NUM

    def test_its_folder_is_that_of_a_run_of_its_own(self, straight):
        folder, _ = straight
        whole = json.loads((folder / "config.json").read_text())
        assert (whole["seed"], whole["topology"]["seeds"]) == (FIRST, NUM)
        assert not (folder / "metrics.jsonl").exists()
        for seed, own in zip(SEEDS, folders(folder), strict=True):
            config = json.loads((own / "config.json").read_text())
            assert (config["seed"], config["topology"]["seeds"]) == (seed, 1)
            assert json.loads((own / "manifest.json").read_text())["seed"] == seed
            saved = open_run(str(own), None, jax.devices()[0])
            assert (saved.config.seed, saved.counters.learner_steps) == (seed, 12)

    def test_it_resumes_alone(self, straight, tmp_path):
        shutil.copytree(straight[0] / f"seed-{FIRST + 1}", tmp_path / "alone")
        shutil.rmtree(tmp_path / "alone/checkpoints/12")
        config = seeds_config(seed=FIRST + 1, topology__seeds=1)
        assert train.train(config, workdir=str(tmp_path / "alone")).finished
        assert read_rows(tmp_path / "alone")[-1]["learner_steps"] == 12

    def test_the_outcome_is_of_all(self, straight):
        _, outcome = straight
        assert outcome.finished
        assert [each.counters for each in outcome.seeds] == NUM * [outcome.counters]
        assert outcome.episode_return == pytest.approx(np.mean([each.episode_return for each in outcome.seeds]))
        assert outcome.episodes == sum(each.episodes for each in outcome.seeds)


class TestResume:
    def check_same(self, folder, straight):
        for own, other in zip(folders(folder), folders(straight), strict=True):
            assert facts(read_rows(own)) == facts(read_rows(other))

    def test_stopping_anywhere_and_continuing_changes_nothing(self, straight, tmp_path, capsys, caplog):
        caplog.set_level("INFO", logger="absl")
        stops = iter([0] * 7 + [75] * 99)
        stopped = train.train(seeds_config(), workdir=str(tmp_path), stop_code=lambda: next(stops))
        assert not stopped.finished
        assert 4 < stopped.counters.learner_steps < 8
        assert all(stopped.counters.learner_steps in whole_steps(own) for own in folders(tmp_path))
        outcome = train.train(seeds_config(), workdir=str(tmp_path))
        assert outcome.finished
        self.check_same(tmp_path, straight[0])
        for one, other in zip(outcome.seeds, straight[1].seeds, strict=True):
            jax.tree.map(np.testing.assert_array_equal, words(one.state), words(other.state))
        assert caplog.text.count("Resumes the run in this folder after update") == 1
        assert f"after update {stopped.counters.learner_steps}." in caplog.text
        assert train.train(seeds_config(), workdir=str(tmp_path)).finished  # Nothing is left to do.
        assert caplog.text.count("This run is finished") == 1
        told = capsys.readouterr().out
        assert "12 of each of 3 seeds" in told
        assert f"seed {FIRST + 2}" in told

    def test_all_resume_from_the_newest_update_that_all_have_saved(self, straight, tmp_path):
        shutil.copytree(straight[0], tmp_path / "run")
        one, other, _ = folders(tmp_path / "run")
        for lost in (one / "checkpoints/12", other / "checkpoints/12", other / "checkpoints/8"):
            shutil.rmtree(lost)
        assert train.train(seeds_config(), workdir=str(tmp_path / "run")).finished
        self.check_same(tmp_path / "run", straight[0])

    def test_a_damaged_checkpoint_of_one_seed_takes_all_to_the_one_before(self, straight, tmp_path):
        shutil.copytree(straight[0], tmp_path / "run")
        _, other, _ = folders(tmp_path / "run")
        damage(other / "checkpoints/12")
        assert train.train(seeds_config(), workdir=str(tmp_path / "run")).finished
        assert (other / "checkpoints/damaged-12").exists()
        self.check_same(tmp_path / "run", straight[0])

    def test_where_all_common_ones_of_a_seed_are_damaged_nothing_is_deleted(self, straight, tmp_path):
        shutil.copytree(straight[0], tmp_path / "run")
        one, other, _ = folders(tmp_path / "run")
        shutil.rmtree(other / "checkpoints/12")
        for update in (4, 8):
            damage(other / f"checkpoints/{update}")
        with pytest.raises(CheckpointError, match=r"All checkpoints of the updates that every seed has \(4, 8\) are"):
            train.train(seeds_config(), workdir=str(tmp_path / "run"))
        assert [whole_steps(own) for own in (one, other)] == [[4, 8, 12], [4, 8]]

    def cut_short(self, straight, run):
        """Makes a run of which the first seed alone has completed its first save."""
        shutil.copytree(straight, run)
        for index, own in enumerate(folders(run)):
            for update in (8, 12) if index == 0 else (4, 8, 12):
                shutil.rmtree(own / f"checkpoints/{update}")
            if index > 0:
                (own / "checkpointed.json").unlink()
            rows = [line for line in (own / "metrics.jsonl").open() if json.loads(line)["learner_steps"] <= 5]
            (own / "metrics.jsonl").write_text("".join(rows))

    def test_a_first_save_that_was_cut_short_is_made_again(self, straight, tmp_path):
        self.cut_short(straight[0], tmp_path / "run")
        assert train.train(seeds_config(), workdir=str(tmp_path / "run")).finished
        self.check_same(tmp_path / "run", straight[0])

    def test_also_if_the_run_that_clears_it_is_killed(self, straight, tmp_path, monkeypatch):
        self.cut_short(straight[0], tmp_path / "run")
        clear = Checkpointer.forget_after

        def clear_and_end(self, step, among=None):
            clear(self, step, among)
            raise InterruptedError

        with monkeypatch.context() as patch:
            patch.setattr(Checkpointer, "forget_after", clear_and_end)
            with pytest.raises(InterruptedError):
                train.train(seeds_config(), workdir=str(tmp_path / "run"))
        assert train.train(seeds_config(), workdir=str(tmp_path / "run")).finished
        self.check_same(tmp_path / "run", straight[0])

    def test_a_save_that_one_seed_lost_after_a_stop_between_two_leaves_a_common_checkpoint(
        self, straight, tmp_path, monkeypatch
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
        self.check_same(tmp_path, straight[0])

    def test_no_seed_saves_before_all_have_completed_the_save_before(self, tmp_path, monkeypatch):
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

    def test_an_evaluation_that_fails_at_the_end_comes_after_the_last_save_of_every_seed(self, tmp_path, monkeypatch):
        class Failing:
            def __init__(self, *parts):
                pass

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

    def test_seeds_without_a_common_checkpoint_are_refused(self, straight, tmp_path):
        shutil.copytree(straight[0], tmp_path / "run")
        one, *others = folders(tmp_path / "run")
        shutil.rmtree(one / "checkpoints/12")
        for own in others:
            for update in (4, 8):
                shutil.rmtree(own / f"checkpoints/{update}")
        with pytest.raises(CheckpointError, match="No update has a checkpoint of every seed"):
            train.train(seeds_config(), workdir=str(tmp_path / "run"))

    def test_a_seed_more_cannot_join(self, straight, tmp_path):
        shutil.copytree(straight[0], tmp_path / "run")
        more = seeds_config(topology__seeds=NUM + 1, total_env_steps=24 * 8 * 4)
        with pytest.raises(ConfigError, match=r"another config: .*topology\.seeds was 3, is 4"):
            train.train(more, workdir=str(tmp_path / "run"))
        with pytest.raises(ConfigError, match=r"seed-8 cannot begin where seed-5, seed-6, seed-7 resume"):
            train.train(more, workdir=str(tmp_path / "run"), accept_changes=True)

    def watch_deletions(self, run, patch):
        """Returns a list that gets the newest update whose ring all seeds have, after each deletion of rings."""
        delete, check, calls, common = OlderReplays.delete, checkpoint.check_index, itertools.count(1), []

        def check_slowly(*facts):
            if next(calls) % NUM == 0:  # The last of the seeds.
                time.sleep(0.5)
            check(*facts)

        def delete_and_look(self, steps, newest):
            delete(self, steps, newest)
            rings = [{step for step in whole_steps(own) if has_replay(own, step)} for own in folders(run)]
            common.append(max(set.intersection(*rings), default=0))

        patch.setattr(checkpoint, "check_index", check_slowly)
        patch.setattr(OlderReplays, "delete", delete_and_look)
        return common

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "ring",
        [
            {"agent": "impact", "replay__batches": 3, "replay__uses": 2},
            {
                **{"agent": "r2d2", "agent__starts": "rows", "agent__burn_in": 0, "agent__length": 1},
                **{"replay__capacity": 640, "replay__batch": 64, "replay__groups": 8, "replay__min_steps": 400},
                **{"actors__num_envs": 32, "total_env_steps": 12 * 32 * 4},  # Four for each group, on eight devices.
            },
        ],
        ids=["batches", "sequences"],
    )
    def test_so_it_does_with_a_ring(self, tmp_path, ring, monkeypatch):
        with monkeypatch.context() as patch:
            common = self.watch_deletions(tmp_path / "straight", patch)
            whole = train.train(seeds_config(**ring), workdir=str(tmp_path / "straight"))
        # After each deletion a kill would leave all seeds the rings of one update, that of the save before at least.
        assert [min(common[at : at + NUM]) for at in range(NUM, 3 * NUM, NUM)] == [4, 8]
        stops = iter([0] * 7 + [75] * 99)
        train.train(seeds_config(**ring), workdir=str(tmp_path / "run"), stop_code=lambda: next(stops))
        resumed = train.train(seeds_config(**ring), workdir=str(tmp_path / "run"))
        self.check_same(tmp_path / "run", tmp_path / "straight")
        for own in folders(tmp_path / "run"):
            assert [step for step in whole_steps(own) if has_replay(own, step)] == [8, 12]
        for one, other in zip(whole.seeds, resumed.seeds, strict=True):
            jax.tree.map(np.testing.assert_array_equal, words(one.state), words(other.state))
        shutil.rmtree(tmp_path / f"run/seed-{FIRST + 1}/checkpoints/12")  # As if it had been cut short.
        train.train(seeds_config(**ring), workdir=str(tmp_path / "run"))
        self.check_same(tmp_path / "run", tmp_path / "straight")


class TestFoldersOfOthers:
    """Runs that would begin beside others in the same folder."""

    def open(self, folder, config, **how):
        with FolderGuard() as guard:
            rules = {"is_new": False, "accept_changes": True, "start_anew": False, "env_before": {}}
            return open_folder(config, str(folder), guard, ALONE, **rules | how)

    @pytest.fixture
    def several(self, straight, tmp_path):
        return shutil.copytree(straight[0], tmp_path / "several")

    @pytest.fixture
    def one(self, straight, tmp_path):
        return shutil.copytree(straight[0] / f"seed-{FIRST}", tmp_path / "one")

    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            ({"topology__seeds": 1}, r"holds runs of several seeds \(seed-5; seed-6; seed-7\), and topology.seeds=1"),
            (
                {"seed": 20},
                r"of other seeds \(seed-5; seed-6; seed-7\): seed=20 with .*=3 are seed-20 to seed-22",
            ),
        ],
        ids=["one", "shifted"],
    )
    def test_are_refused_where_several_are(self, several, overrides, said):
        with pytest.raises(ConfigError, match=said + ".*--workdir, or add --start_anew"):
            train.train(seeds_config(**overrides), workdir=str(several), accept_changes=True)

    def test_are_refused_where_one_is(self, one):
        with pytest.raises(ConfigError, match=r"metrics.jsonl and checkpoints of a run of one seed, and .*seeds=3"):
            train.train(seeds_config(), workdir=str(one), accept_changes=True)

    def test_some_of_the_seeds_may_continue(self, several):
        assert self.open(several, seeds_config(topology__seeds=2)) == (several, True)

    @pytest.mark.parametrize("overrides", [{"topology__seeds": 1}, {"seed": 20}, {}])
    def test_starting_anew_deletes_the_runs_of_all_seeds(self, several, overrides):
        (several / "seed-6/notes.txt").write_text("mine")
        assert self.open(several, seeds_config(**overrides), start_anew=True) == (several, False)
        assert not find_seeds(several)
        assert not list(several.glob("seed-*/checkpoints"))
        assert (several / "seed-6/notes.txt").exists()
        assert self.open(several, seeds_config(**overrides)) == (several, False)

    def test_starting_anew_leaves_runs_that_are_no_seeds_of_this_one(self, several):
        (several / "config.json").unlink()
        with pytest.raises(ConfigError, match=r"holds runs of several seeds .*choose another --workdir\."):
            self.open(several, seeds_config(topology__seeds=1), start_anew=True)
        assert find_seeds(several) == ["seed-5", "seed-6", "seed-7"]


@pytest.mark.slow
def test_each_seed_is_evaluated(tmp_path, monkeypatch):
    """By the same program, as it would be alone."""
    made = []

    def make_player(*parts, **options):
        made.append(play.make_player(*parts, **options))
        return made[-1]

    monkeypatch.setattr("podrl.evaluation.making.make_player", make_player)
    config = seeds_config(evaluate__every_updates=6, evaluate__episodes=4)
    assert train.train(config, workdir=str(tmp_path)).finished
    (player,), returns = made, []
    for own in folders(tmp_path):
        rows = [row for row in read_rows(own) if "evaluate/return" in row]
        assert [(row["learner_steps"], row["evaluate/episodes"]) for row in rows] == [(6, 4), (12, 4)]
        saved = open_run(str(own), 12, player.device)
        assert rows[-1]["evaluate/return"] == player.play(saved.params, saved.config.seed, 12).returns.mean()
        returns.append(tuple(row["evaluate/length"] for row in rows))
    assert len(set(returns)) > 1


class TestNonFinite:
    """The second of three seeds starts from parameters that are not numbers."""

    def starts(self, config):
        learner = assemble(config, jax.devices()[:1]).learner
        states = [learner.take(learner.init(FIRST), index) for index in range(NUM)]
        states[1] = states[1].replace(params=jax.tree.map(lambda x: x.at[0].set(jnp.nan), states[1].params))
        return [Snapshot(state=state, counters=Counters(learner_steps=3), episodes={}) for state in states]

    def test_it_stops_the_run_and_is_named(self):
        config = seeds_config()
        with pytest.raises(RuntimeError, match=r"Update 4 of seed 6 is not finite: loss/total is nan"):
            run_seeds(config, self.starts(config))

    def test_it_is_skipped_in_that_seed_alone(self):
        config = seeds_config(on_nonfinite="skip")
        _, rows = run_seeds(config, self.starts(config))
        assert [{row["grad/skipped"] for row in each} for each in rows] == [{0}, {1}, {0}]


def test_environments_of_seeds_are_stepped_as_one_batch():
    config, sizes = anakin_config(), []
    environment = make_environment(load_source("gymnax"), config.env)

    def step(keys, state, action):
        sizes.append(len(keys))
        return environment.step(keys, state, action)

    joined = join_seeds(JaxEnvironment(init=environment.init, step=step))
    keys = jax.random.split(jax.random.key(1), (NUM, 4))
    action = jnp.zeros((NUM, 4), jnp.int32)
    states, opened = jax.vmap(joined.init)(keys)
    stepped = jax.vmap(joined.step)(keys, states, action)[1]
    assert sizes[-1] == NUM * 4
    for index in range(NUM):
        alone, first = environment.init(keys[index])
        np.testing.assert_array_equal(opened.observation[index], first.observation)
        np.testing.assert_array_equal(
            stepped.observation[index], environment.step(keys[index], alone, action[index])[1].observation
        )


class TestRefused:
    def test_on_sebulba(self):
        with pytest.raises(ConfigError, match=r"topology.seeds=2 trains several seeds in one compiled program, which"):
            make_config(topology__seeds=2)

    def test_beyond_the_last_seed(self):
        with pytest.raises(ConfigError, match=r"topology.seeds=2 from seed=2147483647 on ends at 2147483648"):
            anakin_config(seed=2**31 - 1, topology__seeds=2)

    def test_in_several_processes(self):
        with pytest.raises(ConfigError, match=r"topology.seeds=3 trains in one process, and this job has 2"):
            check_seeds(seeds_config(), types.SimpleNamespace(num_processes=2))

    def test_what_does_not_fit_the_memory_of_all(self, monkeypatch):
        config = seeds_config(topology__seeds=1, actors__num_envs=8)
        parts = assemble(config, jax.devices()[:1])
        monkeypatch.setattr("podrl.learning.memory_check.host_memory_bytes", lambda: 40_000)
        check_state_fits(config, parts.spec, parts.topology, parts.state_shape)
        many = assemble(seeds_config(topology__seeds=64), jax.devices()[:1])
        with pytest.raises(ConfigError, match=r"Lower topology.seeds=64, actors.num_envs"):
            check_state_fits(many.config, many.spec, many.topology, many.state_shape)


@pytest.mark.slow
def test_seeds_on_several_devices_learn_what_they_learn_on_one():
    one, _ = run_seeds(seeds_config())
    parts = assemble(seeds_config(), jax.devices()[:4])
    seeds = [SeedRun(assembly=each, start=None, hooks=Hooks(), services=Services()) for each in parts.of_each_seed()]
    four = assembly.run(parts, seeds=seeds)
    for each, other in zip(one.seeds, four.seeds, strict=True):
        for x, y in zip(jax.tree.leaves(each.state.params), jax.tree.leaves(other.state.params), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


def test_configs_of_seeds_differ_in_nothing_but_the_seed():
    config = seeds_config()
    alone = config.of_each_seed()
    assert [each.seed for each in alone] == list(SEEDS)
    whole = dataclasses.replace(config, topology=dataclasses.replace(config.topology, seeds=1))
    assert {dataclasses.replace(each, seed=FIRST) for each in map(_frozen, alone)} == {_frozen(whole)}


def _frozen(config):
    return dataclasses.replace(config, env=None)
