"""Finds a run's bottleneck: its rows of metrics of the first minute, averaged, become one `Situation`."""

from collections.abc import Callable, Mapping
import math
import time
from typing import Any, NamedTuple

from podrl.config.config import Config
from podrl.experience.layout import make_layout
from podrl.mesh import Topology
from podrl.runtime.machine import available_cores, busy_core_seconds
from podrl.telemetry.bottleneck_rules import advise
from podrl.telemetry.offline_rules import advise_offline
from podrl.telemetry.rates import SAMPLES_KEY
from podrl.telemetry.readable import duration
from podrl.telemetry.situation import Machine, Situation

_LONG_S = 86_400.0


def has_rate(row: Mapping[str, Any]) -> bool:
    """Returns whether a row of metrics has a rate; the first row and those of a start's warm-up have none."""
    return math.isfinite(row["env_steps_per_second"])


def suggest_shorter(config: Config, row: Mapping[str, Any]) -> str | None:
    """Suggests a shorter run for a first look if this run would take days; None otherwise.

    Args:
        config: the run's config.
        row: one of its rows of metrics, with a rate.
    """
    left, rate, key = config.total_env_steps - row["env_steps"], row["env_steps_per_second"], "total_env_steps"
    if config.is_offline:
        left = (config.total_updates - row["learner_steps"]) * config.data.learner_steps * config.data.batch
        rate, key = row[SAMPLES_KEY], "total_updates"
    left_s = left / max(rate, 1e-9)
    if left_s < _LONG_S:
        return None
    return (
        f"At this rate the run takes {duration(left_s)} more. For a first look, --config impala_catch is "
        f"done in about twenty seconds; --config.{key} shortens this one."
    )


class BottleneckFinder:
    """Averages rows of metrics for a while and then gives advice once."""

    def __init__(
        self,
        config: Config,
        topology: Topology,
        *,
        after_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        core_clock: Callable[[], float] = time.process_time,
        busy_clock: Callable[[], float] = busy_core_seconds,
    ) -> None:
        """Prepares the clocks, which start with the first row.

        Args:
            config: the run's config.
            topology: the devices that act and those that learn.
            after_s: seconds of training, from the first row on, that the advice is about.
            clock: monotonic seconds, against which cores are measured.
            core_clock: CPU seconds of all threads of this process.
            busy_clock: seconds for which its cores were busy with any process.
        """
        self._config = config
        self._machine = make_machine(topology)
        self._layout = make_layout(config, topology)
        self._after_s = after_s
        self._clock, self._core_clock, self._busy_clock = clock, core_clock, busy_clock
        self._first: _Reading | None = None
        self._last_s = 0.0
        self._env_steps = 0.0
        self._seconds: dict[str, float] = {}
        self._has_spoken = False

    def add(self, row: Mapping[str, Any]) -> str | None:
        """Adds a row as it is written; returns the advice once, when the time is over.

        Rows without a rate only start the clocks, because their time went to compiling and to opening environments.
        """
        if self._has_spoken:
            return None
        now = _Reading(row["time/wall_s"], self._clock(), self._core_clock(), self._busy_clock())
        if self._first is None or not math.isfinite(row["env_steps_per_second"]):
            self._first, self._last_s = now, now.ended_s
            return None
        self._add(row, now.ended_s - self._last_s)
        self._last_s = now.ended_s
        if now.ended_s - self._first.ended_s < self._after_s:
            return None
        self._has_spoken = True
        give = advise_offline if self._config.is_offline else advise
        return str(give(self._situation(self._first, now)))

    def _add(self, row: Mapping[str, Any], seconds: float) -> None:
        """Converts a row's rate to steps and its shares to seconds, since rows differ in length."""
        self._env_steps += row["env_steps_per_second"] * seconds
        for key, share in row.items():
            if key.startswith(("time/learner/", "time/actors/", "time/data/")):
                self._seconds[key] = self._seconds.get(key, 0.0) + share * seconds

    def _situation(self, first: "_Reading", now: "_Reading") -> Situation:
        ended_s, wall_s = now.ended_s - first.ended_s, now.wall_s - first.wall_s
        cores_s, own_s, all_s = wall_s * self._machine.cores, now.core_s - first.core_s, now.busy_s - first.busy_s
        return Situation(
            shares={key: seconds / ended_s for key, seconds in self._seconds.items()},
            env_steps_per_second=self._env_steps / ended_s,
            cores_busy=min(1.0, own_s / cores_s),
            others_busy=max(0.0, all_s - own_s) / cores_s,
            machine=self._machine,
            layout=self._layout,
            config=self._config,
        )


class _Reading(NamedTuple):
    """When a row's update ended, and the wall's, the process's and its cores' clocks when the row was written."""

    ended_s: float
    wall_s: float
    core_s: float
    busy_s: float


def make_machine(topology: Topology) -> Machine:
    """Describes the cores and devices of this process."""
    return Machine(
        platform=topology.mesh.devices.flat[0].platform,
        cores=available_cores(),
        devices=topology.mesh.shape["device"],
        actor_devices=len(topology.local_actor_devices),
        learner_devices=topology.local_learner.size,
    )
