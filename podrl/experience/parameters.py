"""Parameters on their way to actors: published by version on every actor device.

They are copied even where an actor shares the learner's device, because the learner's state is donated to the next
update.
"""

from collections.abc import Mapping
import threading
from typing import Protocol

import jax

from podrl.runtime.devices import is_ready
from podrl.runtime.waiting import Stopped, wait_for, wait_until
from podrl.types import PyTree


class Parameters(Protocol):
    """Where an actor gets parameters."""

    def fetch(self, device: jax.Device, versions: range, *, timeout_s: float, who: str) -> tuple[int, PyTree]:
        """Returns one of `versions`, and its parameters on `device`; see `ParameterStore.fetch`."""


class ParameterStore:
    """Published parameters by version, on every actor device of this process; new versions replace the oldest."""

    def __init__(self, devices: list[jax.Device], *, keep: int = 2):
        """Creates an empty store.

        Args:
            devices: The devices of this process's actors.
            keep: How many of the newest versions to keep: one more than the largest lag.
        """
        self._devices = devices
        self._keep = keep
        self._changed = threading.Condition()
        self._versions: dict[int, Mapping[jax.Device, PyTree]] = {}
        self._stopped = False

    def publish(self, version: int, params: PyTree) -> None:
        """Starts copying `params`, whole on every learner device, to every actor device as `version`."""
        copies = {device: copy_to(params, device) for device in self._devices}
        with self._changed:
            self._versions[version] = copies
            self._versions.pop(version - self._keep, None)
            self._changed.notify_all()

    def fetch(self, device: jax.Device, versions: range, *, timeout_s: float, who: str) -> tuple[int, PyTree]:
        """Returns the newest of `versions` that is computed, with its parameters on `device`; waits if none is.

        At a boundary an actor may be several updates ahead: it waits up to `timeout_s` for each of them.

        Raises:
            TimeoutError: If no version is published, or no update ends, in time. The message says which actor waited.
            RuntimeError: If all of `versions` have been replaced by newer ones.
            Stopped: If the run ends first.
        """

        def ready() -> list[int]:
            with self._changed:
                known = [version for version in versions if version in self._versions]
                return [version for version in known if is_ready(self._versions[version][device])]

        with self._changed:
            while not self._stopped and self._newest() < versions.start:
                waited = f"{who} waited {timeout_s:.0f} s for parameters {versions.start}"
                self._await_newer(self._newest(), timeout_s, waited)
            newest, oldest = self._newest(), min(self._versions, default=-1)
            if not self._stopped and oldest >= versions.stop:
                raise RuntimeError(f"{who} asked for parameters {versions[-1]}, gone since {newest} was published.")
        wait_until(
            lambda: self._stopped or bool(ready()),
            timeout_s=timeout_s,
            blame=lambda: (
                f"{who} waited {timeout_s:.0f} s for update {versions.start} to end on the learner's devices."
            ),
        )
        with self._changed:
            if self._stopped:
                raise Stopped
        version = max(ready())
        return version, self._versions[version][device]

    def newer(self, device: jax.Device, than: int) -> tuple[int, PyTree] | None:
        """Returns the newest version that is computed, with its parameters on `device`; None if it is not above `than`.

        Never waits.
        """
        with self._changed:
            known = sorted((version for version in self._versions if version > than), reverse=True)
            copies = [(version, self._versions[version][device]) for version in known]
        return next(((version, params) for version, params in copies if is_ready(params)), None)

    def _newest(self) -> int:
        """Returns the newest version, -1 if there is none."""
        return max(self._versions, default=-1)

    def _await_newer(self, version: int, timeout_s: float, waited: str) -> None:
        """Waits, holding `_changed`, until a version newer than this one is published or the run ends."""
        wait_for(
            self._changed,
            lambda: self._stopped or self._newest() > version,
            timeout_s=timeout_s,
            blame=lambda: (
                f"{waited} from the learner; the newest are {max(self._versions, default=None)}. If updates are this "
                "slow, raise actors.timeout_s."
            ),
        )

    def stop(self) -> None:
        """Makes every waiting `fetch` raise `Stopped`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def copy_to(params: PyTree, device: jax.Device) -> PyTree:
    """Copies parameters to `device` from arrays that are whole on each of their devices."""
    sources = {shard.device for shard in jax.tree.leaves(params)[0].addressable_shards}
    source = device if device in sources else min(sources, key=lambda d: d.id)

    def take(array: jax.Array) -> jax.Array:
        return next(shard.data for shard in array.addressable_shards if shard.device == source)

    local = jax.tree.map(take, params)
    return local if source == device else jax.device_put(local, device)
