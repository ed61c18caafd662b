"""The cores of one machine, as a fluid that flows to whatever wants to run.

Every job says how long it takes alone, and how many cores it keeps busy meanwhile. While all running jobs together want
more cores than there are, each goes on at the fraction of its speed that is available / wanted: the scheduler of the
operating system is fair to threads. Since that fraction is the same for all, one *virtual* clock runs at it, and every
job ends when that clock has moved on by the time that it takes alone.

Acting has a virtual clock of its own where one queue of programs serves acting and learning: it stands still during
updates.
"""

import heapq
import itertools
import math

from podrl.performance.planning.events import Environment, Event


class _Clock:
    """Virtual time, and the jobs that wait for it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rate = 1.0
        self.waiting: list[tuple[float, int, float, Event]] = []  # (end, order, cores, event)


class Cores:
    """What jobs run on."""

    def __init__(self, env: Environment, cores: float, *, pauses_acting: bool):
        """Starts idle.

        Args:
            env: whose time is the real one.
            cores: to share.
            pauses_acting: whether jobs that act stand still during updates.
        """
        self._env = env
        self._cores = cores
        self._pauses_acting = pauses_acting
        self._is_plain = math.isinf(cores) and not pauses_acting
        self._others, self._acting = _Clock(), _Clock()
        self._learning = 0
        self._updated = 0.0
        self._order = itertools.count()
        self._timer = 0

    def run(self, seconds: float, cores: float, *, acts: bool = False) -> Event:
        """Starts a job; the event is its end.

        Args:
            seconds: that it takes alone.
            cores: that it keeps busy meanwhile.
            acts: whether it needs the device that acts.
        """
        if self._is_plain:
            return self._env.timeout(seconds)
        event = self._env.event()
        self._advance()
        clock = self._acting if acts else self._others
        heapq.heappush(clock.waiting, (clock.now + seconds, next(self._order), cores, event))
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
        passed = self._env.now - self._updated
        self._updated = self._env.now
        for clock in (self._others, self._acting):
            clock.now += clock.rate * passed

    def _schedule(self) -> None:
        """Sets the clocks' rates by what runs now, and a timer to the next end of a job."""
        paused = self._pauses_acting and self._learning > 0
        running = [self._others] if paused else [self._others, self._acting]
        wanted = sum(job[2] for clock in running for job in clock.waiting)
        rate = min(1.0, self._cores / wanted) if wanted > 0 else 1.0
        self._others.rate, self._acting.rate = rate, 0.0 if paused else rate
        ends = [(clock.waiting[0][0] - clock.now) / rate for clock in running if clock.waiting]
        self._timer += 1
        if ends:
            timeout = self._env.timeout(max(0.0, min(ends)), self._timer)
            timeout.callbacks.append(self._end)

    def _end(self, timeout: Event) -> None:
        """Ends the jobs whose time has come, unless the timer was set anew since."""
        if timeout.value != self._timer:
            return
        self._advance()
        for clock in (self._others, self._acting):
            if not clock.rate:
                continue
            due = clock.now + 1e-12 * max(1.0, self._env.now)  # Rounding must not leave one that is over.
            while clock.waiting and clock.waiting[0][0] <= due:
                heapq.heappop(clock.waiting)[3].succeed()
        self._schedule()
