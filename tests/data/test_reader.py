"""Samples are the rows that were written, whatever is in memory at the time, and wherever they are gathered."""

import functools
import threading
import time

import jax
import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.data.data_set import check_suits, open_data
from podrl.data.gathering import HeldRows, gather_samples
from podrl.data.manifest import DataError, DataSpec
from podrl.data.reader import HostSampler, SamplePlan, SampleReader
from podrl.data.samplers import RecordedDraws, make_streams
from podrl.data.window import Window, WindowPlan
from podrl.data.writer import DataWriter
from tests.data.episodes import IMAGES, LOGITS, VECTOR, make_episode, write_episodes
from tests.processes import wait_for


@functools.cache
def episodes():
    return [make_episode(n, 2 + n % 7, truncated=bool(n % 2)) for n in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("data") / "set", episodes(), shard_bytes=1500)


@pytest.fixture
def data(folder):
    return open_data(folder)


def plan_of(data, *, rebalance="none", p_base=0.0, **fields):
    fields = {"num_batches": 2, "batch": 8, "seed": 3, **fields}
    return SamplePlan(streams=make_streams(rebalance, data.facts, p_base=p_base), **fields)


def samples_at(sampler, update):
    sampler.load(update)
    return sampler.samples(update)


def assert_equal(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype


def slow_sample(all_episodes, drawn, length):
    """One sequence of an episode, row by row, from what was to be written."""
    episode, step = all_episodes[drawn[0]], drawn[1]
    rows = []
    for offset in range(step, step + length + 1):
        behind = offset >= episode.length
        at = min(offset, episode.length)
        rows.append(
            {
                "observation": jax.tree.map(lambda x, at=at: x[at], episode.observation),
                "first": offset == 0 or offset > episode.length,
                "action": np.zeros_like(episode.action[0]) if behind else episode.action[at],
                "reward": 0.0 if behind else episode.reward[at],
                "discount": 1.0 if behind else episode.discount[at],
                "version": 0 if behind else episode.params_version[at],
            }
        )
    return rows


def test_a_recording_that_is_not_complete_is_told_of(tmp_path, caplog):
    write_episodes(tmp_path, [make_episode(0, 3)])
    with DataWriter(tmp_path, DataSpec(env=VECTOR), shard_bytes=1) as writer:
        writer.begin({"policy": "sampled", "run": "a", "update": 8})
        writer.add(make_episode(1, 3))
    with caplog.at_level("WARNING", logger="absl"):
        assert open_data(tmp_path).num_episodes == 2
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: the recording of a@8 is not complete."]


@pytest.mark.parametrize("length", [1, 4, 12])
def test_samples_are_the_rows_that_were_written(data, length):
    sampler = HostSampler(data, plan_of(data, length=length), slice(0, 8))
    (sample,) = samples_at(sampler, 5).values()
    (stream,) = plan_of(data).streams
    drawn, found = sampler.draw(stream, 5), sample.trajectory
    assert found.observation.shape == (2, length + 1, 8, 2)
    for k in range(2):
        for b in range(8):
            start = drawn.episode[k, b], drawn.step[k, b]
            for t, row in enumerate(slow_sample(episodes(), start, length)):
                np.testing.assert_array_equal(found.observation[k, t, b], row["observation"])
                assert found.first[k, t, b] == row["first"]
                if t < length:
                    np.testing.assert_array_equal(found.action[k, t, b], row["action"])
                    assert found.reward[k, t, b] == row["reward"]
                    assert found.discount[k, t, b] == row["discount"]
                    assert found.params_version[k, t, b] == row["version"]
            before = episodes()[start[0]].reward[start[1] - 1] if start[1] else 0
            assert found.opening_reward[k, b] == before
            is_transition = ~found.first[k, 1:, b]
            assert is_transition.sum() == min(length, episodes()[start[0]].length - start[1])
    np.testing.assert_array_equal(found.env_index, np.broadcast_to(np.arange(8, dtype=np.uint32), (2, 8)))
    assert (found.behaviour, found.carry) == ((), ())
    assert (sample.weight == 1).all()


def test_pictures_and_behaviour_come_back_under_their_names(tmp_path):
    written = [make_episode(n, 4, IMAGES, behaviour=LOGITS) for n in range(3)]
    data = open_data(write_episodes(tmp_path, written, IMAGES, behaviour=LOGITS))
    sampler = HostSampler(data, plan_of(data, num_batches=1), slice(0, 8))
    found = samples_at(sampler, 0)["data"].trajectory
    drawn = sampler.draw(plan_of(data, num_batches=1).streams[0], 0)
    for b, (episode, step) in enumerate(zip(drawn.episode[0], drawn.step[0], strict=True)):
        for name in IMAGES.observation:
            np.testing.assert_array_equal(
                found.observation[name][0, :, b], written[episode].observation[name][step : step + 2]
            )
        np.testing.assert_array_equal(found.behaviour["logits"][0, 0, b], written[episode].behaviour["logits"][step])


def test_devices_gather_what_the_host_gathers(data):
    sampler = HostSampler(data, plan_of(data, length=6), slice(0, 8))
    (expected,) = samples_at(sampler, 1).values()
    held, drawn = sampler._rows.held, sampler.draw(plan_of(data).streams[0], 1)
    weight = np.ones(data.num_episodes, np.float32)
    on_device = jax.device_put(
        HeldRows(columns=held.columns, begin=held.begin.astype(np.int32), length=held.length.astype(np.int32))
    )
    found = jax.jit(gather_samples, static_argnums=2)(on_device, jax.device_put(drawn), 6, jax.numpy.asarray(weight))
    assert_equal(jax.device_get(found), expected)


def test_processes_read_their_shares_of_the_same_batch(data):
    plan = plan_of(data, rebalance="decouple", p_base=0.1, length=3)
    whole = samples_at(HostSampler(data, plan, slice(0, 8)), 7)
    parts = [samples_at(HostSampler(data, plan, slice(4 * p, 4 * p + 4)), 7) for p in range(2)]
    for name, sample in whole.items():
        joined = jax.tree.map(lambda *x: np.concatenate(x, axis=2), *(part[name].trajectory.reward for part in parts))
        np.testing.assert_array_equal(joined, sample.trajectory.reward)
        joined = np.concatenate([part[name].trajectory.env_index for part in parts], axis=1)
        np.testing.assert_array_equal(joined, sample.trajectory.env_index)
        joined = np.concatenate([part[name].trajectory.observation for part in parts], axis=2)
        np.testing.assert_array_equal(joined, sample.trajectory.observation)


def test_weights_of_the_loss_come_with_their_samples(data):
    sampler = HostSampler(data, plan_of(data, rebalance="weight"), slice(0, 8))
    (sample,) = samples_at(sampler, 2).values()
    stream = plan_of(data, rebalance="weight").streams[0]
    np.testing.assert_array_equal(sample.weight, stream.weight[sampler.draw(stream, 2).episode])
    assert sample.weight.std() > 0.1


class TestWindow:
    def window(self, **fields):
        return Window(**{"rows": 60, "episodes": 2, "updates": 3, **fields})

    def test_holds_as_many_of_the_next_episodes_as_fit(self, data):
        plan = WindowPlan(self.window(), data.facts.length, seed=1)
        assert not plan.is_whole
        for update in range(0, 200, 7):
            places = plan.at(update)
            rows = data.facts.length + 1
            assert places.start == update // 3 * 2
            with_next = plan.episodes(range(places.start, places.stop + 1))
            assert rows[plan.episodes(places)].sum() <= 60 < rows[with_next].sum()

    def test_every_episode_passes_before_one_comes_again(self, data):
        plan = WindowPlan(self.window(), data.facts.length, seed=1)
        for passed in range(3):
            order = plan.episodes(range(40 * passed, 40 * passed + 40))
            assert sorted(order) == list(range(40))
            assert order.tolist() != sorted(order)
        assert plan.episodes(range(40)).tolist() != plan.episodes(range(40, 80)).tolist()
        other = WindowPlan(self.window(), data.facts.length, seed=2)
        assert plan.episodes(range(40)).tolist() != other.episodes(range(40)).tolist()

    def test_samples_are_those_of_its_episodes_whatever_was_held_before(self, data):
        plan = plan_of(data, window=self.window(), length=3, rebalance="resample", p_base=0.1)
        straight = HostSampler(data, plan, slice(0, 8))
        for update in range(60):
            found = samples_at(straight, update)
            drawn = straight.draw(plan.streams[0], update)
            numbers = straight._rows.episodes[drawn.episode]
            np.testing.assert_array_equal(found["data"].trajectory.observation[:, 0, :, 0], numbers)
            np.testing.assert_array_equal(found["data"].trajectory.observation[:, 0, :, 1], drawn.step)
            if update in (0, 7, 58):
                assert_equal(found, samples_at(HostSampler(data, plan, slice(0, 8)), update))
        assert straight._rows._columns["reward"].shape == (60,)

    def test_a_window_as_large_as_the_set_is_the_set(self, data):
        whole = samples_at(HostSampler(data, plan_of(data), slice(0, 8)), 9)
        windowed = plan_of(data, window=self.window(rows=10**6))
        assert_equal(samples_at(HostSampler(data, windowed, slice(0, 8)), 9), whole)

    def test_a_window_smaller_than_an_episode_is_one_line(self, data):
        with pytest.raises(ConfigError, match=r"data.window=5 rows is smaller than the longest episode, which has 9"):
            HostSampler(data, plan_of(data, window=self.window(rows=5)), slice(0, 8))


class TestSampleReader:
    def test_gives_the_updates_in_order_and_reads_only_a_few_ahead(self, data):
        plan, made = plan_of(data), []
        sampler, straight = (HostSampler(data, plan, slice(0, 8)) for _ in range(2))

        class Counted:
            load = sampler.load

            def samples(self, update):
                made.append(update)
                return sampler.samples(update)

        reader = SampleReader(Counted(), first=4, last=60, ahead=2)
        try:
            for update in range(4, 10):
                assert_equal(reader.take(update), samples_at(straight, update))
            wait_for(lambda: reader.ledger.doing()[0] == "wait_learner" or len(made) > 20)
            time.sleep(0.2)
            assert made == list(range(4, 10 + 2 + 1))  # Two are ready, and one waits to be.
            assert [thread.name for thread in threading.enumerate()].count("data-reader") == 1
        finally:
            reader.close()
        assert "data-reader" not in [thread.name for thread in threading.enumerate()]
        assert set(reader.ledger.seconds()) == {"read", "gather", "wait_learner", "other"}

    def test_what_is_damaged_is_named_to_the_learner(self, tmp_path):
        write_episodes(tmp_path, [make_episode(n, 5) for n in range(4)], shard_bytes=200)
        path = tmp_path / "shard-000001/observation/c/0/0"
        content = bytearray(path.read_bytes())
        content[30] ^= 1
        path.write_bytes(content)
        data = open_data(tmp_path)
        reader = SampleReader(HostSampler(data, plan_of(data), slice(0, 8)), first=0, last=9)
        with pytest.raises(DataError, match=r"Shard shard-000001 in .* is damaged: observation: "):
            reader.take(0)
        reader.close()

    def test_the_learner_does_not_wait_for_ever(self, data):
        event = threading.Event()

        class Stuck:
            def load(self, update, beat):
                event.wait(60)

        reader = SampleReader(Stuck(), first=3, last=9, timeout_s=0.2)
        began_s = time.monotonic()
        with pytest.raises(TimeoutError, match=r"for recorded data: the data reader is at update 3, .* 'read'"):
            reader.take(3)
        assert time.monotonic() - began_s < 30
        event.set()
        reader.close()


def test_a_data_set_must_suit_the_agent(tmp_path, data):
    check_suits(data, VECTOR, agent="iql")
    with pytest.raises(ConfigError, match=r"is of vector, whose observation is .*; images has"):
        check_suits(data, IMAGES, agent="iql")
    with pytest.raises(ConfigError, match=r"has no behaviour, which agent.name='impala' needs"):
        check_suits(data, VECTOR, agent="impala", needs=("behaviour",))
    with pytest.raises(ConfigError, match=r"has no carry, which agent.name='r2d2' needs. .* initial carry\."):
        check_suits(data, VECTOR, agent="r2d2", needs=("carry",))
    with_behaviour = write_episodes(tmp_path / "a", [make_episode(0, 3, behaviour=LOGITS)], behaviour=LOGITS)
    check_suits(open_data(with_behaviour), VECTOR, agent="impala", needs=("behaviour", "params_version"))
    write_episodes(tmp_path / "empty", [])
    with pytest.raises(ConfigError, match="has no episodes yet"):
        open_data(tmp_path / "empty")


def test_draws_can_be_shared_without_their_numbers_changing():
    draws = RecordedDraws(episode=np.zeros((2, 6)), step=np.ones((2, 6)), number=np.arange(6))
    assert draws.share(slice(3, 6)).number.tolist() == [3, 4, 5]
    assert draws.share(slice(3, 6)).step.shape == (2, 3)
