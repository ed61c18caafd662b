"""What the threads of a simulated job wait at."""

from collections.abc import Generator
from typing import Any

from podrl.performance.planning.events import Environment, Event


class Barrier:
    """Where all hosts meet, round after round."""

    def __init__(self, env: Environment, parties: int):
        """Of so many."""
        self._env, self._parties = env, parties
        self._arrived, self._event = 0, env.event()

    def arrive(self, seconds: float) -> Event:
        """One more is there; the event comes so many seconds after the last."""
        event = self._event
        self._arrived += 1
        if self._arrived == self._parties:

            def end(_: Event) -> None:
                event.succeed()

            self._env.timeout(seconds).callbacks.append(end)
            self._arrived, self._event = 0, self._env.event()
        return event


class Parameters:
    """The newest parameters that a host's actors can have.

    Attributes:
        version: the update that made them.
    """

    def __init__(self, env: Environment):
        """Those of the start."""
        self._env = env
        self.version = 0
        self._published = env.event()

    def publish(self, version: int) -> None:
        """These are there now."""
        self.version = max(self.version, version)
        published, self._published = self._published, self._env.event()
        published.succeed()

    def fetch(self, versions: range) -> Generator[Event, Any, int]:
        """The newest of these versions that is there; waits for one if none is."""
        while self.version < versions.start:
            yield self._published
        return min(self.version, versions[-1])
