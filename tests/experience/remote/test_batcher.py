"""Dynamic batching: nothing is lost or overtaken, and nothing waits longer than the limit and one batch."""

import collections
import threading

import pytest

from podrl.experience.remote.batcher import Batcher
from podrl.runtime.waiting import Stopped

NUM_THREADS, ENVS_OF_EACH, REQUESTS_OF_EACH = 5, 4, 500  # 10,000 requests.
FOREVER = 10**6


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def test_of_ten_thousand_requests_none_is_lost_or_overtaken_within_an_environment():
    batcher = Batcher(6, 16, limit_s=0.001)

    def put(thread):
        for number in range(REQUESTS_OF_EACH):
            for env in range(ENVS_OF_EACH):
                batcher.put((thread, env, number), 1)

    threads = [threading.Thread(target=put, args=(thread,), daemon=True) for thread in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    total, sizes, served = NUM_THREADS * ENVS_OF_EACH * REQUESTS_OF_EACH, [], collections.defaultdict(list)
    while sum(sizes) < total:
        batch = batcher.take(timeout_s=30, expected=FOREVER)
        assert batch
        sizes.append(len(batch))
        for thread, env, number in batch:
            served[thread, env].append(number)
    assert max(sizes) <= 16
    assert list(served.values()) == [list(range(REQUESTS_OF_EACH))] * (NUM_THREADS * ENVS_OF_EACH)
    assert batcher.take(timeout_s=0, expected=FOREVER) == []


def test_a_request_waits_no_longer_than_the_limit_and_one_batch():
    """Requests come at every tick; a batch takes three ticks to serve. The clock is the test's own."""
    clock, served = Clock(), {}
    batcher = Batcher(50, 64, limit_s=10, clock=clock)
    free_s = number = 0
    while len(served) < 10_000:
        batcher.put((number, clock.now_s), 1)
        number += 1
        clock.now_s += 1
        if clock.now_s >= free_s and (batch := batcher.take(timeout_s=0, expected=FOREVER)):
            free_s = clock.now_s + 3
            served |= {request: clock.now_s - put_s for request, put_s in batch}
    assert max(served.values()) <= 10 + 3
    assert min(collections.Counter(served.values())) < 10  # Those that came later.


def test_a_batch_is_taken_once_it_has_the_smallest_size_and_before_that_at_the_limit():
    clock = Clock()
    batcher = Batcher(4, 8, limit_s=1, clock=clock)
    batcher.put("a", 3)
    assert batcher.take(timeout_s=0, expected=FOREVER) == []
    batcher.put("b", 1)
    assert batcher.take(timeout_s=0, expected=FOREVER) == ["a", "b"]
    batcher.put("c", 3)
    clock.now_s = 0.9
    assert batcher.take(timeout_s=0, expected=FOREVER) == []
    clock.now_s = 1.0
    assert batcher.take(timeout_s=0, expected=FOREVER) == ["c"]


def test_nothing_is_waited_for_that_cannot_come():
    batcher = Batcher(100, 100, limit_s=FOREVER)
    batcher.put("a", 3)
    assert batcher.take(timeout_s=0, expected=4) == []
    assert batcher.take(timeout_s=30, expected=3) == ["a"]


@pytest.mark.parametrize(("sizes", "batches"), [((3, 3, 3), [2, 1]), ((9, 1), [1, 1]), ((8, 1), [1, 1])])
def test_a_batch_has_at_most_the_largest_size_but_whole_requests(sizes, batches):
    clock = Clock()
    batcher = Batcher(1, 8, limit_s=0, clock=clock)
    for size in sizes:
        batcher.put(size, size)
    assert [len(batcher.take(timeout_s=0, expected=FOREVER)) for _ in batches] == batches


def test_a_taker_wakes_at_once():
    batcher, taken = Batcher(2, 8, limit_s=FOREVER), []
    taker = threading.Thread(
        target=lambda: taken.extend(batcher.take(timeout_s=FOREVER, expected=FOREVER)), daemon=True
    )
    taker.start()
    for name in "ab":
        batcher.put(name, 1)
    taker.join(30)
    assert taken == ["a", "b"]


def test_it_ends_with_requests_in_flight():
    batcher = Batcher(10**6, 10**6, limit_s=FOREVER)
    ended = []

    def take():
        try:
            batcher.take(timeout_s=60, expected=FOREVER)
        except Stopped:
            ended.append(True)

    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    putters = [threading.Thread(target=lambda: [batcher.put(n, 1) for n in range(2000)]) for _ in range(4)]
    for putter in putters:
        putter.start()
    batcher.close()
    for thread in (taker, *putters):
        thread.join(30)
        assert not thread.is_alive()
    assert ended == [True]
    with pytest.raises(Stopped):
        batcher.take(timeout_s=60, expected=FOREVER)
