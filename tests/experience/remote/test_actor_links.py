"""Actor workers that are lost and come back: who makes whose rollouts, and what becomes of these."""

import dataclasses

import jax
import numpy as np
import pytest

from podrl.assembly import assemble
from podrl.experience.actors import ActorError
from podrl.experience.programs import make_unroller
from podrl.experience.remote.actor_channel import Task
from podrl.experience.remote.actor_links import ActorLinks, deal
from podrl.experience.remote.connection import WorkerConnection
from podrl.experience.remote.messages import Head, Kind, pack_fields, read_fields, read_head
from podrl.experience.remote.remote_actor import RemoteActor
from podrl.experience.remote.rollouts import RolloutCodec, SentRollout
from podrl.experience.remote.traffic import Traffic
from podrl.experience.remote.trees import Pieces, to_pieces
from tests.short_runs import make_config

FIRST = 3  # The run's first rollout.


class Server:
    """Admits workers that say at once that they have compiled, unless they are slow.

    Attributes:
        firsts: For each worker that came, what it was told to call its first rollout.
    """

    def __init__(self, count):
        self.firsts, self.workers = [], [None] * count
        for index in range(count):
            self.admit(index)

    def admit(self, index, is_slow=False):
        def send(message):
            head = read_head(message)
            self.firsts.append(read_fields(message)["first"])
            if not is_slow:
                connection.deliver(pack_fields(Head(Kind.STARTED, head.channel, head.number)))

        connection = WorkerConnection(f"worker {len(self.firsts)}", send, lambda: None, Traffic())
        self.workers[index] = connection

    def worker_if_there(self, index):
        return None if self.workers[index].why_lost else self.workers[index]


@pytest.fixture(scope="module")
def parts():
    return assemble(make_config(actors__threads_per_device=2, actors__pools_per_thread=1), jax.devices()[:1])


@pytest.fixture
def case(parts):
    """Two actors, each in a worker of its own, and their codec."""
    rollout = make_unroller(parts.config, parts.agent, parts.spec, parts.layout).state_shape.rollout
    codec = RolloutCodec(rollout, num_pools=1)
    actors = [
        RemoteActor(
            index,
            parts.topology.local_learner,
            0.1,
            first=FIRST,
            env_indices=parts.layout.pools_of(0, index),
            marks_cuts=True,
        )
        for index in range(2)
    ]
    return actors, codec, rollout


def make_links(actors, codec, **settings):
    server = Server(len(actors))
    settings = {"replaces": True, "starting_s": 0.0, "alone_s": 100.0, "wake": lambda: None, **settings}
    links = ActorLinks(server, actors, codec, start_fields, num_workers=len(actors), first=FIRST, **settings)
    links.start_all()
    return server, links


def start_fields(channels, first):
    return {"channels": channels, "first": first}


def send(case, channel, number, version=0):
    """Sends a worker's rollout, which tells of its number by its rewards."""
    _, codec, rollout = case
    trajectory = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), rollout)
    trajectory = dataclasses.replace(trajectory, reward=trajectory.reward + np.float32(number))
    sent = SentRollout(trajectories=(trajectory,), version=version, episodes=(), nonfinite="", spent_s={})
    for message in to_pieces(Kind.ROLLOUT, Kind.PART_OF_ROLLOUT, channel.number, number + 1, codec.encode(sent)):
        assert channel.take_credit(number + 1)
        channel.put(message)


def grant(links, rollouts, actors):
    """Grants rollouts of actors; returns each worker's index, what it calls the rollout, and the rollout."""
    tasks = [Task(rollout, actor) for rollout in rollouts for actor in actors]
    return [(link.index, channel.grant(task), task.rollout) for link, channel, task in deal(tasks, links.present())]


def test_others_make_what_a_lost_worker_owes_and_nothing_is_left_out(case):
    actors, codec, _ = case
    server, links = make_links(actors, codec)
    first, second = (link.channels[0] for link in links.present())
    assert grant(links, [3, 4], actors) == [(0, 3, 3), (1, 3, 3), (0, 4, 4), (1, 4, 4)]
    assert grant(links, [5], actors) == [(0, 5, 5), (1, 5, 5)]
    send(case, first, 3)
    send(case, second, 3)
    server.workers[1].lose("it ended")
    owed = links.take_back()
    assert [(task.rollout, task.actor) for task in owed] == [(4, actors[1]), (5, actors[1])]
    assert [link.index for link in links.present()] == [0]
    assert [channel.grant(task) for _, channel, task in deal(owed, links.present())] == [6, 7]
    assert grant(links, [6], actors) == [(0, 8, 6), (0, 9, 6)]
    for number in range(4, 10):
        send(case, first, number)
    made = [[float(actor.take().trajectories[0].reward[0, 0]) for _ in range(4)] for actor in actors]
    assert made == [[3, 4, 6, 8], [3, 5, 7, 9]]  # Those due first are made first, or some would be too old.
    assert not first.take_credit(11)


def test_a_rollout_for_another_place_is_of_its_environments_and_cut(case, parts):
    actors, codec, _ = case
    server, links = make_links(actors, codec)
    first = links.present()[0].channels[0]
    server.workers[1].lose("it ended")
    links.take_back()
    grant(links, [3, 4], actors)
    for number in range(3, 7):
        send(case, first, number)
    for index, actor in enumerate(actors):
        for _ in range(2):
            (trajectory,) = actor.take().trajectories
            np.testing.assert_array_equal(trajectory.env_index, parts.layout.env_indices(0, index, 0))
            assert np.all(trajectory.first[0])
            assert not np.any(trajectory.first[1:])


def test_a_rollout_that_continues_the_one_before_is_not_cut(case):
    actors, codec, _ = case
    _, links = make_links(actors, codec)
    channel = links.present()[0].channels[0]
    grant(links, [3, 4], actors)
    send(case, channel, 3)
    send(case, channel, 4)
    assert [bool(np.any(actors[0].take().trajectories[0].first[0])) for _ in range(2)] == [True, False]


def test_half_a_rollout_is_never_taken_and_what_comes_too_late_is_dropped(case):
    actors, codec, _ = case
    server, links = make_links(actors, codec)
    channel = links.present()[1].channels[0]
    grant(links, [3], actors)
    channel.put(Head(Kind.PART_OF_ROLLOUT, channel.number, 4).pack() + b"half of it")
    server.workers[1].lose("it ended")
    (task,) = links.take_back()
    channel._pieces = Pieces(codec.longest_bytes)
    send(case, channel, 3)
    assert not actors[1].is_decided()
    first = links.present()[0].channels[0]
    first.grant(task)
    send(case, first, 3)
    send(case, first, 4)
    assert float(actors[1].take().trajectories[0].reward[0, 0]) == 4


def test_a_worker_that_comes_back_opens_other_environments_and_makes_its_own_rollouts(case):
    actors, codec, _ = case
    server, links = make_links(actors, codec)
    for update in (0, 9, 9):
        server.workers[1].lose("it ended")
        assert not links.take_back()
        assert links.look(update) == []
        server.admit(1)
        links.look(update)
        (link,) = links.look(update)
        assert link.held == -1
        assert [each.index for each in links.present()] == [0, 1]
    assert server.firsts == [3, 3, 4, 9, 10]  # Seeds follow from these numbers: none comes twice.
    assert grant(links, [12, 13], actors) == [(0, 3, 12), (1, 10, 12), (0, 4, 13), (1, 11, 13)]
    server.workers[1].lose("it ended")
    links.take_back()
    server.admit(1)
    links.look(9)
    assert server.firsts[-1] == 13


def test_a_worker_that_does_not_compile_in_time_leaves_its_place_to_another(case):
    actors, codec, _ = case
    server, links = make_links(actors, codec)
    server.workers[1].lose("it ended")
    links.take_back()
    server.admit(1, is_slow=True)
    assert links.look(5) == links.look(5) == []
    assert "has not compiled within 0 s" in server.workers[1].why_lost
    links.look(5)
    server.admit(1)
    links.look(5)
    assert [link.index for link in links.look(5)] == [1]


def test_without_any_worker_for_too_long_it_ends(case):
    actors, codec, _ = case
    server, links = make_links(actors, codec, alone_s=0.0)
    server.workers[0].lose("it ended")
    links.take_back()
    links.look(5)
    server.workers[1].lose("it ended")
    links.take_back()
    with pytest.raises(TimeoutError, match="All actor workers have been gone for 0 s"):
        links.look(5)


def test_an_error_loses_a_worker_unless_its_environments_never_were(case):
    actors, codec, _ = case
    server, links = make_links(actors, codec)
    first, second = (link.channels[0] for link in links.present())
    grant(links, [3], actors)
    send(case, first, 3)
    for channel in (first, second):
        channel.put(pack_fields(Head(Kind.FAILED, channel.number, 0), text="it burns"))
    assert "it burns" in server.workers[0].why_lost
    assert server.workers[1].why_lost is None
    with pytest.raises(ActorError, match=r"actor 1 on .* failed: it burns"):
        actors[1].take()
