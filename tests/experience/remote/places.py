"""A server of one worker at a place of its own, and workers for it, sound and broken, as threads of this process."""

import contextlib
import dataclasses
import queue
import threading

import grpc
import numpy as np

from podrl.envs.loading import load_environment
from podrl.experience.remote.admission import apply
from podrl.experience.remote.endpoint import Endpoint
from podrl.experience.remote.env_workers import longest_bytes
from podrl.experience.remote.messages import METHOD, SERVICE, Head, Kind, read_head
from podrl.experience.remote.pool import RemotePool
from podrl.experience.remote.server import WorkerServer
from podrl.experience.remote.timesteps import TimestepCodec, timestep_shape
from podrl.experience.remote.worker import LostLearnerError, serve_learner
from tests.short_runs import make_config

SECRET = b"a secret that all tests know"
NUM_ENVS = 4


class Place:
    """A server of one worker, and what its pools need; `env` overrides keys of the config."""

    def __init__(self, address, env=None, certificates="", **limits):
        self.config, _, self.spec = load_environment(make_config(**(env or {})))
        self.endpoint = Endpoint(address, certificates)
        self.codec = TimestepCodec(timestep_shape(self.spec, NUM_ENVS))
        self.server = WorkerServer(
            self.endpoint,
            SECRET,
            dataclasses.asdict(self.config.env),
            **{"num_workers": 1, "longest_bytes": longest_bytes(self.codec.layout), **limits},
        )

    def pool(self, timeout_s=20.0, join_s=20.0):
        self.server.wait(timeout_s=join_s)
        arguments = {"seeds": range(NUM_ENVS), "env_numbers": range(NUM_ENVS), "num_threads": 1, "num_pools": 1}
        return RemotePool(self.server.worker(0), self.codec, **arguments, timeout_s=timeout_s, opening_s=20.0)


@contextlib.contextmanager
def worker_of(place, endpoint=None):
    """A worker in a thread; at another endpoint if there is one between; yields a list that gets its error."""
    errors = []

    def serve():
        try:
            serve_learner(endpoint or place.endpoint, SECRET, wait_s=20)
        except LostLearnerError as error:
            errors.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield errors
    finally:
        place.server.close(0)
        thread.join(20)
    assert not thread.is_alive()


@contextlib.contextmanager
def broken_worker(place, answers):
    """One that proves the secret, and sends what `answers` makes of each request.

    None ends its stream, and so does what is yielded.
    """
    outgoing = queue.SimpleQueue()

    def run():
        dialogue = apply(SECRET)
        next(dialogue)
        with grpc.insecure_channel(place.endpoint.target) as channel, contextlib.suppress(grpc.RpcError):
            for message in channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter(outgoing.get, None)):
                try:
                    outgoing.put(dialogue.send(message))
                except StopIteration:
                    for answer in [] if read_head(message).kind == Kind.ADMITTED else answers(read_head(message)):
                        outgoing.put(answer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield lambda: outgoing.put(None)
    finally:
        outgoing.put(None)
        place.server.close(1)
        thread.join(20)
    assert not thread.is_alive()


def zeros(place, head):
    """A timestep as the answer to a request."""
    arrays = [np.zeros(spec.shape, spec.dtype) for spec in place.codec.layout.specs]
    return place.codec.layout.encode(Head(Kind.STEP, head.channel, head.number).pack(), arrays)


def step_often(pool):
    for _ in range(100):
        pool.send(np.zeros(NUM_ENVS, np.int32))
        pool.recv()
