"""A run from a data set: the same wherever its rows are and whenever it was stopped; one line for what cannot be."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from podrl import train
from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.data.data_set import open_data
from podrl.data.manifest import DataError
from podrl.data.reader import HostSampler
from podrl.data.window import Window, WindowPlan
from podrl.runs.checkpoint_arrays import read_params
from tests.data.episodes import IMAGES, VECTOR, make_episode, write_episodes
from tests.offline_runs import PENDULUM, offline_config, write_pendulum
from tests.processes import read_rows
from tests.short_runs import facts, make_config, run

pytestmark = pytest.mark.usefixtures("compiled_once")
SLOW = pytest.mark.slow  # There is a quicker test of its kind.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pendulum(tmp_path_factory.mktemp("data") / "set")


def fingerprints(rows):
    return [(row["fingerprint/batch"], row["fingerprint/params"]) for row in rows]


class TestRows:
    def test_they_count_updates_and_the_samples_of_their_learner_steps(self, data):
        outcome, rows = run(offline_config(data, log__every_updates=2))
        assert [row["learner_steps"] for row in rows] == [1, 2, 4, 6]
        assert {(row["env_steps"], row["frames"]) for row in rows} == {(0, 0)}
        assert outcome.finished
        assert (int(outcome.state.step), int(outcome.state.learner_step)) == (6, 12)
        rates = [row["data/samples_per_second"] for row in rows]
        assert np.isnan(rates[0])
        assert min(rates[1:]) > 0
        assert outcome.samples_per_second > 0
        assert outcome.env_steps_per_second == 0
        spent = [sum(share for key, share in row.items() if key.startswith("time/data/")) for row in rows]
        np.testing.assert_allclose(spent, 1, rtol=1e-6)
        assert "time/learner/wait_data" in rows[0]
        assert not any(key.startswith(("time/actors/", "lag/")) for key in rows[0])

    def test_transitions_are_those_that_are_real(self, data):
        _, rows = run(offline_config(data))
        assert {row["data/transitions"] for row in rows} == {2 * 16}  # Single transitions begin at steps only.


class TestWhereRowsAre:
    @pytest.mark.parametrize("rebalance", ["decouple", *(pytest.param(x, marks=SLOW) for x in ("none", "weight"))])
    def test_devices_draw_what_the_host_draws(self, data, rebalance):
        p_base = 0.0 if rebalance == "none" else 0.1
        rows = [
            run(offline_config(data, data__rebalance=rebalance, data__memory=memory, data__p_base=p_base))[1]
            for memory in ("host", "device")
        ]
        assert fingerprints(rows[0]) == fingerprints(rows[1])
        assert len(set(fingerprints(rows[0]))) == 6

    def test_how_far_ahead_samples_are_made_changes_nothing(self, data):
        rows = [run(offline_config(data, data__prefetch=ahead))[1] for ahead in (1, 5)]
        assert fingerprints(rows[0]) == fingerprints(rows[1])

    @pytest.mark.parametrize("memory", ["device", pytest.param("host", marks=SLOW)])
    def test_one_device_learns_what_two_and_four_do(self, data, memory):
        config = offline_config(data, total_updates=1, data__memory=memory)
        found = [run(config, num_devices) for num_devices in (1, 2, 4)]
        assert len({rows[0]["fingerprint/batch"] for _, rows in found}) == 1
        params = [jax.device_get(outcome.state.params) for outcome, _ in found]
        for each in params[1:]:
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), each, params[0])


def by_update(workdir):
    """The rows of updates, without what depends on the clock."""
    rows = [row for row in read_rows(workdir) if "fingerprint" in row]
    return {row["learner_steps"]: row for row in facts(rows)}


class TestResume:
    def stop_after(self, update):
        """Tells a run to stop once it has asked that often."""
        asked = []

        def code():
            asked.append(None)
            return 75 if len(asked) > update else 0

        return code

    def test_a_run_that_was_stopped_is_the_straight_one_at_any_update(self, data, tmp_path):
        config = offline_config(data, total_updates=8, checkpoint__every_updates=3, evaluate__every_updates=4)
        train.train(config, workdir=str(tmp_path / "straight"))
        stopped = train.train(config, workdir=str(tmp_path / "run"), stop_code=self.stop_after(9))
        assert (stopped.finished, stopped.stop_code) == (False, 75)
        assert 0 < stopped.counters.learner_steps < 8
        assert train.train(config, workdir=str(tmp_path / "run")).finished
        ours, theirs = (by_update(tmp_path / name) for name in ("run", "straight"))
        assert list(ours) == list(range(1, 9))
        assert ours == theirs
        leaves = [read_params(tmp_path / name, 8) for name in ("run", "straight")]
        jax.tree.map(np.testing.assert_array_equal, *leaves)
        for name in ("run", "straight"):
            evaluated = [row for row in read_rows(tmp_path / name) if "evaluate/return" in row]
            assert [row["learner_steps"] for row in evaluated] == [4, 8]

    def test_in_a_window_that_moves(self, data):
        saved = []
        config = offline_config(data, data__window=40, checkpoint__every_updates=3, total_updates=9)
        _, rows = run(config, save=lambda each: saved.append(jax.tree.map(np.asarray, each.state.step)))
        _, whole = run(offline_config(data, total_updates=9))
        assert fingerprints(rows) != fingerprints(whole)
        assert [int(step) for step in saved] == [3, 6, 9]
        sampler = make_sampler(config)
        sampler.load(5)  # As a run that resumes does: without the updates before.
        straight = make_sampler(config)
        for update in range(6):
            straight.load(update)
        jax.tree.map(np.testing.assert_array_equal, sampler.samples(5), straight.samples(5))


def make_sampler(config):
    recorded = assemble(config, jax.devices()[:1]).recorded
    return HostSampler(recorded.data, recorded.plan, slice(0, 16))


class TestStatistics:
    @pytest.mark.parametrize("rebalance", ["resample", pytest.param("none", marks=SLOW)])
    def test_observations_are_normalized_by_those_of_all_rows(self, data, rebalance):
        """Also where batches are rebalanced, and at every update alike."""
        config = offline_config(data, network__normalize_observations=True, data__rebalance=rebalance)
        outcome, _ = run(config)
        rows = acted_rows(data)
        for name in ("observations", "acting"):
            statistics = outcome.state.extra[name]
            assert float(statistics.count) == len(rows)
            np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(statistics.variance, rows.var(axis=0), rtol=1e-6)

    def test_rewards_are_divided_by_the_deviation_of_all_returns(self, data):
        outcome, _ = run(offline_config(data, network__normalize_rewards=True, network__normalize_observations=True))
        sums = []
        opened = open_data(data)
        for _, columns in opened.read(np.arange(opened.num_episodes)):
            total, first = 0.0, 0
            for length in opened.facts.length:
                total = 0.0
                for reward in columns["reward"][first : first + length]:
                    total = float(reward) + 0.99 * total
                    sums.append(total)
                first += length + 1
        np.testing.assert_allclose(outcome.state.extra["agent"]["returns"].variance, np.var(sums), rtol=1e-6)


def acted_rows(folder):
    """The observations of all rows that have an action, in float64."""
    opened = open_data(folder)
    ((_, columns),) = opened.read(np.arange(opened.num_episodes))
    last = np.cumsum(opened.facts.length + 1) - 1
    return np.delete(columns["observation"], last, axis=0).astype(np.float64)


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"agent": "impala"}, "agent.name='impala' cannot learn from data.path="),
            ({"total_updates": 0}, "total_updates=0 with data.path: a run from a data set is as long as"),
            ({"data__path": "", "total_updates": 0}, "total_env_steps=0 must lie in"),
            ({"data__path": "", "total_env_steps": 5}, "total_updates=6 is the length of a run from a data set"),
            ({"data__window": 50, "data__memory": "device"}, "data.window=50 moves over a data set in host memory"),
            ({"checkpoint__keep_best": 1}, "checkpoint.keep_best=1 with data.path: it goes by the return of"),
            ({"data__p_base": 0.5}, "data.p_base=0.5 with data.rebalance='none': there are no weights"),
            ({"data__window_episodes": 2}, "data.window_episodes=2 with data.window=0: there is no window"),
            ({"data__window_updates": 2}, "data.window_updates=2 with data.window=0: there is no window"),
            ({"total_updates": 2**30}, "total_updates=1073741824 of data.learner_steps=2 are 2,147,483,648 learner"),
            ({"remote__env_workers": 1}, "remote.env_workers=1 with data.path: no actors run"),
            ({"topology__actor_devices_per_process": 1}, "topology.actor_devices_per_process=1 with data.path"),
            (
                {"data__path": "", "total_updates": 0, "total_env_steps": 5},
                "data.batch=16 and data.learner_steps=2 are for runs from a data set",
            ),
        ],
    )
    def test_a_config_that_does_not_fit_is_named_in_one_line(self, data, settings, said):
        with pytest.raises(ConfigError) as caught:
            offline_config(data, **settings)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_several_seeds(self, data):
        seeds = {"env__source": "gymnax", "topology__placement": "anakin", "topology__seeds": 2}
        with pytest.raises(ConfigError, match=r"topology\.seeds=2 with data\.path: .* has one seed"):
            offline_config(data, **seeds)

    def test_a_batch_that_does_not_divide_names_one_that_does(self, data):
        with pytest.raises(
            ConfigError, match=r"data\.batch=18 does not divide over 4 learner devices .* multiple of 4"
        ):
            run(offline_config(data, data__batch=18), 4)

    def test_a_set_that_is_not_there_is_empty_or_foreign(self, tmp_path):
        (tmp_path / "nothing").mkdir()
        empty = write_episodes(tmp_path / "empty", [make_episode(0, 0, VECTOR)])
        foreign = write_episodes(tmp_path / "foreign", [make_episode(0, 3, IMAGES)], IMAGES)
        for folder, said in (
            (tmp_path / "nothing", r"data\.path: .* is no data set: it has no manifest.json"),
            (empty, r"data\.path: .* has no episodes yet"),
            (foreign, r"is of images, whose observation is .*; Pendulum-v1 has"),
        ):
            with pytest.raises(ConfigError, match=said):
                run(offline_config(folder))

    def test_what_is_damaged_is_said_before_anything_is_compiled(self, tmp_path):
        folder = write_pendulum(tmp_path / "set", shard_bytes=2000)
        damage(folder / "shard-000001/observation/c/0/0")
        phases = []
        with pytest.raises(ConfigError, match=r"data\.path: Shard shard-000001 in .* is damaged: observation"):
            run(offline_config(folder), show_phase=phases.append)
        assert phases == ["reading the data set"]

    def test_what_is_found_damaged_later_ends_the_run(self, tmp_path):
        folder = write_pendulum(tmp_path / "set", shard_bytes=2000)
        config = offline_config(folder, data__window=14, data__window_episodes=2, total_updates=500)
        opened = open_data(folder)
        plan = WindowPlan(Window(rows=14, episodes=2), opened.facts.length, config.seed)
        read_first = opened.shard[plan.episodes(plan.at(0))]
        later = [path for number, path in enumerate(sorted(folder.glob("shard-*"))) if number not in read_first]
        assert later
        for path in later:
            damage(path / "observation/c/0/0")
        with pytest.raises(DataError, match="is damaged: observation"):
            run(config)


def damage(path):
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)


class TestWaiting:
    def test_a_reader_that_hangs_is_named(self, data, monkeypatch):
        event, samples = threading.Event(), HostSampler.samples

        def hang(self, update):
            if update == 3:
                event.wait(60)
            return samples(self, update)

        monkeypatch.setattr(HostSampler, "samples", hang)
        with pytest.raises(
            TimeoutError, match=r"The learner waited 2 s for recorded data: .* at update 3, .* 'gather'"
        ):
            run(offline_config(data, actors__timeout_s=2.0))
        event.set()

    def test_no_thread_is_left_where_a_run_is_told_to_stop(self, data):
        outcome, _ = run(offline_config(data, total_updates=500), should_stop=TestResume().stop_after(4))
        assert outcome.counters.learner_steps < 500
        assert "data-reader" not in [thread.name for thread in threading.enumerate()]

    def test_an_update_that_is_not_finite_stops_the_run(self, tmp_path):
        episodes = [make_episode(number, 8, PENDULUM, reward=3e38) for number in range(3)]
        folder = write_episodes(tmp_path / "set", episodes, PENDULUM)
        with pytest.raises(RuntimeError, match="Update 1 is not finite: loss/total is "):
            run(offline_config(folder))
        outcome, rows = run(offline_config(folder, on_nonfinite="skip"))
        assert [row["grad/skipped"] for row in rows] == [1] * 6
        assert outcome.finished


def test_hooks_are_called_between_updates(data):
    calls = []

    def halve(state, counters):
        calls.append(counters.learner_steps)
        return dataclasses.replace(state, params=jax.tree.map(lambda x: x / 2, state.params))

    changed, _ = run(offline_config(data), hooks={"between_updates": halve, "between_every": 4})
    assert calls == [4]
    plain, _ = run(offline_config(data))
    leaves = [jax.tree.leaves(jax.device_get(each.state.params)) for each in (changed, plain)]
    assert not all(np.allclose(x, y) for x, y in zip(*leaves, strict=True))


def test_an_agent_that_can_also_act_learns_from_its_own_experience_without_a_data_set():
    assert not make_config("Pendulum-v1", agent="td3", env__source="gymnasium").is_offline
