"""Gathers what all processes of a job have for the rows of metrics on the first: finished episodes, and counts."""

import collections
from collections.abc import Callable, Mapping, Sequence
import json

from podrl.experience.episodes import Episode
from podrl.runtime.job.job import Job


class EpisodeGatherer:
    """Gathers the finished episodes of all processes on the first, in an order that does not depend on timing.

    Attributes:
        totals: On the first process the counts of all processes, summed when episodes were last gathered.
    """

    def __init__(self, job: Job, window: int, timeout_s: float, count_totals: Callable[[], Mapping[str, int]] = dict):
        """Starts without episodes.

        Args:
            job: the job as this process sees it.
            window: number of newest episodes to gather; older ones are only counted.
            timeout_s: seconds that the first process waits for the others.
            count_totals: () -> this process's counts so far, by their keys in rows.
        """
        self._job = job
        self._timeout_s = timeout_s
        self._count_totals = count_totals
        self.totals: Mapping[str, int] = {}
        self._newest: collections.deque[tuple[int, Episode]] = collections.deque(maxlen=window)
        self._count = 0
        self._gathered = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that gathers the episodes."""
        return self._job.process_index == 0

    def add(self, update: int, episodes: Sequence[Episode]) -> None:
        """Adds the episodes that ended in this process's rollouts for an update."""
        self._newest.extend((update, episode) for episode in episodes)
        self._count += len(episodes)

    def gather(self) -> tuple[list[Episode], int]:
        """Gathers the episodes since the last call; every process calls it after the same updates.

        Returns:
            On the first process the newest episodes of all processes, by update and then by process, and the number of
            all episodes; nothing on the other processes.

        Raises:
            TimeoutError: if a process does not send its episodes in time; the message names it.
        """
        mine = {"newest": list(self._newest), "count": self._count, "totals": self._count_totals()}
        self._newest.clear()
        self._count = 0
        name = f"episodes/{self._gathered}"
        self._gathered += 1
        if self._job.process_index > 0:
            self._job.send(name, json.dumps(mine))
            return [], 0
        others = range(1, self._job.process_count)
        parts = [mine, *(json.loads(self._job.receive(process, name, self._timeout_s)) for process in others)]
        keys = {key: None for part in parts for key in part["totals"]}
        self.totals = {key: sum(part["totals"].get(key, 0) for part in parts) for key in keys}
        newest = sorted((entry for part in parts for entry in part["newest"]), key=lambda entry: entry[0])  # Is stable.
        return [Episode(*values) for _, values in newest], sum(part["count"] for part in parts)
