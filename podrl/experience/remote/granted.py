"""Parameters and rollouts that the learner has granted to an actor of an actor worker."""

import threading

import jax

from podrl.runtime.waiting import Stopped, wait_for
from podrl.types import PyTree


class GrantedParameters:
    """Parameters by version, and the version that makes each rollout; forgets what no rollout needs any more.

    With `takes_newest` a rollout is made with the newest that have come, at least those that it was granted with.

    To an actor in a worker the parameters of rollout n are those called n: its schedule has no lag.
    """

    def __init__(self, *, takes_newest: bool = False):
        """Starts without any."""
        self._takes_newest = takes_newest
        self._changed = threading.Condition()
        self._params: dict[int, PyTree] = {}
        self._versions: dict[int, int] = {}  # By rollout.
        self._stopped = False

    def add(self, version: int, params: PyTree) -> None:
        """Takes new parameters, on the host."""
        with self._changed:
            self._params[version] = params

    def grant(self, rollout: int, version: int) -> None:
        """Takes the version that makes a rollout; its parameters came before.

        Raises:
            ValueError: If they did not.
        """
        with self._changed:
            if version not in self._params and not (self._takes_newest and version < max(self._params, default=-1)):
                raise ValueError(f"rollout {rollout} is to be made with parameters {version}, which never came")
            self._versions[rollout] = version
            self._changed.notify_all()

    def fetch(self, device: jax.Device, versions: range, *, timeout_s: float, who: str) -> tuple[int, PyTree]:
        """Returns the version that makes a rollout, `versions.start`, and its parameters on `device`; waits for it.

        Raises:
            TimeoutError: If it is not granted in time.
            Stopped: If the run ends first.
        """
        rollout = versions.start
        with self._changed:
            wait_for(
                self._changed,
                lambda: self._stopped or rollout in self._versions,
                timeout_s=timeout_s,
                blame=lambda: (
                    f"{who} waited {timeout_s:.0f} s for the learner to ask for rollout {rollout}. If updates are this "
                    "slow, raise actors.timeout_s."
                ),
            )
            if self._stopped:
                raise Stopped
            granted = self._versions.pop(rollout)
            version = max(self._params) if self._takes_newest else granted
            params = self._params[version]
            oldest = version if self._takes_newest else min([*self._versions.values(), version])
            self._params = {kept: each for kept, each in self._params.items() if kept >= oldest}
        return version, jax.device_put(params, device)

    def stop(self) -> None:
        """Makes every waiting `fetch` raise `Stopped`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
