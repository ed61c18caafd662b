import json
import math
import re
import struct
import sys
import threading
import time

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from podrl.experience.episodes import Episode, EpisodeTracker, EpisodeWindow
from podrl.runtime.ledger import Ledger, pooled, shares
from podrl.telemetry.writer import MetricsWriter
from podrl.types import Counters


def _read(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _track(tracker, rows):
    """Feeds (reward, discount, first) of one environment; returns what ended at each row."""
    return [tracker.step(np.float32([r]), np.float32([d]), np.array([f], bool)) for r, d, f in rows]


class TestEpisodeTracker:
    def test_termination_and_truncation_by_hand(self):
        rows = [
            (9.0, 1, True),  # a reset: its reward does not count
            (1.0, 1, False),
            (2.0, 0, False),  # terminates after 2 steps
            (9.0, 1, True),
            (0.5, 1, False),  # truncated: only the next row says so
            (7.0, 0, True),  # a reset's discount does not end anything
            (4.0, 1, False),
        ]
        assert _track(EpisodeTracker(1), rows) == [[], [], [Episode(3.0, 2)], [], [], [Episode(0.5, 1)], []]

    def test_environments_are_independent_and_in_order(self):
        tracker = EpisodeTracker(3)
        ones = np.ones(3, np.float32)
        assert tracker.step(ones, ones, np.array([True, True, True])) == []
        assert tracker.step(ones * [1, 2, 3], ones, np.zeros(3, bool)) == []
        ended = tracker.step(ones * [1, 2, 3], np.float32([0, 1, 0]), np.array([False, True, False]))
        assert ended == [Episode(2.0, 1), Episode(2.0, 2), Episode(6.0, 2)]  # the truncated one first

    def test_a_nan_on_a_reset_row_is_ignored(self):
        rows = [(math.nan, 1, True), (1.0, 0, False)]
        assert _track(EpisodeTracker(1), rows)[-1] == [Episode(1.0, 1)]


class TestEpisodeWindow:
    def test_has_no_return_before_the_first_episode(self):
        assert EpisodeWindow(3).summary() == {"episode/count": 0}

    def test_averages_the_newest(self):
        window = EpisodeWindow(2)
        window.add([Episode(100.0, 1)])
        window.add([Episode(1.0, 10), Episode(2.0, 20)])
        assert window.summary() == {
            "episode/return": 1.5,
            "episode/return_max": 2.0,
            "episode/length": 15.0,
            "episode/count": 3,
        }
        assert len(window) == 2


class TestMetricsWriter:
    def test_lines_are_valid_ordered_and_rounded(self, tmp_path):
        row = {
            "loss/total": np.float32(1 / 3),
            "frames": 4 * 10**12 + 1,
            "episode/return": math.nan,
            "grad/norm": math.inf,
            "fingerprint": "0a1b",
            "env_steps": np.int64(10**12),
            "learner_steps": 7,
        }
        with MetricsWriter(tmp_path / "run", tensorboard=False) as writer:
            writer.write(row, step=10**12)
            text = (tmp_path / "run" / "metrics.jsonl").read_text()  # flushed before the file is closed
        assert text.endswith("\n")
        assert text.count("\n") == 1
        values = json.loads(text, parse_constant=pytest.fail)
        assert list(values) == [
            "learner_steps",
            "env_steps",
            "frames",
            "episode/return",
            "fingerprint",
            "grad/norm",
            "loss/total",
        ]
        assert values["frames"] == 4 * 10**12 + 1
        assert values["loss/total"] == 0.333333
        assert values["episode/return"] is None
        assert values["grad/norm"] is None

    def test_appends_to_what_is_there(self, tmp_path):
        for step in (1, 2):
            with MetricsWriter(tmp_path, tensorboard=False) as writer:
                writer.write({"learner_steps": step}, step=step)
        assert [row["learner_steps"] for row in _read(tmp_path)] == [1, 2]

    def test_a_resumed_run_drops_rows_of_the_lost_attempt(self, tmp_path):
        lines = [json.dumps({"learner_steps": step}) for step in (10, 20, 30)]
        (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"learner_st']))
        resumed = Counters(learner_steps=20, env_steps=200, frames=800)
        with MetricsWriter(tmp_path, tensorboard=False, resumed=resumed) as writer:
            writer.write({"learner_steps": 30, "env_steps": 300}, step=300)
        assert [row["learner_steps"] for row in _read(tmp_path)] == [10, 20, 30]
        assert _read(tmp_path)[-1] == {"learner_steps": 30, "env_steps": 300}

    def test_where_nothing_can_be_appended_rows_before_a_sync_are_safe(self, tmp_path):
        """As in an object store; `kill -9` is a writer that is not closed."""

        def open_writer(**resumed):
            return MetricsWriter(tmp_path, tensorboard=False, appends=False, **resumed)

        def steps():
            return [json.loads(line)["learner_steps"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

        first = open_writer()
        for update in (1, 2, 3):
            first.write({"learner_steps": update}, step=update)
            if update == 2:
                first.sync()
        assert steps() == [1, 2]
        with open_writer(resumed=Counters(learner_steps=2, env_steps=2, frames=2)) as second:
            second.write({"learner_steps": 3}, step=3)
            assert steps() == [1, 2]
        assert steps() == [1, 2, 3]
        with open_writer(resumed=Counters(learner_steps=1, env_steps=1, frames=1)) as third:
            third.write({"learner_steps": 2}, step=2)
        assert steps() == [1, 2]

    def test_scalars_reach_tensorboard(self, tmp_path):
        with MetricsWriter(tmp_path, tensorboard=True) as writer:
            writer.write({"loss/total": 0.5, "loss/nan": math.nan, "fingerprint": "0a"}, step=1280)
            writer.write({"env_steps": 2560}, step=2560)
        header, *events = _read_events(tmp_path)
        assert header.file_version == "brain.Event:2"
        scalars = [(event.step, {value.tag: value.simple_value for value in event.summary.value}) for event in events]
        assert scalars == [(1280, {"loss/total": 0.5}), (2560, {"env_steps": 2560})]
        assert all(abs(event.wall_time - time.time()) < 60 for event in events)

    def test_what_a_checkpoint_follows_is_in_tensorboard_though_nothing_is_closed(self, tmp_path):
        """As after `kill -9`: a run that goes on from the checkpoint does not make these rows again."""
        writer = MetricsWriter(tmp_path, tensorboard=True)
        for update in (1, 2, 3):
            writer.write({"learner_steps": update}, step=update)
            if update == 2:
                writer.sync()
                assert [event.step for event in _read_events(tmp_path)] == [0, 1, 2]
        writer.close()

    def test_a_resumed_run_purges_the_lost_attempt_from_tensorboard(self, tmp_path):
        with MetricsWriter(tmp_path, tensorboard=True, resumed=Counters(learner_steps=20, env_steps=200)):
            pass
        _, start = _read_events(tmp_path)
        assert (start.step, start.session_log.status) == (201, SessionLog.START)

    def test_a_resumed_run_without_env_steps_purges_by_updates(self, tmp_path):
        """Else every point of the run before would be purged: its `env_steps` are 0."""
        kept = Counters(learner_steps=20, env_steps=0)
        with MetricsWriter(tmp_path, tensorboard=True, resumed=kept, counts="learner_steps"):
            pass
        _, start = _read_events(tmp_path)
        assert (start.step, start.session_log.status) == (21, SessionLog.START)

    def test_starts_within_one_second_and_with_a_clock_that_goes_back_lose_no_points(self, tmp_path, monkeypatch):
        """TensorBoard reads files in the order of their names; each name has the second of its start."""
        for start, clock_s in enumerate((1_900_000_000.0, 1_900_000_000.5, 1_800_000_000.0)):
            monkeypatch.setattr("podrl.telemetry.event_file.time.time", lambda clock_s=clock_s: clock_s)
            with MetricsWriter(tmp_path, tensorboard=True) as writer:
                writer.write({"loss/total": float(start)}, step=start)
        paths = sorted((tmp_path / "tensorboard").iterdir())
        found = [value.simple_value for path in paths for event in events_of(path) for value in event.summary.value]
        assert found == [0, 1, 2]
        assert all(path.name.startswith("events.out.tfevents.19000000") for path in paths)

    def test_a_file_that_cannot_be_written_is_named_once(self, tmp_path):
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        message = f"The metrics in {tmp_path} cannot be written (No space left on device). What was saved is not"
        with pytest.raises(RuntimeError, match=re.escape(message)), MetricsWriter(tmp_path, tensorboard=True) as writer:
            writer.write({"learner_steps": 1}, step=1)


def _read_events(workdir):
    """The events of the one file."""
    (path,) = (workdir / "tensorboard").glob("events.out.tfevents.*")
    return events_of(path)


def events_of(path):
    """The events of a file: each is framed by its length in 8 bytes and checksums of 4."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


@pytest.fixture
def eager_threads():
    """Makes threads take turns so often that a missing lock shows."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


class TestLedger:
    def test_nested_spends_sum_to_wall_time(self):
        before = time.perf_counter()
        ledger, start = Ledger("actor 0"), time.perf_counter()
        with ledger.spend("env"):
            time.sleep(0.03)
            with ledger.spend("act"), ledger.spend("act"):
                time.sleep(0.05)
                assert ledger.doing()[0] == "act"
            assert ledger.doing()[0] == "env"
            time.sleep(0.03)
        time.sleep(0.02)
        inside = time.perf_counter() - start
        seconds = ledger.seconds()
        assert 0.99 * inside <= sum(seconds.values()) <= 1.01 * (time.perf_counter() - before)
        for bucket, least in {"env": 0.06, "act": 0.05, "other": 0.02}.items():
            assert seconds[bucket] >= least, bucket

    @pytest.mark.usefixtures("eager_threads")
    def test_a_reader_always_sees_all_of_the_time(self):
        ledger = Ledger("actor 0")
        stop = threading.Event()

        def spend():
            while not stop.is_set():
                with ledger.spend("env"), ledger.spend("act"):
                    pass

        thread = threading.Thread(target=spend)
        thread.start()
        try:
            start = time.perf_counter()
            zero, started = sum(ledger.seconds().values()), time.perf_counter()
            last = ledger.seconds()
            for _ in range(2000):
                now = ledger.seconds()
                assert all(now[bucket] >= last[bucket] for bucket in now)  # no bucket gives time back
                last = now
            before = time.perf_counter() - started
            total = sum(ledger.seconds().values()) - zero
            after = time.perf_counter() - start
        finally:
            stop.set()
            thread.join()
        assert 0.99 * before <= total <= 1.01 * after + 1e-3

    def test_an_exception_closes_the_bucket(self):
        ledger = Ledger("learner")
        with pytest.raises(KeyError), ledger.spend("learn"):
            raise KeyError
        assert ledger.doing()[0] == "other"

    def test_doing_names_the_bucket_and_its_seconds(self):
        ledger = Ledger("actor 0")
        with ledger.spend("env"):
            time.sleep(0.02)
            bucket, seconds = ledger.doing()
        assert bucket == "env"
        assert seconds >= 0.02

    def test_an_unknown_bucket_is_an_error_that_lists_the_known(self):
        with pytest.raises(ValueError, match=r"'actor 0' has no bucket 'sleep'. Available: env, other"):
            Ledger("actor 0", buckets=("env",)).spend("sleep")

    def test_shares_of_an_interval(self):
        before = {"env": 1.0, "act": 2.0}
        after = {"env": 4.0, "act": 3.0, "other": 0.0}
        assert shares(before, after) == {"env": 0.75, "act": 0.25, "other": 0.0}
        assert shares(after, after) == {"env": 0.0, "act": 0.0, "other": 0.0}

    def test_pooled_adds_threads_up(self):
        assert pooled([{"env": 1.0, "act": 2.0}, {"env": 3.0}]) == {"env": 4.0, "act": 2.0}
