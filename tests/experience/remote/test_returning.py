"""Workers that are lost and come back, in this process: seats, the launcher's restarts, and a run in between."""

import contextlib
import socket
import time

import jax
import numpy as np
import pytest

from podrl.config.config import MISTAKE
from podrl.experience.remote import worker
from podrl.experience.remote.connection import EnvWorkerError
from podrl.experience.remote.env_workers import EnvWorkers
from podrl.experience.remote.server import WorkerServer
from podrl.experience.remote.worker import LostLearnerError, serve_learner
from podrl.launch.env_workers import env_workers_beside
from podrl.loops import sebulba
from tests.experience.remote.in_process import env_workers, remote_config
from tests.experience.remote.places import SECRET, Place, broken_worker, worker_of
from tests.launch.test_env_workers import members
from tests.processes import wait_for
from tests.short_runs import run


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(worker, "_PAUSE_S", 0.05)


@pytest.fixture
def place(tmp_path):
    place = Place(f"unix:{tmp_path}/s", replaces=True)
    with place.server:
        yield place


def test_a_lost_worker_is_named_once_and_comes_back_by_itself(place, caplog):
    with worker_of(place) as errors:
        pool = place.pool()
        pool.reset()
        first = place.server.worker(0)
        pool.lose("a test says so")
        with pytest.raises(EnvWorkerError, match="a test says so"):
            pool.recv() if pool.send(np.zeros(4, np.int32)) else None
        pool.close()
        wait_for(lambda: place.server.worker_if_there(0) not in (None, first))
        following = place.pool()
        assert following.reset().first.all()
        following.close()
    assert not errors
    assert sum("was lost: a test says so. Waits for another" in line for line in caplog.messages) == 1


def test_a_worker_without_a_seat_waits_for_one(place):
    with broken_worker(place, lambda head: []) as leave:
        place.server.wait(timeout_s=20)
        with pytest.raises(LostLearnerError, match=r"has had no place for this worker for 0\.3 s"):
            serve_learner(place.endpoint, SECRET, wait_s=0.3)
        assert place.server.refusals.count == 0  # It asked several times.
        with worker_of(place) as errors:
            time.sleep(0.2)
            first = place.server.worker(0)
            leave()
            wait_for(lambda: place.server.worker_if_there(0) not in (None, first))
        assert not errors


FALLING = """
import os, pathlib, sys, time
folder = pathlib.Path(__file__).parent
(folder / f"{os.getpid()}.json").touch()
if len(list(folder.glob("*.json"))) < 3:
    sys.exit(CODE)
time.sleep(60)
"""


class Clock:
    """Time that passes only in sleep."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


@pytest.mark.parametrize(("losses", "expected_s"), [(3, [8, *range(9, 19)]), (8, [19])])
def test_pauses_count_as_waiting_and_are_short_where_all_places_are_taken(monkeypatch, losses, expected_s):
    """After many losses the pause is long; a worker still waits `wait_s` from the last loss on, and no longer."""
    clock, tries_s = Clock(), []
    monkeypatch.setattr(worker, "time", clock)
    monkeypatch.setattr("podrl.runtime.waiting.time", clock)
    monkeypatch.setattr(worker, "_PAUSE_S", 1.0)

    def attend(endpoint, secret, role, serve, wait_s, patience):
        tries_s.append(clock.now_s)
        if len(tries_s) <= losses:
            raise worker._ReturnError("lost")
        if patience.left_s() <= 2.0:
            raise LostLearnerError("no place")

    monkeypatch.setattr(worker, "_attend", attend)
    with pytest.raises(LostLearnerError, match="no place"):
        worker.attend(None, b"", None, None, wait_s=20.0)
    assert [try_s - tries_s[losses - 1] for try_s in tries_s[losses:]] == pytest.approx(expected_s)


def impatient_launcher(monkeypatch):
    monkeypatch.setattr("podrl.launch.env_workers._PAUSE_S", 0.1)
    monkeypatch.setattr("podrl.launch.worker_watch._PAUSE_S", 0.1)


@contextlib.contextmanager
def listening(member):
    """Listens where the workers come to, as a run does until it has ended."""
    address = member.command[-1].partition("=")[2].removeprefix("unix:")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        yield


@pytest.mark.parametrize(
    ("replaces", "code", "count"),
    [
        (True, 3, 3),
        pytest.param(True, MISTAKE, 1, marks=pytest.mark.slow),
        pytest.param(False, 3, 1, marks=pytest.mark.slow),
    ],
)
def test_the_launcher_starts_a_dead_worker_again_unless_it_is_of_no_use(tmp_path, monkeypatch, replaces, code, count):
    impatient_launcher(monkeypatch)
    program = tmp_path / "falling.py"
    program.write_text(FALLING.replace("CODE", str(code)))
    with env_workers_beside(members(1), 1, replaces=replaces, program=program) as (member,), listening(member):
        wait_for(lambda: len(list(tmp_path.glob("*.json"))) == count)
        time.sleep(0 if count > 1 else 1)
    assert len(list(tmp_path.glob("*.json"))) == count


def test_the_launcher_starts_no_worker_again_once_the_run_has_ended(tmp_path, monkeypatch, caplog):
    """Those that are told that it has failed end with exit code 1."""
    impatient_launcher(monkeypatch)
    program = tmp_path / "falling.py"
    program.write_text(FALLING.replace("CODE", "1"))
    with env_workers_beside(members(1), 1, replaces=True, program=program):
        wait_for(lambda: any("ended with exit code 1" in line for line in caplog.messages))
        time.sleep(0.5)
    assert len(list(tmp_path.glob("*.json"))) == 1
    assert not any("Starts another" in line for line in caplog.messages)


CLOSING = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(__file__).parent
def close(*_):
    time.sleep(0.5)
    (folder / "closed").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, close)
(folder / f"{os.getpid()}.json").touch()
if len(list(folder.glob("*.json"))) < 2:
    sys.exit(3)
time.sleep(60)
"""


def test_workers_that_were_started_again_may_close_what_is_open(tmp_path, monkeypatch, caplog):
    """The kernel kills a process once the thread has ended that started it."""
    impatient_launcher(monkeypatch)
    program = tmp_path / "closing.py"
    program.write_text(CLOSING)
    with env_workers_beside(members(1), 1, replaces=True, program=program) as (member,), listening(member):
        wait_for(lambda: len(list(tmp_path.glob("*.json"))) == 2)
    assert (tmp_path / "closed").exists()


def test_a_server_that_has_told_its_workers_the_end_listens_no_more(place):
    assert place.endpoint.is_taken()
    place.server.close(1)
    assert not place.endpoint.is_taken()


def test_a_run_goes_on_while_its_workers_leave_and_return(tmp_path, monkeypatch, caplog):
    """All batches are whole, each unroll is of one opening, and no seed is used twice."""
    seen, seeds, servers = [], [], []
    join, open_group, find = sebulba.join_rollouts, EnvWorkers.open_group, WorkerServer.worker_if_there

    def record_batch(rollouts, topology):
        joined = join(rollouts, topology)
        seen.extend(jax.device_get(trajectory) for trajectory in joined)
        return joined

    def record_seeds(self, indices, own, notify, **more):
        opened = open_group(self, indices, own, notify, **more)
        seeds.extend(own if opened else ())
        return opened

    def record_server(self, index):
        servers[:] = [self]
        return find(self, index)

    def cut(update):
        if update in (5, 15, 30):
            with contextlib.suppress(AttributeError):
                servers[0].worker_if_there(update % 2).lose("a test says so")

    monkeypatch.setattr(sebulba, "join_rollouts", record_batch)
    monkeypatch.setattr(EnvWorkers, "open_group", record_seeds)
    monkeypatch.setattr(WorkerServer, "worker_if_there", record_server)
    options = {"env__source": "tests.envs.scripted", "env__options": {"episode_lengths": (3, 5), "sleep_s": 0.01}}
    settings = {"determinism": "free", "actors__pools_per_thread": 4, "total_env_steps": 40 * 32}
    with env_workers(tmp_path, monkeypatch) as said:
        _, rows = run(remote_config(tmp_path, **options, **settings), before_update=cut)
    assert not said
    assert len(rows) == 40
    assert len(seen) == 160
    for trajectory in seen:
        step = trajectory.observation[..., 2]
        np.testing.assert_array_equal(step[1:], np.where(trajectory.first[1:], 0, step[:-1] + 1))
        np.testing.assert_array_equal(trajectory.reward, step[1:])
        assert (np.diff(trajectory.observation[..., 1], axis=0) >= 0).all()  # Episodes of one opening.
    assert len(seeds) >= 8 + 3 * 4
    assert len(set(seeds)) == len(seeds)
    assert sum("was lost: a test says so" in line for line in caplog.messages) == 3
