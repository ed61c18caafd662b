"""An actor worker by itself: what it does before the learner grants anything."""

import dataclasses
import queue
import threading

import jax
import numpy as np
import pytest

from podrl.assembly import assemble, make_acting_agent
from podrl.experience.programs import make_unroller
from podrl.experience.remote.actor_service import ActingWorker
from podrl.experience.remote.messages import Head, Kind, pack_fields, read_head
from podrl.experience.remote.trees import TreeCodec, to_pieces
from tests.processes import wait_for
from tests.short_runs import make_config


@pytest.fixture
def parts():
    return assemble(make_config(), jax.devices()[:1])


@pytest.fixture
def acting(parts):
    before = threads()
    outgoing = queue.SimpleQueue()
    fields = {
        "channels": {"0": 1},
        "process": 0,
        "layout": dataclasses.asdict(parts.layout),
        "schedule": {"first": 0, "last": 2, "every": 0},
        "takes_newest": False,
        "num_threads": 1,
    }
    worker = ActingWorker(parts.config, fields, outgoing, make_acting_agent, 1)
    assert threads() <= before
    yield worker, outgoing
    worker.stop()


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith(("actor ", "sender "))}


def test_actors_start_with_the_first_grant(parts, acting):
    """Until then other workers compile, for longer than an actor waits for the learner."""
    worker, outgoing = acting
    shape = make_unroller(parts.config, parts.agent, parts.spec, parts.layout).params_shape
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shape)
    for message in to_pieces(Kind.PARAMS, Kind.PART_OF_PARAMS, 0, 0, TreeCodec(shape).encode(params)):
        worker.receive(read_head(message), message)
    for rollout in range(2):
        go = pack_fields(Head(Kind.GO, 1, rollout), version=0)
        worker.receive(read_head(go), go)
    wait_for(lambda: not outgoing.empty())
    assert read_head(outgoing.get()).kind in (Kind.ROLLOUT, Kind.PART_OF_ROLLOUT)


def test_a_worker_that_was_granted_nothing_stops(acting):
    acting[0].stop()
