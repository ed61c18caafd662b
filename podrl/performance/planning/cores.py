"""What the threads of a simulated job wait for, cores, each other, and parameters, and how long. The engine is simpy.

Cores are a fluid that flows to whatever wants to run. Every job says how long it takes alone, and how many cores it
keeps busy meanwhile. While all running jobs together want more cores than there are, each runs at the fraction
available / wanted of its speed: the scheduler of the operating system is fair to threads. Since that fraction is the
same for all, one *virtual* clock runs at it, and every job ends when that clock shows its end. Acting has a virtual
clock of its own where one queue of programs serves acting and learning: it stands still during updates.
"""

from collections.abc import Generator
import heapq
import itertools
import math
from typing import Any

from podrl.config.config import ConfigError
from podrl.config.extras import install_command

try:
    from simpy import Environment, Event, Store
except ModuleNotFoundError:
    raise ConfigError(f"Simulating needs the package simpy: pip install simpy, or {install_command('plan')}.") from None

__all__ = ["Account", "Barrier", "Cores", "Environment", "Event", "NewestParameters", "Store"]
_OTHERS, _ACTING = 0, 1


class Cores:
    """What the jobs of one host run on; `pauses_acting` says whether jobs that act stand still during updates."""

    def __init__(self, env: Environment, cores: float, *, pauses_acting: bool):
        self._env, self._cores, self._pauses_acting = env, cores, pauses_acting
        self._now, self._rates = [0.0, 0.0], [1.0, 1.0]  # of the virtual clocks
        self._jobs: list[list[tuple[float, int, float, Event]]] = [[], []]  # heaps of (end, order, cores, event)
        self._learning, self._updated, self._timer = 0, 0.0, 0
        self._order = itertools.count()

    def run(self, seconds: float, cores: float, *, acts: bool = False) -> Event:
        """Starts a job that alone takes so long and keeps so many cores busy; the event is its end."""
        if math.isinf(self._cores) and not self._pauses_acting:
            return self._env.timeout(seconds)
        event, clock = self._env.event(), _ACTING if acts else _OTHERS
        self._advance()
        heapq.heappush(self._jobs[clock], (self._now[clock] + seconds, next(self._order), cores, event))
        self._schedule()
        return event

    def learn(self, change: int) -> None:
        """An update begins (1) or ends (-1), its reductions between hosts included."""
        if self._pauses_acting:
            self._advance()
            self._learning += change
            self._schedule()

    def _advance(self) -> None:
        """Moves the virtual clocks to now."""
        passed, self._updated = self._env.now - self._updated, self._env.now
        self._now = [now + rate * passed for now, rate in zip(self._now, self._rates, strict=True)]

    def _schedule(self) -> None:
        """Sets the clocks' rates by what runs now, and a timer to the next end of a job."""
        paused = self._pauses_acting and self._learning > 0
        running = [_OTHERS] if paused else [_OTHERS, _ACTING]
        wanted = sum(job[2] for clock in running for job in self._jobs[clock])
        rate = min(1.0, self._cores / wanted) if wanted > 0 else 1.0
        self._rates = [rate, 0.0 if paused else rate]
        ends = [(self._jobs[clock][0][0] - self._now[clock]) / rate for clock in running if self._jobs[clock]]
        self._timer += 1
        if ends:
            self._env.timeout(max(0.0, min(ends)), self._timer).callbacks.append(self._end)

    def _end(self, timeout: Event) -> None:
        """Ends the jobs whose time has come, unless the timer was set anew since."""
        if timeout.value != self._timer:
            return
        self._advance()
        for jobs, now, rate in zip(self._jobs, self._now, self._rates, strict=True):
            due = now + 1e-12 * max(1.0, self._env.now)  # Rounding must not leave one that is over.
            while rate and jobs and jobs[0][0] <= due:
                heapq.heappop(jobs)[3].succeed()
        self._schedule()


class Barrier:
    """Where all hosts meet, round after round."""

    def __init__(self, env: Environment, parties: int):
        self._env, self._parties = env, parties
        self._arrived, self._event = 0, env.event()

    def arrive(self, seconds: float) -> Event:
        """One more is there; the event comes so many seconds after the last."""
        event = self._event
        self._arrived += 1
        if self._arrived == self._parties:
            self._env.timeout(seconds).callbacks.append(event.trigger)
            self._arrived, self._event = 0, self._env.event()
        return event


class NewestParameters:
    """The newest parameters that a host's actors can have, by the update that made them."""

    def __init__(self, env: Environment):
        self._env, self._version, self._published = env, 0, env.event()

    def publish(self, version: int, _: Event | None = None) -> None:
        """Parameters of this version are there now, at an event where there is one."""
        self._version = max(self._version, version)
        published, self._published = self._published, self._env.event()
        published.succeed()

    def fetch(self, versions: range) -> Generator[Event, Any, int]:
        """The newest of these versions that is there; waits for one if none is."""
        while self._version < versions.start:
            yield self._published
        return min(self._version, versions[-1])


class Account:
    """Splits the simulated time of one thread over buckets; it is always in exactly one, at first in the first."""

    def __init__(self, buckets: tuple[str, ...], now: float):
        self.seconds = dict.fromkeys(buckets, 0.0)
        self._bucket, self._since = buckets[0], now

    def switch(self, bucket: str, now: float) -> float:
        """Starts another bucket; returns the seconds that the one before has just got."""
        spent = now - self._since
        self.seconds[self._bucket] += spent
        self._bucket, self._since = bucket, now
        return spent

    def move(self, seconds: float, source: str, target: str) -> None:
        """Books on `target` what was booked on `source`."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def restart(self, now: float) -> None:
        """Forgets what was, as warm-up."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self._since = now
