"""How long each side endures the other's silence, with a wire in between that stops carrying anything."""

import contextlib
import os
import socket
import time

import numpy as np
import pytest

from podrl.experience.remote import grpc_options
from podrl.experience.remote.connection import EnvWorkerError
from podrl.experience.remote.endpoint import UNIX
from podrl.experience.remote.grpc_options import server_options, worker_options
from tests.experience.remote.places import NUM_ENVS, Place, step_often, worker_of
from tests.experience.remote.wire import Wire


@pytest.fixture
def quick(monkeypatch):
    """Pings at once; both sides endure ten minutes of silence."""
    monkeypatch.setattr(grpc_options, "PING_EVERY_S", 0.1)
    monkeypatch.setattr(grpc_options, "SERVERS_MARGIN_S", 600)


def test_a_worker_gives_up_a_silent_learner_after_its_own_limit(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(grpc_options, "WORKERS_LIMIT_S", 0.5)
    place = Place(f"{UNIX}{tmp_path}/s")
    wire = Wire(place.endpoint)
    with place.server, worker_of(place, wire.endpoint) as errors, contextlib.closing(wire):
        place.pool().reset()  # The worker knows that it is admitted.
        wire.silence()
        deadline_s = time.monotonic() + 15
        while not errors and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert "was lost" in str(errors)


def test_the_learner_gives_up_a_silent_worker_once_no_answer_could_come(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(grpc_options, "SERVERS_MARGIN_S", 0.2)
    place = Place(f"{UNIX}{tmp_path}/s", longest_answer_s=0.3)
    wire = Wire(place.endpoint)
    with place.server, worker_of(place, wire.endpoint), contextlib.closing(wire):
        pool = place.pool(timeout_s=15.0)
        pool.reset()
        wire.silence()
        pool.send(np.zeros(NUM_ENVS, np.int32))
        with pytest.raises(EnvWorkerError, match="its host does not answer"):
            pool.recv()
        pool.close()


LIMITS_OF_PINGS = ("grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")


@pytest.mark.parametrize("longest_answer_s", [1.0, 120.0, 1e6])
def test_the_limit_of_an_answer_comes_before_that_of_pings(longest_answer_s):
    options = dict(server_options(1000, longest_answer_s, 1))
    for name in LIMITS_OF_PINGS:
        assert 1000 * longest_answer_s < options[name] < 2**31


def test_a_worker_endures_ten_minutes():
    options = dict(worker_options(1000))
    assert [options[name] for name in LIMITS_OF_PINGS] == [600_000, 600_000]


def test_silent_connections_take_few_descriptors_and_change_nothing():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = Place(f"127.0.0.1:{port}")
    with place.server, worker_of(place), contextlib.ExitStack() as stack:
        pool = place.pool()
        pool.reset()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        step_often(pool)
        time.sleep(0.3)
        assert len(os.listdir("/proc/self/fd")) - before - 300 < 100
        pool.close()
