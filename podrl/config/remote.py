"""The config section `remote`: environment workers, processes that step the actors' environments elsewhere."""

import dataclasses

from podrl.config.ranges import LONGEST_S, check_values, number, text
from podrl.mistakes import check

NO_CERTIFICATES = "none"
_OPENING_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """Environment workers: processes, here or on other hosts, that step the environments of the actors.

    They are started by `tools/tpu_launch.py --env_workers N`, or by `tools/env_worker.py` on any host, and are not the
    worker processes of `env.workers`, which an environment worker may have, too. A run with them is bit for bit the run
    with environments in its own process, so a run may resume with or without them. Evaluations play in the learner's
    own process.

    Attributes:
        env_workers: environment workers of the whole job, the same number for each process; 0 for none. The worker
            processes of `env.workers` are something else.
        address: where the learner's process listens for them, as `HOST:PORT` or `unix:PATH`; each further process of
            the job listens at the next port, or at `PATH.INDEX`.
        certificates: folder for mutual TLS, made by `tools/make_job_credentials.py`, or of your own with `cert.pem`,
            `key.pem` and `ca.pem`; `none` is enough for addresses within the host.
        join_timeout_s: seconds that the learner waits for all workers at the start.
        timeout_s: seconds that a worker may take to step the environments of a pool before the run ends; making them
            may always take a minute, or nine tenths of `actors.timeout_s` if that is shorter.
    """

    env_workers: int = number(0, 4096, 0)
    address: str = text(200, "127.0.0.1:8470")
    certificates: str = text(500, NO_CERTIFICATES)
    join_timeout_s: float = number(0.001, LONGEST_S, 240.0)
    timeout_s: float = number(0.001, LONGEST_S, 60.0)

    def __post_init__(self) -> None:
        """Checks the values."""
        check_values(self, "remote.")

    def opening_s(self, actors_timeout_s: float) -> float:
        """Returns how long a worker may take to import modules and make a pool's environments: all do so at once.

        Args:
            actors_timeout_s: `actors.timeout_s`, before which the worker is to be named.
        """
        return max(self.timeout_s, min(_OPENING_S, 0.9 * actors_timeout_s))

    def check_run(self, placement: str, actors_timeout_s: float, watchdog_s: float) -> None:
        """Checks that the run has environments for workers, and that errors about workers come first.

        Args:
            placement: `topology.placement`.
            actors_timeout_s: `actors.timeout_s`.
            watchdog_s: `watchdog_s`.

        Raises:
            ConfigError: If not.
        """
        if not self.env_workers:
            return
        check(
            placement != "anakin",
            f"remote.env_workers={self.env_workers} is for environments on the host; with topology.placement='anakin' "
            "they are inside the compiled program. Use topology.placement=sebulba, or remote.env_workers=0.",
        )
        for key, limit, value, other in (
            ("timeout_s", "actors.timeout_s", self.timeout_s, actors_timeout_s),
            ("join_timeout_s", "watchdog_s", self.join_timeout_s, watchdog_s),
        ):
            check(
                value < other,
                f"remote.{key}={value:g} must be shorter than {limit}={other:g} (seconds), or a lost environment "
                "worker would not be named.",
            )
