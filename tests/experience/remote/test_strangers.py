"""The learner's server against strangers, who change nothing for the pools behind it."""

import collections
import contextlib
import gc
import os
from pathlib import Path
import queue
import socket

import grpc
import jax
import numpy as np
import pytest

from podrl.envs.opening import make_pool
from podrl.envs.source import load_source
from podrl.experience.remote.admission import admit, apply
from podrl.experience.remote.env_workers import longest_bytes
from podrl.experience.remote.messages import METHOD, SERVICE, Head, Kind, pack_fields, read_head
from tests.experience.remote.places import NUM_ENVS, SECRET, Place, step_often, worker_of

NOISE = (
    *("nothing", "noise", "a wrong proof", "no object", "deep", "long", "another kind"),
    *("a replayed proof", "a truncated proof"),
)


def hostile(kind, rng, replayed, too_long):
    nonce, proof = "0" * 64, "f" * 64
    return {
        "nothing": b"",
        "noise": rng.bytes(int(rng.integers(1, 300))),
        "a wrong proof": pack_fields(Head(Kind.PROOF), nonce=nonce, proof=proof),
        "no object": Head(Kind.PROOF).pack() + b"[1, 2]",
        "deep": Head(Kind.PROOF).pack() + b'{"a":' * 200,
        "long": Head(Kind.PROOF).pack() + b'{"nonce": "' + b"x" * 5000 + b'"}',
        "another kind": pack_fields(Head(Kind.READY), host="h", pid=1),
        "a replayed proof": replayed,
        "a truncated proof": replayed[: int(rng.integers(1, len(replayed)))],
        "an oversized message": too_long,
    }[kind]


def resident_bytes():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def assert_like_a_pool_of_its_own(place, seen):
    numbers = {"seeds": range(NUM_ENVS), "env_numbers": range(NUM_ENVS)}
    pool = make_pool(load_source(place.config.env.source), place.config.env, **numbers, num_threads=1)
    timestep = pool.reset()
    for index, other in enumerate(seen, 1):
        jax.tree.map(np.testing.assert_array_equal, timestep, other)
        pool.send(np.full(NUM_ENVS, index % 3, np.int32))
        timestep = pool.recv()
    pool.close()


@pytest.mark.parametrize("count", [1200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_messages_of_strangers_change_nothing(place, caplog, count):
    """They come while a pool steps, which returns what it would without them.

    None is answered with more than a nonce and a refusal; memory stays flat.
    """
    rng = np.random.default_rng(0)
    dialogue = admit(SECRET, {"options": {}})
    apply_one = apply(SECRET)
    next(apply_one)
    replayed = apply_one.send(next(dialogue))
    too_long, every = bytes(longest_bytes(place.codec.layout) + 1), 100 if count > 5000 else 300
    found = collections.Counter()
    with worker_of(place) as errors:
        pool = place.pool()
        seen = [pool.reset()]
        with grpc.insecure_channel(place.endpoint.target) as channel:
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")

            def knock(count):
                for index in range(count):
                    if index % 50 == 0:
                        pool.send(np.full(NUM_ENVS, len(seen) % 3, np.int32))
                        seen.append(pool.recv())
                    # Of long ones gRPC refuses many by itself, and lets their sender wait.
                    kind = "an oversized message" if index % every == every - 1 else NOISE[index % len(NOISE)]
                    message = hostile(kind, rng, replayed, too_long)
                    stream = call(iter([message]), timeout=20)
                    try:
                        found.update(read_head(answer).kind for answer in stream)
                    except grpc.RpcError as error:
                        found[error.code()] += 1

            knock(count // 2)
            before = resident_bytes()
            knock(count - count // 2)
            grown = resident_bytes() - before
        pool.close()
    assert not errors
    assert_like_a_pool_of_its_own(place, seen)
    unheard = found.pop(grpc.StatusCode.UNAVAILABLE, 0)
    assert set(found) == {Kind.NONCE, Kind.REFUSED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert unheard <= count / 100
    assert place.server.refusals.count == count - unheard
    assert grown < (5e6 if count > 5000 else 16e6)  # Buffers for long messages grow at first, to less than 32 of them.
    told = [line.rpartition(": ")[2] for line in caplog.messages if "Refused a connection" in line]
    expected = {"it does not have the job's secret.", "what it said is not podrl's."}
    # gRPC drops a message that is too long, with its stream.
    dropped = {"it left, or gave no proof in time.", "it left without a proof."}
    assert expected < set(told) <= expected | dropped
    assert len(told) == len(set(told))


def test_a_crowd_of_strangers_and_messages_that_are_too_long_change_nothing(place):
    too_long = bytes(longest_bytes(place.codec.layout) + 1)
    with worker_of(place) as errors, contextlib.ExitStack() as stack:
        pool = place.pool()
        pool.reset()
        silent = queue.SimpleQueue()
        for _ in range(40):
            own = [("grpc.use_local_subchannel_pool", 1)]  # A connection of its own.
            channel = stack.enter_context(grpc.insecure_channel(place.endpoint.target, own))
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")
            call(iter(silent.get, None))
            stack.callback(silent.put, None)
            call(iter([too_long]), timeout=20)
        step_often(pool)
        pool.close()
    assert not errors
    assert place.server.refusals.count


def test_garbage_at_a_port_changes_nothing():
    """Bytes that are no HTTP/2, and connections that say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place, rng = Place(f"127.0.0.1:{port}"), np.random.default_rng(0)
    with place.server, worker_of(place) as errors, contextlib.ExitStack() as stack:
        pool = place.pool()
        pool.reset()
        for index in range(200):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            with contextlib.suppress(ConnectionError):
                stranger.sendall(rng.bytes(index * 10))
        step_often(pool)
        pool.close()
    assert not errors
