"""A thread's wall time, split over named buckets.

Every actor thread and the learner's main thread keep a ledger: each nanosecond since its creation lies in exactly one
bucket, so the buckets sum to wall time and nothing is hidden. One thread spends; any other thread may read, for the
metrics and for messages that name what a thread is stuck in.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
import threading
import time
from types import TracebackType

# Buckets of podrl's threads; time outside of every `spend` is OTHER.
BUCKETS = (
    "env",
    "act",
    "transfer",
    "wait_params",
    "wait_rollouts",
    "wait_data",
    "read",
    "learn",
    "publish",
    "log",
    "evaluate",
    "checkpoint",
    "compile",
)
OTHER = "other"

Annotate = Callable[[str], AbstractContextManager[object]]  # (name) -> a context that a profiler's trace shows


class Ledger:
    """Splits the wall time of one thread over named buckets.

    Only the owning thread may call `spend`, which costs about a microsecond. The lock is for readers: without it a
    snapshot could miss, or count twice, the time that is moved while a bucket ends.

    Attributes:
        name: the thread's name in messages: 'learner', 'actor 3'.
        changes: number of changes from one bucket to another: while it grows, the thread makes progress.
    """

    def __init__(self, name: str, buckets: Iterable[str] = BUCKETS, annotate: Annotate | None = None) -> None:
        """Starts the clock in bucket 'other'.

        Args:
            name: the thread's name in messages.
            buckets: names that `spend` accepts, besides 'other'.
            annotate: shows each spend to a profiler, as 'actor 3/act'; None costs nothing.
        """
        self.name = name
        self.changes = 0
        self._spent_ns = dict.fromkeys((*buckets, OTHER), 0)
        self._spends = {bucket: _Spend(self, bucket) for bucket in self._spent_ns}
        self._open = [OTHER]
        self._annotate = annotate
        self._spans: list[AbstractContextManager[object]] = []
        self._lock = threading.Lock()
        self._since_ns = time.perf_counter_ns()

    def spend(self, bucket: str) -> AbstractContextManager[None]:
        """Returns a context whose time counts for `bucket`, except what contexts inside it claim.

        Raises:
            ValueError: if the ledger has no such bucket.
        """
        try:
            return self._spends[bucket]
        except KeyError:
            known = ", ".join(self._spends)
            raise ValueError(f"Ledger {self.name!r} has no bucket {bucket!r}. Available: {known}.") from None

    def seconds(self) -> dict[str, float]:
        """Returns the seconds in each bucket so far, the running one included; they sum to the ledger's age."""
        with self._lock:
            now_ns = time.perf_counter_ns()
            spent_ns = dict(self._spent_ns)
            spent_ns[self._open[-1]] += now_ns - self._since_ns
        return {bucket: ns / 1e9 for bucket, ns in spent_ns.items()}

    def doing(self) -> tuple[str, float]:
        """Returns the running bucket, and the seconds since the last change."""
        with self._lock:
            return self._open[-1], (time.perf_counter_ns() - self._since_ns) / 1e9

    def _begin(self, bucket: str) -> None:
        """Interrupts the running bucket with `bucket`."""
        with self._lock:
            self._settle()
            self._open.append(bucket)
        if self._annotate is not None:
            self._spans.append(self._annotate(f"{self.name}/{bucket}"))
            self._spans[-1].__enter__()

    def _end(self) -> None:
        """Ends the running bucket and continues the one that it interrupted."""
        if self._annotate is not None:
            self._spans.pop().__exit__(None, None, None)
        with self._lock:
            self._settle()
            self._open.pop()

    def _settle(self) -> None:
        """Adds the time since the last change to the running bucket."""
        now_ns = time.perf_counter_ns()
        self._spent_ns[self._open[-1]] += now_ns - self._since_ns
        self._since_ns = now_ns
        self.changes += 1


class _Spend:
    """The context of one bucket; reusable and re-entrant because the ledger holds the stack."""

    __slots__ = ("_bucket", "_ledger")

    def __init__(self, ledger: Ledger, bucket: str) -> None:
        self._ledger = ledger
        self._bucket = bucket

    def __enter__(self) -> None:
        self._ledger._begin(self._bucket)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger._end()


def shares(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Returns the fraction of the time between two snapshots that went to each bucket; all zero if no time passed.

    Args:
        before: an earlier `Ledger.seconds()`; `{}` stands for the start.
        after: a later snapshot of the same ledger.
    """
    spent = {bucket: seconds - before.get(bucket, 0.0) for bucket, seconds in after.items()}
    total = sum(spent.values())
    return {bucket: seconds / total if total > 0 else 0.0 for bucket, seconds in spent.items()}


def pooled(snapshots: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns the seconds per bucket, summed over the snapshots of several threads, such as all actors."""
    total: dict[str, float] = {}
    for snapshot in snapshots:
        for bucket, seconds in snapshot.items():
            total[bucket] = total.get(bucket, 0.0) + seconds
    return total
