"""Central inference: acts for groups of environments on an actor's device, where their state lies in slots."""

from collections.abc import Sequence

import jax
import numpy as np

from podrl.experience.remote.group import Group, join_groups
from podrl.experience.remote.slots import SlotPrograms, Slots
from podrl.experience.remote.unroll_queue import GroupUnroll
from podrl.types import PyTree, Timestep, Trajectory


class Inference:
    """The slots on one device, and the parameters that act.

    Attributes:
        version: the learner step of the parameters; -1 before the first.
    """

    def __init__(self, programs: SlotPrograms, device: jax.Device, *, first: int):
        """Creates empty slots.

        Args:
            programs: compiled for the device.
            device: the actor's device.
            first: unrolls of each environment in earlier starts of the run.
        """
        self.version = -1
        self._programs, self._device, self._first = programs, device, first
        self._slots: Slots = programs.init()
        self._params: PyTree = None
        self._on_device: PyTree = None  # The version.

    def use(self, version: int, params: PyTree) -> None:
        """Acts with these parameters from now on."""
        self.version, self._params = version, params
        self._on_device = self._put(np.int32(version))

    def open(self, group: Group) -> None:
        """Begins the carries of environments that were opened anew."""
        self._slots = self._programs.open(self._slots, *self._put((group.slot, group.env_index)))

    def act(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """Acts on the groups' timesteps, and returns the actions [B, ...] of each."""
        size, num_envs = groups[0].size, sum(group.size for group in groups)
        padded = next(size for size in self._programs.act if size >= num_envs)
        batch = self._put(join_groups(groups, self._first, padded))
        action, self._slots = self._programs.act[padded](self._params, self._on_device, self._slots, *batch)
        actions = np.asarray(action)
        return [actions[start : start + size] for start in range(0, num_envs, size)]

    def finish(self, group: Group, unroll: GroupUnroll, timestep: Timestep) -> None:
        """Writes the row of a group's unroll that only bootstraps."""
        self._slots = self._programs.finish(self._slots, *self._put((timestep, group.column(unroll))))

    def read(self, unroll: GroupUnroll, place: Group, *, is_cut: bool) -> Trajectory:
        """Returns a whole unroll as the trajectory of the environments of another group; see `SlotUnroller.read`."""
        arguments = self._put((place.column(unroll), place.env_index, np.bool_(is_cut)))
        return self._programs.read(self._slots, *arguments)

    def _put(self, tree: PyTree) -> PyTree:
        return jax.device_put(tree, self._device)
