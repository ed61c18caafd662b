"""Which unrolls an update learns from, when groups finish them in any order."""

import random

import pytest

from podrl.experience.remote.unroll_queue import UnrollQueue


def numbers(placed):
    return [(each.unroll.group, each.unroll.number) for each in placed]


def unrolls(queue, group, count, version=0, update=0):
    for _ in range(count):
        assert queue.begin(group, version, update) is not None
        queue.finish(group)


def test_a_batch_has_the_unrolls_that_were_whole_first():
    queue = UnrollQueue(3, max_lag=2)
    for group in (2, 0):
        unrolls(queue, group, 1)
    assert not queue.is_complete(0)
    unrolls(queue, 2, 1)
    queue.begin(1, 0, 0)
    assert queue.is_complete(0)
    assert sorted(numbers(queue.take())) == [(0, 0), (2, 0), (2, 1)]


def test_places_continue_and_others_are_cut():
    queue = UnrollQueue(3, max_lag=2)
    for group in (2, 1, 0):
        unrolls(queue, group, 1)
    first = queue.take()
    assert numbers(first) == [(0, 0), (1, 0), (2, 0)]
    assert not any(each.is_cut for each in first)
    unrolls(queue, 1, 2, version=1, update=1)
    unrolls(queue, 0, 1, version=1, update=1)
    second = queue.take()
    assert numbers(second) == [(0, 1), (1, 1), (1, 2)]
    assert [each.is_cut for each in second] == [False, False, True]
    unrolls(queue, 1, 1, version=2, update=2)
    for group in (0, 2):
        unrolls(queue, group, 1, version=2, update=2)
    third = queue.take()
    assert numbers(third) == [(0, 2), (2, 1), (1, 3)]  # Group 1 has kept its newest place.
    assert [each.is_cut for each in third] == [False, True, False]


def test_an_update_waits_for_an_unroll_that_would_be_too_old_for_the_next():
    queue = UnrollQueue(2, max_lag=1)
    queue.begin(1, 0, 1)
    queue.begin(0, 1, 1)
    queue.finish(0)
    unrolls(queue, 0, 1, version=1, update=1)
    assert not queue.is_complete(1)
    queue.finish(1)
    assert queue.is_complete(1)
    assert numbers(queue.take()) == [(0, 0), (1, 0)]
    assert not queue.is_complete(2)


def test_a_lost_group_is_not_waited_for_and_what_it_had_whole_remains():
    queue = UnrollQueue(2, max_lag=0)
    unrolls(queue, 1, 1)
    queue.begin(1, 0, 0)
    assert queue.begin(0, 0, 0) is None  # Both places of the batch have their unrolls.
    queue.drop(1)
    queue.drop(1)
    unrolls(queue, 0, 1)
    assert queue.is_complete(0)
    placed = queue.take()
    assert numbers(placed) == [(0, 0), (1, 0)]
    unrolls(queue, 1, 2, version=1, update=1)
    assert [each.is_cut for each in queue.take()] == [True, True]


@pytest.mark.parametrize("max_lag", [0, 1, 2, 4])
def test_whatever_the_order_no_row_is_too_old_and_no_buffer_is_used_twice(max_lag):
    """Groups of different speeds, of which some are lost, and a learner that lags behind at random."""
    rng = random.Random(max_lag)
    num_groups = 5
    queue, learned, version, stuck = UnrollQueue(num_groups, max_lag=max_lag), 0, 0, 0
    left = [0] * num_groups  # Steps until the unroll is whole; 0 if none is under way.
    buffers = [None] * num_groups
    for update in range(300):
        while not queue.is_complete(update):
            stuck += 1
            assert stuck < 10_000
            if learned < update and rng.random() < 0.3:
                learned += 1
            version = max(version, rng.randint(version, learned))
            for group in range(num_groups):
                if left[group] > 0:
                    stuck = 0
                    left[group] -= 1
                    if not left[group]:
                        queue.finish(group)
                        buffers[group] = None
                    elif rng.random() < 0.01:
                        queue.drop(group)
                        left[group], buffers[group] = 0, None
                elif (unroll := queue.begin(group, version, update)) is not None:
                    assert unroll.buffer not in buffers
                    buffers[group], left[group] = unroll.buffer, rng.randint(1, 1 + 5 * group)
        placed = queue.take()
        assert len({each.unroll.buffer for each in placed}) == num_groups
        assert len(set(numbers(placed))) == num_groups
        assert all(update - max_lag <= each.unroll.version <= update for each in placed)
