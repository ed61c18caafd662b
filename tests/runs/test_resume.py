"""A run that is stopped and goes on equals one that is not; tests/faults/ kills real ones."""

import dataclasses
import json
from pathlib import Path
import shutil
import types

from etils import epath
import jax
import numpy as np
import optax
import pytest

from podrl import train
from podrl.agents.parts.interface import UpdateShape
from podrl.config.config import ConfigError
from podrl.envs.source import load_source
from podrl.learning.learner import Learner
from podrl.mesh import make_topology
from podrl.runs import resume
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_arrays import whole_steps
from podrl.runs.checkpoint_errors import CheckpointError
from podrl.runs.checkpoint_facts import read_fact
from podrl.runs.checkpointing import make_checkpointer
from podrl.runs.start_notes import warn_of_learning_rate
from podrl.telemetry.rates import BEFORE_KEY, START_KEY
from tests import short_runs
from tests.faults.checkpoints import unseal
from tests.processes import read_rows
from tests.short_runs import facts

pytestmark = pytest.mark.usefixtures("compiled_once")


def final_params(workdir, step, config):
    agent, _ = short_runs.make_agent(config)
    shape = Learner(agent, make_topology(config.topology).learner).state_shape
    with Checkpointer(workdir, keep=99) as checkpointer:
        return jax.device_get(checkpointer.restore(shape, step).state.params)


def contents(folder):
    """The bytes of the rows and of all checkpoints."""
    paths = [*folder.glob("metrics.jsonl*"), *folder.glob("checkpoints/**/*")]
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of the finished run of `TestInOneProcess.CONFIG`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train.train(TestInOneProcess.CONFIG, workdir=str(folder))
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Fills a folder with a run of `TestInOneProcess.CONFIG` stopped after some updates; makes one for each number."""
    made = {}

    def copy_to(folder, update):
        if update not in made:
            run = tmp_path_factory.mktemp(f"stopped_{update}")
            made[update] = run, TestInOneProcess().train_until(run, update)
        shutil.copytree(made[update][0], folder, dirs_exist_ok=True)
        return made[update][1]

    return copy_to


class TestInOneProcess:
    OVERRIDES = types.MappingProxyType(
        {
            "total_env_steps": 12 * 8 * 4,
            "topology__actor_devices_per_process": 1,
            "topology__learner_devices_per_process": 1,
            "checkpoint__every_updates": 4,
            "checkpoint__keep": 99,
            "log__tensorboard": False,
        }
    )
    CONFIG = short_runs.make_config(**OVERRIDES)

    def straight(self, folder):
        train.train(self.CONFIG, workdir=str(folder))
        return facts(read_rows(folder))

    def train_until(self, folder, update):
        def should_stop():
            path = folder / "metrics.jsonl"
            return path.exists() and len(path.read_text().splitlines()) >= update - 1

        return train.train(self.CONFIG, workdir=str(folder), stop_code=should_stop)

    @pytest.mark.parametrize(
        "overrides",
        [
            {"actors__lag": 0},
            {"actors__lag": 4, "checkpoint__every_updates": 5},
            {"topology__learner_devices_per_process": 2, "actors__threads_per_device": 2},
            {"network__normalize_observations": True, "network__normalize_rewards": True},
            {"agent": "ppo", "agent__shuffle": "time", "topology__learner_devices_per_process": 2},
            {
                **{"agent": "impact", "replay__batches": 3, "replay__uses": 2},
                **{"topology__learner_devices_per_process": 2, "network__normalize_observations": True},
                "network__normalize_rewards": True,
            },
            {"network__core": "lstm", "network__core_size": 8, "network__last_action": True},
            {
                **{"agent": "r2d2", "agent__burn_in": 4, "agent__length": 4, "replay__batch": 8, "replay__groups": 2},
                **{"replay__capacity": 5 * 8 * 4, "replay__ratio": 2.0, "agent__target_period": 3},
                **{"network__core": "lstm", "network__core_size": 8, "network__frame_stack": 3},
                **{"network__normalize_observations": True, "network__normalize_rewards": True},
            },
            {
                **{"agent": "rainbow", "agent__auxiliary__kind": "value", "agent__auxiliary__distance": "mse"},
                **{"replay__capacity": 200, "replay__batch": 16, "replay__groups": 2, "replay__min_steps": 60},
                "network__frame_stack": 2,
            },
        ],
    )
    def test_nor_on_several_devices_with_other_lags_running_statistics_shuffled_minibatches_or_memory(
        self, tmp_path, overrides, monkeypatch
    ):
        monkeypatch.setattr(TestInOneProcess, "CONFIG", short_runs.make_config(**self.OVERRIDES | overrides))
        straight = self.straight(tmp_path / "straight")
        self.train_until(tmp_path / "stopped", 6)
        train.train(self.CONFIG, workdir=str(tmp_path / "stopped"))
        assert facts(read_rows(tmp_path / "stopped")) == straight

    def test_the_chain_goes_on_where_rows_are_rare(self, tmp_path, monkeypatch):
        rare = {"checkpoint__every_updates": 5, "log__every_updates": 3}
        monkeypatch.setattr(TestInOneProcess, "CONFIG", short_runs.make_config(**self.OVERRIDES | rare))
        straight = self.straight(tmp_path / "straight")
        assert [row["learner_steps"] for row in straight] == [1, 3, 6, 9, 12]
        assert self.train_until(tmp_path / "stopped", 4).counters.learner_steps == 7  # After the third row.
        train.train(self.CONFIG, workdir=str(tmp_path / "stopped"))  # From 5.
        assert facts(read_rows(tmp_path / "stopped")) == straight

    @pytest.mark.parametrize("update", [4, 6, 8, 11])
    def test_stopping_and_going_on_changes_nothing(self, stopped, undisturbed, tmp_path, update):
        assert update <= stopped(tmp_path / "stopped", update).counters.learner_steps < 12
        outcome = train.train(self.CONFIG, workdir=str(tmp_path / "stopped"))
        assert outcome.counters.learner_steps == 12
        assert facts(read_rows(tmp_path / "stopped")) == facts(read_rows(undisturbed))
        both = [final_params(folder, 12, self.CONFIG) for folder in (undisturbed, tmp_path / "stopped")]
        jax.tree.map(np.testing.assert_array_equal, *both)

    def test_a_run_that_never_had_a_checkpoint_starts_anew_and_keeps_its_rows(
        self, stopped, undisturbed, tmp_path, caplog
    ):
        caplog.set_level("INFO", logger="absl")
        stopped(tmp_path / "stopped", 6)
        shutil.rmtree(tmp_path / "stopped/checkpoints")  # As if it had been killed before the first.
        (tmp_path / "stopped/checkpointed.json").unlink()
        rows = (tmp_path / "stopped/metrics.jsonl").read_text()
        train.train(self.CONFIG, workdir=str(tmp_path / "stopped"))
        said = "has no checkpoint yet: it starts anew. The metrics of the attempt before are kept as metrics.jsonl.1."
        assert said in caplog.text
        assert (tmp_path / "stopped/metrics.jsonl.1").read_text() == rows
        assert facts(read_rows(tmp_path / "stopped")) == facts(read_rows(undisturbed))

    @pytest.mark.parametrize("loss", ["damaged", "aside", "gone", "gone, of a run from before that file", "config"])
    def test_a_run_is_never_begun_anew_over_what_it_has_but_by_a_flag(self, undisturbed, tmp_path, loss):
        run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
        if loss == "damaged":
            for path in run.glob("checkpoints/*/counters/metadata"):
                path.write_text("{")
            said = r"All checkpoints of this run are damaged.*--start_anew"
        elif loss == "aside":
            shutil.rmtree(run / "checkpoints/4")
            shutil.rmtree(run / "checkpoints/8")
            (run / "checkpoints/12").rename(run / "checkpoints/damaged-12")
            said = r"not there: only damaged-12, put aside as damaged.*--start_anew"
        elif loss == "gone":
            shutil.rmtree(run / "checkpoints")
            said = r"not there: checkpointed.json says that there was one of update 4.*--start_anew"
        elif loss == "gone, of a run from before that file":
            shutil.rmtree(run / "checkpoints")
            (run / "checkpointed.json").unlink()
            said = r"not there: its metrics reach update 12, and it saved one every 4 updates.*--start_anew"
        else:
            (run / "config.json").unlink()
            said = r"holds metrics.jsonl and checkpoints of a run, but its config.json is not there.*--start_anew"
        before = contents(run)
        for _ in range(2):  # Also the second time, and by --max_restarts, which does no more.
            with pytest.raises((CheckpointError, ConfigError), match=said):
                train.train(self.CONFIG, workdir=str(run))
            assert contents(run) == before
        outcome = train.train(self.CONFIG, workdir=str(run), start_anew=True)
        assert outcome.finished
        assert facts(read_rows(run)) == facts(read_rows(undisturbed))
        assert whole_steps(run) == [4, 8, 12]
        assert not list(run.glob("checkpoints/damaged*"))

    def test_anothers_checkpoints_are_neither_used_nor_deleted(self, tmp_path):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints/model.pt").write_text("weights")
        for start_anew in (False, True):
            with pytest.raises(ConfigError, match=r"checkpoints that is not podrl's: it holds model.pt\."):
                train.train(self.CONFIG, workdir=str(tmp_path), start_anew=start_anew)
        assert (tmp_path / "checkpoints/model.pt").read_text() == "weights"

    def test_between_boundaries_a_run_goes_on_and_says_what_that_means(self, stopped, tmp_path, caplog):
        stopped(tmp_path / "stopped", 2)
        outcome = train.train(self.CONFIG, workdir=str(tmp_path / "stopped"))
        assert outcome.finished
        assert "is between two boundaries (checkpoint.every_updates=4)" in caplog.text
        assert [row["learner_steps"] for row in read_rows(tmp_path / "stopped")] == list(range(1, 13))

    @pytest.mark.parametrize("update", [3, 6])
    def test_a_free_run_goes_on_from_where_it_stopped(self, tmp_path, update, monkeypatch, caplog):
        """It need not be a boundary, and equals no other run; but every update is made once, from a bounded lag."""
        caplog.set_level("INFO", logger="absl")
        free = {"determinism": "free", "actors__max_lag": 3}
        monkeypatch.setattr(TestInOneProcess, "CONFIG", short_runs.make_config(**self.OVERRIDES | free))
        stopped = self.train_until(tmp_path, update).counters
        before = facts(read_rows(tmp_path))
        assert update <= stopped.learner_steps < 12
        assert whole_steps(tmp_path)[-1] == stopped.learner_steps
        outcome = train.train(self.CONFIG, workdir=str(tmp_path))
        rows = facts(read_rows(tmp_path))
        assert outcome.counters == dataclasses.replace(stopped, learner_steps=12, env_steps=384, frames=384)
        assert f"Resumes the run in this folder after update {stopped.learner_steps}" in caplog.text
        assert "bit for bit" not in caplog.text
        assert rows[: len(before)] == before
        assert [row["learner_steps"] for row in rows] == list(range(1, 13))
        assert max(row["lag/max"] for row in rows) <= 3
        assert rows[stopped.learner_steps]["lag/max"] == 0  # Nobody acts with parameters of before the stop.
        assert whole_steps(tmp_path)[-1] == 12

    def test_other_software_is_named(self, stopped, tmp_path, caplog):
        stopped(tmp_path, 5)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        manifest["versions"]["jax"] = "0.0.1"
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        train.train(self.CONFIG, workdir=str(tmp_path))
        now = jax.__version__
        assert f"may not be bit for bit what it would have been: versions.jax was 0.0.1, is {now}." in caplog.text

    def test_the_same_software_is_not(self, stopped, tmp_path, caplog):
        stopped(tmp_path, 5)
        train.train(self.CONFIG, workdir=str(tmp_path))
        assert "bit for bit" not in caplog.text

    def test_the_config_in_the_folder_leaves_to_each_machine_what_it_chooses(self, stopped, tmp_path):
        stopped(tmp_path, 2)
        assert json.loads((tmp_path / "config.json").read_text())["topology"]["micro_batches"] == 0
        assert json.loads((tmp_path / "manifest.json").read_text())["micro_batches"] == 1

    def test_a_finished_run_says_so_and_stays_as_it_is(self, undisturbed, tmp_path, caplog):
        caplog.set_level("INFO", logger="absl")
        shutil.copytree(undisturbed, tmp_path / "run")
        straight = facts(read_rows(undisturbed))
        manifest = tmp_path / "run/manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"commit": "another"}))
        outcome = train.train(self.CONFIG, workdir=str(tmp_path / "run"))
        assert outcome.finished
        assert "may not be bit for bit" not in caplog.text  # Nothing follows.
        assert "This run is finished: it has 384 env steps, in 12 updates." in caplog.text
        assert facts(read_rows(tmp_path / "run")) == straight

    def test_a_checkpoint_holds_the_config_and_manifest_of_its_run(self, undisturbed):
        for name in ("config", "manifest"):
            assert read_fact(undisturbed, 8, name) == json.loads((undisturbed / f"{name}.json").read_text())

    def test_a_run_of_before_podrl_had_a_key_goes_on_with_its_default(self, stopped, tmp_path):
        stopped(tmp_path, 5)
        config = json.loads((tmp_path / "config.json").read_text())
        del config["checkpoint"]["keep_best"]
        (tmp_path / "config.json").write_text(json.dumps(config))
        other = short_runs.make_config(**self.OVERRIDES, checkpoint__keep_best=2)
        with pytest.raises(ConfigError, match=r"checkpoint\.keep_best was 0, is 2"):
            train.train(other, workdir=str(tmp_path))
        assert train.train(self.CONFIG, workdir=str(tmp_path)).finished

    def test_the_best_boundary_is_still_known_after_going_on(self, tmp_path, monkeypatch):
        config = short_runs.make_config(**self.OVERRIDES | {"checkpoint__keep": 1, "checkpoint__keep_best": 2})
        monkeypatch.setattr(TestInOneProcess, "CONFIG", config)
        returns = {row["learner_steps"]: row["episode/return"] for row in self.straight(tmp_path / "straight")[3::4]}
        for update in (5, 9):
            self.train_until(tmp_path / "stopped", update)
        train.train(config, workdir=str(tmp_path / "stopped"))
        best = sorted(returns, key=lambda step: (returns[step], step))[-2:]
        expected = sorted({12, *best})
        assert [whole_steps(tmp_path / name) for name in ("straight", "stopped")] == [expected, expected]

    def test_boundaries_are_kept_for_good(self, tmp_path, monkeypatch):
        options = {"checkpoint__keep": 1, "checkpoint__every_updates": 2, "checkpoint__keep_every": 4}
        monkeypatch.setattr(TestInOneProcess, "CONFIG", short_runs.make_config(**self.OVERRIDES | options))
        self.straight(tmp_path)
        assert whole_steps(tmp_path) == [4, 8, 12]

    def test_another_config_is_refused_with_what_changed(self, stopped, tmp_path):
        stopped(tmp_path, 2)
        other = short_runs.make_config(**self.OVERRIDES, agent__discount=0.5)
        with pytest.raises(ConfigError, match=r"another config: agent\.discount was 0\.99, is 0\.5\. Choose another"):
            train.train(other, workdir=str(tmp_path))
        assert train.train(other, workdir=str(tmp_path), accept_changes=True).finished

    def test_schedules_keep_their_place_by_the_optimizer_steps_that_the_agent_says(
        self, undisturbed, tmp_path, monkeypatch
    ):
        """Not by its keys: an agent may count its steps otherwise."""
        run, factors = shutil.copytree(undisturbed, tmp_path / "run"), []
        shape = property(lambda agent: UpdateShape(minibatches=agent.minibatches**2))
        monkeypatch.setattr(type(self.CONFIG.agent), "update_shape", shape)
        monkeypatch.setattr(resume, "rescale_counts", lambda state, factor: factors.append(factor) or state)
        for minibatches in (1, 2):
            config = dataclasses.replace(
                self.CONFIG, agent=dataclasses.replace(self.CONFIG.agent, minibatches=minibatches)
            )
            agent, _ = short_runs.make_agent(config)
            state_shape = Learner(agent, make_topology(config.topology).learner).state_shape
            with make_checkpointer(config, epath.Path(run)) as checkpointer:
                assert resume.find_start(config, epath.Path(run), checkpointer, state_shape) is not None
        assert factors == [4.0]

    def test_so_do_those_of_an_agents_further_optimizers(self, tmp_path):
        options = {"agent": "vmpo", "actors__num_envs": 64, "total_env_steps": 4 * 64 * 4}
        options["agent__dual_optimizer"] = {"learning_rate_decay": True}
        train.train(short_runs.make_config(**options), workdir=str(tmp_path))
        config = short_runs.make_config(**options, agent__minibatches=2)
        agent, _ = short_runs.make_agent(config)
        state_shape = Learner(agent, make_topology(config.topology).learner).state_shape
        with make_checkpointer(config, epath.Path(tmp_path)) as checkpointer:
            start = resume.find_start(config, epath.Path(tmp_path), checkpointer, state_shape)

        def is_schedule(node):
            return isinstance(node, optax.ScaleByScheduleState)

        nodes = filter(is_schedule, jax.tree.leaves(start.state.extra, is_leaf=is_schedule))
        assert [int(node.count) for node in nodes] == [2 * start.counters.learner_steps]

    @pytest.mark.parametrize("change", [{"name": "gone", "optimizer": "adam"}, {"discount": 7.0}])
    def test_schedules_stay_where_the_agent_before_cannot_be_asked_any_more(
        self, undisturbed, tmp_path, monkeypatch, change
    ):
        """It is gone, or its values are out of today's range."""
        run, read_fact = shutil.copytree(undisturbed, tmp_path / "run"), resume.read_fact

        def read(workdir, step, name):
            fact = read_fact(workdir, step, name)
            return {**fact, "agent": {**fact["agent"], **change}} if name == "config" else fact

        monkeypatch.setattr(resume, "read_fact", read)
        monkeypatch.setattr("podrl.runs.start_notes.read_fact", read)
        monkeypatch.setattr(resume, "rescale_counts", lambda state, factor: pytest.fail("rescaled"))
        agent, _ = short_runs.make_agent(self.CONFIG)
        state_shape = Learner(agent, make_topology(self.CONFIG.topology).learner).state_shape
        with make_checkpointer(self.CONFIG, epath.Path(run)) as checkpointer:
            start = resume.find_start(self.CONFIG, epath.Path(run), checkpointer, state_shape)
        assert start is not None
        warn_of_learning_rate(epath.Path(run), self.CONFIG, start)

    def test_a_run_that_is_made_longer_says_where_its_learning_rate_jumps_and_where_its_rates_begin_anew(
        self, undisturbed, tmp_path, caplog
    ):
        run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
        shutil.rmtree(run / "checkpoints/12")
        longer = short_runs.make_config(**self.OVERRIDES | {"total_env_steps": 24 * 8 * 4, "log__every_updates": 12})
        assert train.train(longer, workdir=str(run), accept_changes=True).finished
        assert (
            "The learning rate jumps from 0.0002 to 0.0004 after update 8, since total_env_steps was 384, is 768. With "
            "agent.optimizer.learning_rate=0.0003 it would continue from 0.0002." in caplog.text
        )
        rows = read_rows(run)
        assert [row["learner_steps"] for row in rows] == [*range(1, 9), 12, 24]
        assert [index for index, row in enumerate(rows) if START_KEY in row] == [0, 8]
        assert rows[8][START_KEY] == 8
        assert rows[8]["env_steps_per_second"] is None  # Its warm-up ended before, but no row of this start.
        assert rows[9]["env_steps_per_second"] > 0

    @pytest.mark.parametrize("knows", [True, False])
    def test_the_clock_goes_on_where_it_was_at_the_checkpoint(self, undisturbed, tmp_path, knows):
        """One that was made before podrl saved the clock goes on with that of the rows."""
        run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
        shutil.rmtree(run / "checkpoints/12")
        before = read_rows(run)[:8]
        saved_s = read_fact(run, 8, "clock")["wall_s"]
        assert before[7]["time/wall_s"] <= saved_s <= read_rows(run)[8]["time/wall_s"]
        if not knows:
            shutil.rmtree(run / "checkpoints/8/clock")
            unseal(run / "checkpoints/8")
            saved_s = before[7]["time/wall_s"]
        assert train.train(self.CONFIG, workdir=str(run)).finished
        rows = read_rows(run)
        assert rows[:8] == before
        assert rows[8][BEFORE_KEY] == pytest.approx(saved_s, rel=1e-5)
        clock = [row["time/wall_s"] for row in rows]
        assert clock == sorted(clock)
        assert clock[8] > saved_s
        assert read_fact(run, 12, "clock")["wall_s"] >= clock[-1]

    def test_numbers_of_info_that_are_recorded_from_now_on_are_no_change(self, stopped, tmp_path):
        stopped(tmp_path, 2)
        stored = json.loads((tmp_path / "config.json").read_text())
        stored["log"]["info_keys"] = ["success"]
        (tmp_path / "config.json").write_text(json.dumps(stored))
        assert train.train(self.CONFIG, workdir=str(tmp_path)).finished

    def test_keys_that_came_since_are_no_change(self, stopped, tmp_path):
        stopped(tmp_path, 2)
        stored = json.loads((tmp_path / "config.json").read_text())
        del stored["topology"]["micro_batch_loop"], stored["determinism"]
        (tmp_path / "config.json").write_text(json.dumps(stored))
        assert train.train(self.CONFIG, workdir=str(tmp_path)).finished

    def test_a_refused_network_leaves_the_run_as_it_was(self, stopped, tmp_path):
        stopped(tmp_path, 5)
        before = (tmp_path / "config.json").read_text()
        other = short_runs.make_config(**self.OVERRIDES, network__hidden_sizes=(32,))
        with pytest.raises(ConfigError, match="is of another network or algorithm"):
            train.train(other, workdir=str(tmp_path), accept_changes=True)
        assert (tmp_path / "config.json").read_text() == before
        assert train.train(self.CONFIG, workdir=str(tmp_path)).finished

    def test_each_boundary_begins_like_a_run_but_with_other_environments(self):
        config, seeds = short_runs.scripted_config(total_env_steps=12 * 8 * 4, checkpoint__every_updates=4), []
        source = load_source(config.env.source)

        def make_pool(env, **kwargs):
            seeds.append(tuple(kwargs["seeds"]))
            return source.make_pool(env, **kwargs)

        _, rows = short_runs.run(config, source=dataclasses.replace(source, make_pool=make_pool))
        assert [row["lag/max"] for row in rows] == [0, 1, 1, 1] * 3
        pools = 3 * config.actors.pools_per_thread
        assert len(seeds) == pools
        assert len({seed for pool in seeds for seed in pool}) == 3 * config.actors.num_envs
