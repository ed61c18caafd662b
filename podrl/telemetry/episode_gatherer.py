"""Brings the finished episodes of all processes of a job to the first, which writes the rows of metrics."""

import collections
from collections.abc import Sequence
import json

from podrl.experience.episodes import Episode
from podrl.runtime.job.job import Job


class EpisodeGatherer:
    """Brings the finished episodes of all processes to the first, in an order that no timing changes."""

    def __init__(self, job: Job, window: int, timeout_s: float):
        """Has none yet.

        Args:
            job: of this process.
            window: how many of the newest are of interest; of older ones only the number is told.
            timeout_s: how long the first process waits for the others.
        """
        self._job = job
        self._timeout_s = timeout_s
        self._newest: collections.deque[tuple[int, Episode]] = collections.deque(maxlen=window)
        self._count = 0
        self._gathered = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that episodes are brought to."""
        return self._job.process_index == 0

    def add(self, update: int, episodes: Sequence[Episode]) -> None:
        """Takes the (return, length) of the episodes that ended in this process's rollouts for an update."""
        self._newest.extend((update, episode) for episode in episodes)
        self._count += len(episodes)

    def gather(self) -> tuple[list[Episode], int]:
        """The episodes since the last time; every process calls it after the same updates.

        Returns:
            On the first process the newest of all processes', by update and then by process, and the number of all; on
            the others nothing.

        Raises:
            TimeoutError: if a process sends none in time; names it.
        """
        mine = {"newest": list(self._newest), "count": self._count}
        self._newest.clear()
        self._count = 0
        name = f"episodes/{self._gathered}"
        self._gathered += 1
        if self._job.process_index > 0:
            self._job.send(name, json.dumps(mine))
            return [], 0
        others = range(1, self._job.process_count)
        parts = [mine, *(json.loads(self._job.receive(process, name, self._timeout_s)) for process in others)]
        newest = sorted((entry for part in parts for entry in part["newest"]), key=lambda entry: entry[0])  # Is stable.
        return [(total, length) for _, (total, length) in newest], sum(part["count"] for part in parts)
