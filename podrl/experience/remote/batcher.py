"""Dynamic batching: requests of several environments, collected until it is worth to serve them.

Any number of threads put requests, one thread takes them in batches. A batch is taken as soon as it has the smallest
size, or as soon as its oldest request has waited for a limit. So a request waits at most that long for others, then for
the batch that is being served, and for those of the largest size that are ahead of it: by default for none.

Source: the dynamic batcher of TorchBeast (Küttler et al. 2019, arXiv:1910.03552, section 3.2).
"""

from collections import deque
from collections.abc import Callable
import threading
import time
from typing import Generic, TypeVar

from podrl.config.config import Config, check
from podrl.experience.layout import Layout
from podrl.runtime.waiting import Stopped

Request = TypeVar("Request")


class Batcher(Generic[Request]):
    """A queue of requests that are taken in batches, first in, first out."""

    def __init__(
        self, smallest: int, largest: int, *, limit_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Creates an empty queue.

        Args:
            smallest: environments from which on a batch is taken at once.
            largest: environments of a batch at most; a request with more is a batch of its own.
            limit_s: seconds that the oldest request waits for others.
            clock: gives the time in seconds.
        """
        self._smallest, self._largest, self._limit_s, self._clock = smallest, largest, limit_s, clock
        self._changed = threading.Condition()
        self._requests: deque[tuple[Request, int, float]] = deque()
        self._waiting = 0
        self._is_closed = False

    def put(self, request: Request, size: int) -> None:
        """Adds a request of `size` environments; after `close` it is dropped."""
        with self._changed:
            if self._is_closed:
                return
            self._requests.append((request, size, self._clock()))
            self._waiting += size
            # Before that a taker only waits for the limit, and needs to know when it begins.
            if self._waiting >= self._smallest or len(self._requests) == 1:
                self._changed.notify()

    def take(self, *, timeout_s: float, expected: int) -> list[Request]:
        """Waits for the next batch, and returns its requests in the order in which they came.

        Args:
            timeout_s: longest wait in seconds for a request.
            expected: environments of all requests that are there or can come before this batch is served; once they are
                there, nothing more is waited for.

        Returns:
            The batch; empty if none is due in time.

        Raises:
            Stopped: after `close`.
        """
        deadline_s = self._clock() + timeout_s
        enough = min(self._smallest, expected)
        with self._changed:
            while not self._is_closed:
                now_s = self._clock()
                due_s = self._requests[0][2] + self._limit_s if self._requests else deadline_s
                if self._requests and (self._waiting >= enough or now_s >= due_s):
                    return self._pop()
                if now_s >= deadline_s:
                    return []
                self._changed.wait(min(due_s, deadline_s) - now_s)
        raise Stopped

    def close(self) -> None:
        """Drops all requests; every `take` raises `Stopped` from now on."""
        with self._changed:
            self._is_closed = True
            self._requests.clear()
            self._changed.notify_all()

    def _pop(self) -> list[Request]:
        """Removes a batch; the caller holds the lock, and there is a request."""
        batch: list[Request] = []
        size = 0
        while self._requests and (not batch or size + self._requests[0][1] <= self._largest):
            request, own, _ = self._requests.popleft()
            batch.append(request)
            size += own
        self._waiting -= size
        return batch


def batch_sizes(config: Config, layout: Layout) -> tuple[int, int]:
    """Returns the environments of the smallest batch that is served at once, and of the largest, in whole pools.

    Raises:
        ConfigError: if no batch could have the smallest size.
    """
    pool, own = layout.envs_per_pool, layout.envs_per_pool * layout.pools_per_actor
    largest = max(pool, min(config.remote.batch_largest or own, own) // pool * pool)
    smallest = config.remote.batch_smallest or max(1, largest // 2)
    check(
        smallest <= largest,
        f"remote.batch_smallest={smallest} is more than an actor thread serves at once: {largest} environments, in "
        f"whole pools of {pool}. Use at most {largest}.",
    )
    return smallest, largest
