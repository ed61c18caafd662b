"""Which parameters make which rollout of a run with actor workers, decided by update numbers and never by the clock.

Parameters that actors in the learner's process would get for some rollouts (`Schedule.versions`) are either *fresh*,
and make these rollouts, or the ones before make these rollouts too. Those of a boundary are always fresh: a run
that resumes there needs nothing from before it.

With `determinism='free'` a rollout is made with the newest parameters that its worker holds when it starts. On drift
each worker is told how far these are from the newest, and pulls those when that is too far.
"""

from collections.abc import Sequence
import dataclasses
from typing import cast

import jax
import numpy as np

from podrl.config.remote import RemoteConfig
from podrl.experience.remote.actor_programs import DriftProgram
from podrl.experience.schedule import Schedule
from podrl.types import PyTree, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publication:
    """An update's parameters, and what becomes of them.

    Attributes:
        version: The number of updates that made them.
        params: The parameters, whole on every learner device.
        rollouts: The rollouts that actors in the learner's process would make with them, at least one.
        is_fresh: Whether they make these rollouts; [] bool on devices that may still compute it.
        drifts: For each worker the divergence [] of what it holds, if workers pull.
    """

    version: int
    params: PyTree
    rollouts: list[int]
    is_fresh: bool | jax.Array
    drifts: Sequence[jax.Array] = ()


class Publishing:
    """Decides of each update's parameters whether they act.

    Attributes:
        pulls: Whether workers pull parameters, as they are told how far theirs have drifted.
    """

    def __init__(self, remote: RemoteConfig, schedule: Schedule, drift: DriftProgram | None, num_workers: int):
        """Starts before the first update.

        Args:
            remote: The config's section.
            schedule: The run's.
            drift: Compares parameters, with `remote.publish='drift'`.
            num_workers: Workers of this process.
        """
        self._remote, self._schedule, self._drift = remote, schedule, drift
        self.pulls = drift is not None and not schedule.exact
        self._acting: list[PyTree] = [None] * (num_workers if self.pulls else 1)

    def decide(self, version: int, params: PyTree, newest: tuple[Trajectory, ...]) -> Publication | None:
        """Returns what becomes of an update's parameters; None if they are for no rollout.

        Args:
            version: The number of updates that made them; called with each number, in order.
            params: The parameters, whole on every learner device.
            newest: The rollouts that this update learned from, one for each pool.
        """
        rollouts = granted_with(self._schedule, version)
        if not rollouts:
            return None
        if version == self._schedule.boundary(version):
            self._acting = [params] * len(self._acting)
            return Publication(version=version, params=params, rollouts=rollouts, is_fresh=True)
        if self._drift is None:
            is_due = version % self._remote.publish_every == 0
            return Publication(version=version, params=params, rollouts=rollouts, is_fresh=is_due)
        chosen = [self._drift(acting, params, newest, np.int32(version)) for acting in self._acting]
        if self.pulls:
            drifts = [drift for _, _, drift in chosen]
            return Publication(version=version, params=params, rollouts=rollouts, is_fresh=False, drifts=drifts)
        ((self._acting[0], is_fresh, _),) = chosen
        return Publication(version=version, params=params, rollouts=rollouts, is_fresh=is_fresh)

    def hold(self, worker: int, params: PyTree) -> None:
        """Notes what a worker has pulled; from any thread."""
        self._acting[worker] = params


def granted_with(schedule: Schedule, version: int) -> list[int]:
    """Returns the rollouts that these parameters make at a fixed lag, in order."""
    candidates = range(version, version + schedule.max_lag + 1)
    return [n for n in candidates if n in schedule.rollouts and schedule.versions(n).start == version]


def is_true(value: bool | jax.Array) -> bool:
    """Returns a decision once its device has made it."""
    return bool(np.asarray(cast(np.ndarray, value)))
