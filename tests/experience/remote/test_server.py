"""The learner's server and its workers, sound and broken, with workers in this process."""

import dataclasses
import queue
import socket
import threading
import time

import grpc
import jax
import numpy as np
import pytest

from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.loading import load_environment
from podrl.experience.remote.admission import RefusedError, admit, apply
from podrl.experience.remote.connection import EnvWorkerError
from podrl.experience.remote.endpoint import Endpoint
from podrl.experience.remote.messages import METHOD, SERVICE, Head, Kind, pack_fields, read_fields, read_head
from podrl.experience.remote.server import WorkerServer
from podrl.experience.remote.timesteps import TimestepCodec, timestep_shape
from podrl.experience.remote.worker import LostLearnerError, serve_learner
from podrl.runtime.waiting import Stopped
from podrl.types import EnvSpec
from tests.experience.remote.places import NUM_ENVS, SECRET, Place, broken_worker, step_often, worker_of, zeros
from tests.processes import wait_for
from tests.short_runs import make_config


def test_a_pool_in_a_worker_steps_and_counts_its_bytes(place):
    with worker_of(place):
        pool = place.pool()
        timestep = pool.reset()
        assert timestep.first.all()
        before = dict(place.server.traffic.bytes)
        for _ in range(10):
            pool.send(np.zeros(NUM_ENVS, np.int32))
            timestep = pool.recv()
        assert not timestep.first.flags.writeable
        pool.close()
        pool.close()
        with pytest.raises(RuntimeError, match="after close"):
            pool.send(np.zeros(NUM_ENVS, np.int32))
        traffic = place.server.traffic
    received = (traffic.bytes[Kind.STEP] - before[Kind.STEP]) / 10
    sent = traffic.bytes[Kind.ACT] / 10
    assert received == place.codec.layout.size_bytes
    assert sent <= 4 * NUM_ENVS + 40
    totals = traffic.totals()
    assert totals["remote/messages/step"] == totals["remote/messages/act"] + 1 == 11
    assert totals["remote/bytes/act"] == 10 * sent
    assert totals["remote/bytes_in"] == totals["remote/bytes/step"] + totals["remote/bytes/closed"]
    assert totals["remote/messages_in"] == totals["remote/messages_out"] == 12
    assert "remote/messages/failed" not in totals


def test_an_atari_step_is_a_frame_and_at_most_sixteen_bytes_more():
    """One direction; the other has actions alone. With 16 environments in a pool."""
    frame = jax.ShapeDtypeStruct((84, 84, 1), np.uint8)
    spec = EnvSpec(id="Pong-v5", observation=frame, actions=load_environment(make_config())[2].actions)
    assert TimestepCodec(timestep_shape(spec, 16)).layout.size_bytes <= 16 * (7056 + 16)


@pytest.mark.parametrize(
    ("answers", "match"),
    [
        (lambda head: [None], "its process ended"),
        (lambda head: [b"?"], "1 bytes are no message"),
        (lambda head: [Head(Kind.STEP, head.channel, head.number + 1).pack()], "nothing asked for"),
        (lambda head: [Head(Kind.STEP, head.channel + 1, head.number).pack()], "nothing asked for"),
        (lambda head: [Head(Kind.OPEN, head.channel, head.number).pack()], "nothing asked for"),
        (lambda head: [Head(Kind.STEP, head.channel, head.number).pack() + b"\x01\x00"], "another timestep than"),
        (lambda head: [Head(Kind.CLOSED, head.channel, head.number).pack()], "CLOSED instead of STEP"),
        (lambda head: [pack_fields(Head(Kind.FAILED, head.channel, head.number), text="it burns")], "failed: it burns"),
    ],
)
def test_a_worker_that_breaks_the_protocol_is_named(place, answers, match):
    with broken_worker(place, answers):
        pool = place.pool()
        with pytest.raises(EnvWorkerError, match=rf"environment worker 0 \(.*, process \d+\).*{match}"):
            pool.reset()
        pool.close()


def test_a_second_answer_to_one_request_ends_the_connection(place):
    def answers(head):
        return [zeros(place, head)] * 2

    with broken_worker(place, answers):
        pool = place.pool()
        pool.reset()
        with pytest.raises(EnvWorkerError, match="nothing asked for"):
            step_often(pool)
        pool.close()


def test_a_worker_that_does_not_answer_is_given_up_in_time(place):
    def answers(head):  # To the reset, and not to the step.
        return [zeros(place, head)] if head.kind == Kind.OPEN else []

    with broken_worker(place, answers):
        pool = place.pool(timeout_s=0.2)
        pool.reset()
        pool.send(np.zeros(NUM_ENVS, np.int32))
        with pytest.raises(TimeoutError, match=r"environment worker 0 \(.* has not answered for 0.2 s.*timeout_s"):
            pool.recv()
        pool.close()
        with pytest.raises(EnvWorkerError, match="did not answer within"):
            place.pool()


def test_environments_that_close_late_are_left_to_do_so(place, monkeypatch):
    monkeypatch.setattr("podrl.experience.remote.pool.CLOSING_S", 0.1)
    late = []

    def answers(head):
        if head.kind == Kind.CLOSE:
            late.append(Head(Kind.CLOSED, head.channel, head.number).pack() + b"{}")
            return []
        return [*late, zeros(place, head)]

    with broken_worker(place, answers):
        pool = place.pool()
        pool.reset()
        pool.close()
        following = place.pool()
        following.reset()
        with pytest.raises(EnvWorkerError, match=r"nothing asked for \(CLOSED"):  # It comes again.
            step_often(following)
        following.close()


def test_a_worker_tries_again_while_strangers_have_all_places(tmp_path, monkeypatch):
    monkeypatch.setattr("podrl.experience.remote.server.PLACES_FOR_STRANGERS", 1)
    monkeypatch.setattr("podrl.experience.remote.worker._PAUSE_S", 0.1)
    place = Place(f"unix:{tmp_path}/s")
    with place.server, grpc.insecure_channel(place.endpoint.target) as channel:
        silent = queue.SimpleQueue()
        strangers = [channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter(silent.get, None)) for _ in range(2)]
        assert [read_head(next(stranger)).kind for stranger in strangers] == [Kind.NONCE, Kind.NONCE]
        with worker_of(place) as errors:
            with pytest.raises(TimeoutError):
                place.server.wait(timeout_s=0.5)
            for stranger in strangers:
                stranger.cancel()
                silent.put(None)
            place.server.wait(timeout_s=10)
        assert not errors


def test_a_worker_that_leaves_before_the_others_come_keeps_no_place(tmp_path, caplog):
    place = Place(f"unix:{tmp_path}/s", num_workers=2)
    with place.server:
        with broken_worker(place, lambda head: []) as leave:
            with pytest.raises(TimeoutError, match="1 of 2"):
                place.server.wait(timeout_s=0.3)
            leave()
            wait_for(lambda: place.server.worker(0).why_lost)
            with pytest.raises(TimeoutError, match="0 of 2"):
                place.server.wait(timeout_s=0.1)
            assert any("environment worker 0" in line and "left before all" in line for line in caplog.messages)
            with worker_of(place) as first, worker_of(place) as second:
                place.server.wait(timeout_s=20)
        assert not first + second


def test_a_stop_ends_the_wait_for_workers_at_once(place):
    waits = threading.Timer(0.1, place.server.stop_waiting)
    waits.start()
    begin_s = time.monotonic()
    with pytest.raises(Stopped):
        place.server.wait(timeout_s=60)
    assert time.monotonic() - begin_s < 10


def test_missing_workers_are_counted(place):
    with pytest.raises(TimeoutError, match=r"0 of 1 environment workers came to unix:.* within 0.1 s"):
        place.server.wait(timeout_s=0.1)


def test_a_worker_too_many_and_one_without_the_secret_are_told(place):
    with worker_of(place):
        place.server.wait(timeout_s=20)
        with pytest.raises(ConfigError, match="this run has its 1 environment workers"):
            serve_learner(place.endpoint, SECRET, wait_s=20)
        with pytest.raises(ConfigError, match="has another job secret"):
            serve_learner(place.endpoint, b"another secret of this length", wait_s=20)
    assert place.server.refusals.count == 2


def test_a_worker_that_comes_as_the_run_ends_has_made_no_mistake(place, monkeypatch):
    closing = threading.Thread(target=place.server.close, args=(0,), daemon=True)

    def come_late(secret, role):
        dialogue = apply(secret, role)
        message = next(dialogue)
        while True:
            received = yield message
            if closing.ident is None:
                closing.start()
                with pytest.raises(Stopped):
                    place.server.wait(timeout_s=20)
            message = dialogue.send(received)

    monkeypatch.setattr("podrl.experience.remote.worker.apply", come_late)
    with pytest.raises(LostLearnerError, match="takes no more workers: the learner refused it: this run ends"):
        serve_learner(place.endpoint, SECRET, wait_s=20)
    closing.join(20)
    assert not closing.is_alive()


def test_a_worker_whose_learner_ends_says_so(tmp_path):
    with pytest.raises(LostLearnerError, match=r"No learner answered at unix:.* within 0.1 s"):
        serve_learner(Endpoint(f"unix:{tmp_path}/s"), SECRET, wait_s=0.1)


def test_a_socket_that_another_job_has_is_refused(place):
    second = WorkerServer(place.endpoint, SECRET, {}, num_workers=1, longest_bytes=1000)
    with pytest.raises(ConfigError, match=r"remote\.address=unix:.* cannot be listened at"):
        second.__enter__()


def test_an_address_that_another_job_has_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = Endpoint(f"127.0.0.1:{taken.getsockname()[1]}")
        server = WorkerServer(endpoint, SECRET, {}, num_workers=1, longest_bytes=1000)
        with pytest.raises(ConfigError, match=r"remote\.address=127.* cannot be listened at"):
            server.__enter__()


@pytest.mark.parametrize("theirs", [{"protocol": 99}, {"podrl": "9.9"}, {"config": "other"}, {"role": "actor worker"}])
def test_another_version_or_config_is_named_by_both_sides(monkeypatch, theirs):
    env = dataclasses.asdict(EnvConfig(id="Catch-v0"))
    learner, worker = admit(SECRET, env), apply(SECRET)
    next(worker)
    proof = worker.send(next(learner))
    welcome = learner.send(proof)
    ready = worker.send(pack_fields(Head(Kind.WELCOME), **{**read_fields(welcome), **theirs}))
    with pytest.raises(RefusedError, match=r"the learner .*(install the same podrl|start the other program)"):
        worker.send(pack_fields(Head(Kind.ADMITTED), index=0))
    with pytest.raises(RefusedError, match=r"it .*(install the same podrl|start the other program)"):
        learner.send(pack_fields(Head(Kind.READY), **{**read_fields(ready), **theirs}))
