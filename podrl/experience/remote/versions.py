"""Which parameters make which rollout of a run with actor workers, decided by update numbers and never by the clock.

Parameters that actors in the learner's process would get for some rollouts (`Schedule.versions`) are either *fresh*,
and make these rollouts, or the ones before make these rollouts too. Those of a boundary are always fresh: a run
that resumes there needs nothing from before it.
"""

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
        drift: The divergence of those that acted before; None if it was not asked for.
    """

    version: int
    params: PyTree
    rollouts: list[int]
    is_fresh: bool | jax.Array
    drift: jax.Array | None = None


class Publishing:
    """Decides of each update's parameters whether they act."""

    def __init__(self, remote: RemoteConfig, schedule: Schedule, drift: DriftProgram | None):
        """Starts before the first update.

        Args:
            remote: The config's section.
            schedule: The run's.
            drift: Compares parameters, with `remote.publish='drift'`.
        """
        self._remote, self._schedule, self._drift = remote, schedule, drift
        self._acting: PyTree = None

    def decide(self, version: int, params: PyTree, newest: tuple[Trajectory, ...]) -> Publication | None:
        """Returns what becomes of an update's parameters; None if they are for no rollout.

        Args:
            version: The number of updates that made them; called with each number, in order.
            params: The parameters, whole on every learner device.
            newest: The rollouts that this update learned from, one for each pool.
        """
        rollouts = rollouts_of(self._schedule, version)
        if not rollouts:
            return None
        if version == self._schedule.boundary(version):
            self._acting = params
            return Publication(version=version, params=params, rollouts=rollouts, is_fresh=True)
        if self._drift is None:
            is_fresh = version % self._remote.publish_every == 0
            return Publication(version=version, params=params, rollouts=rollouts, is_fresh=is_fresh)
        self._acting, fresh, drift = self._drift(self._acting, params, newest, np.int32(version))
        return Publication(version=version, params=params, rollouts=rollouts, is_fresh=fresh, drift=drift)


def rollouts_of(schedule: Schedule, version: int) -> list[int]:
    """Returns the rollouts that these parameters make at a fixed lag, in order."""
    candidates = range(version, version + schedule.max_lag + 1)
    return [n for n in candidates if n in schedule.rollouts and schedule.versions(n).start == version]


def is_true(value: bool | jax.Array) -> bool:
    """Returns a decision once its device has made it."""
    return bool(np.asarray(cast(np.ndarray, value)))
