"""Full pipes: one side writes more than anything between them holds, and the other does not read."""

import contextlib
import time

import gymnasium
import numpy as np
import pytest

from podrl.experience.remote.connection import EnvWorkerError
from tests.experience.remote.places import NUM_ENVS, Place, worker_of
from tests.experience.remote.wire import Wire

BIG = 4_000_000  # Numbers; of four environments 64 MB.


class Wide(gymnasium.Env):
    """Observes or takes more numbers than pipes hold."""

    def __init__(self, observes=1, takes=1):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (observes,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (takes,), np.float32)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action):
        return np.zeros(self.observation_space.shape, np.float32), 1.0, False, False, {}


@pytest.mark.parametrize(
    ("direction", "options"), [("to worker", {"takes": BIG // 2}), ("to learner", {"observes": BIG // 2})]
)
def test_a_full_pipe_ends_the_wait_in_time_and_both_sides_afterwards(tmp_path, monkeypatch, direction, options):
    monkeypatch.setattr("podrl.experience.remote.server._GRACE_S", 0.5)
    env = {"env__source": "gymnasium", "env__id": f"{__name__}:Wide", "env__options": options}
    place = Place(f"unix:{tmp_path}/s", env=env)
    wire = Wire(place.endpoint)
    with place.server, worker_of(place, wire.endpoint) as errors, contextlib.closing(wire):
        pool = place.pool(timeout_s=1.0)
        pool.reset()
        wire.clog(direction)
        begin_s = time.monotonic()
        pool.send(np.zeros((NUM_ENVS, *place.spec.actions.struct.shape), np.float32))
        assert time.monotonic() - begin_s < 1  # A write waits for no reader.
        with pytest.raises(TimeoutError, match=r"environment worker 0 \(.* has not answered for 1 s"):
            pool.recv()
        pool.close()
        with pytest.raises(EnvWorkerError, match="was lost: it did not answer"):
            place.pool()
        place.server.close(1)
        assert time.monotonic() - begin_s < 15
    assert "was lost" in str(errors)


def test_without_a_clog_so_much_passes(tmp_path):
    env = {"env__source": "gymnasium", "env__id": f"{__name__}:Wide", "env__options": {"observes": 100_000}}
    place = Place(f"unix:{tmp_path}/s", env=env)
    wire = Wire(place.endpoint)
    with place.server, worker_of(place, wire.endpoint) as errors, contextlib.closing(wire):
        pool = place.pool(timeout_s=10.0)
        pool.reset()
        for _ in range(3):
            pool.send(np.zeros((NUM_ENVS, 1), np.float32))
            pool.recv()
        assert wire.to_learner > 3 * NUM_ENVS * 4 * 100_000
        pool.close()
        place.server.close(0)
    assert not errors
