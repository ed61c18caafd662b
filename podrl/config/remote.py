"""The config section `remote`: processes elsewhere that step the actors' environments, or that act."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from podrl.config.ranges import LONGEST_S, SIZE, check_values, choice, number, text
from podrl.mistakes import check

NO_CERTIFICATES = "none"
PUBLISHING_KEYS = tuple(
    f"remote.{name}" for name in ("actor_workers", "publish", "publish_every", "max_drift", "reference_steps")
)
_OPENING_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """Workers: processes, here or on other hosts, that step the environments of the actors, or that are the actors.

    *Environment workers* step environments for actors in the learner's process. They are started by
    `tools/tpu_launch.py --env_workers N`, or by `tools/env_worker.py` on any host, and are not the worker processes of
    `env.workers`, which an environment worker may have, too. A run with them is bit for bit the run with environments
    in its own process, so a run may resume with or without them. Evaluations play in the learner's own process. With
    `determinism='free'` actors act for what is ready, and workers may leave and return.

    *Actor workers* have the environments and a copy of the policy, and send whole rollouts. They are started by
    `tools/tpu_launch.py --actor_workers N`, or by `tools/actor_worker.py` on any host. A run has one kind or none. With
    `determinism='free'` actor workers may leave and return, too.

    Attributes:
        env_workers: environment workers of the whole job, the same number for each process; 0 for none. The worker
            processes of `env.workers` are something else.
        actor_workers: actor workers of the whole job, the same number for each process; 0 for none. Each has an equal
            share of the actor threads, or one more than others.
        publish: when actor workers get new parameters: `every` so many updates, see `publish_every`; or on `drift`,
            once those that act are `max_drift` away from the newest. In between older ones act, and the lag is larger.
        publish_every: updates between two parameters that act; 1 for those of every update.
        max_drift: divergence KL(those that act || newest) in nats, the mean over a reference batch, from which on the
            newest act instead; 0 for those of every update.
        reference_steps: env steps, or some more, in the reference batch: unrolls of environments that are drawn from
            the newest rollouts by (seed, update).
        address: where the learner's process listens for them, as `HOST:PORT` or `unix:PATH`; each further process of
            the job listens at the next port, or at `PATH.INDEX`.
        certificates: folder for mutual TLS, made by `tools/make_job_credentials.py`, or of your own with `cert.pem`,
            `key.pem` and `ca.pem`; `none` is enough for addresses within the host.
        join_timeout_s: seconds that the learner waits for all workers at the start.
        timeout_s: seconds that a worker may take to step the environments of a pool before the run ends, or continues
            without it with `determinism='free'`; making them may always take a minute, or nine tenths of
            `actors.timeout_s` if that is shorter.
        batch_smallest: environments whose timesteps an actor serves at once with `determinism='free'`; 0 for half of
            its own.
        batch_largest: most environments that it serves at once, in whole pools; 0 for all of its own.
        batch_limit_ms: milliseconds that a timestep waits until there are `batch_smallest`.
    """

    env_workers: int = number(0, 4096, 0)
    actor_workers: int = number(0, 4096, 0)
    publish: str = choice(("drift", "every"), "every")
    publish_every: int = number(1, SIZE, 1, open=True)
    max_drift: float = number(0, 1e6, 0.05)
    reference_steps: int = number(1, SIZE, 1024)
    address: str = text(200, "127.0.0.1:8470")
    certificates: str = text(500, NO_CERTIFICATES)
    join_timeout_s: float = number(0.001, LONGEST_S, 240.0)
    timeout_s: float = number(0.001, LONGEST_S, 60.0)
    batch_smallest: int = number(0, SIZE, 0)
    batch_largest: int = number(0, SIZE, 0)
    batch_limit_ms: float = number(0, 10_000, 10.0)

    def __post_init__(self) -> None:
        """Checks the values."""
        check_values(self, "remote.")
        check(
            self.batch_largest == 0 or self.batch_smallest <= self.batch_largest,
            f"remote.batch_smallest={self.batch_smallest} is more than remote.batch_largest={self.batch_largest}.",
        )

    def opening_s(self, actors_timeout_s: float) -> float:
        """Returns how long a worker may take to import modules and make a pool's environments: all do so at once.

        Args:
            actors_timeout_s: `actors.timeout_s`, before which the worker is to be named.
        """
        return max(self.timeout_s, min(_OPENING_S, 0.9 * actors_timeout_s))

    def alone_s(self, actors_timeout_s: float) -> float:
        """Returns how long a run with `determinism='free'` may be without any worker after all have come.

        Args:
            actors_timeout_s: `actors.timeout_s`, before which this is to be said.
        """
        return min(self.join_timeout_s, 0.9 * actors_timeout_s)

    def check_run(self, placement: str, actors_timeout_s: float, watchdog_s: float) -> None:
        """Checks that the run has environments for workers, and that errors about workers come first.

        Args:
            placement: `topology.placement`.
            actors_timeout_s: `actors.timeout_s`.
            watchdog_s: `watchdog_s`.

        Raises:
            ConfigError: If not.
        """
        kinds = {"env_workers": self.env_workers, "actor_workers": self.actor_workers}
        given = [f"remote.{key}" for key, count in kinds.items() if count]
        if not given:
            return
        check(
            len(given) == 1,
            f"remote.env_workers={self.env_workers} and remote.actor_workers={self.actor_workers} exclude each other: "
            "actor workers step their environments themselves. Use one of them.",
        )
        check(
            placement != "anakin",
            f"{given[0]}={max(kinds.values())} is for environments on the host; with topology.placement='anakin' "
            f"they are inside the compiled program. Use topology.placement=sebulba, or {given[0]}=0.",
        )
        for key, limit, value, other in (
            ("timeout_s", "actors.timeout_s", self.timeout_s, actors_timeout_s),
            ("join_timeout_s", "watchdog_s", self.join_timeout_s, watchdog_s),
        ):
            check(
                value < other,
                f"remote.{key}={value:g} must be shorter than {limit}={other:g} (seconds), or a lost worker would not "
                "be named.",
            )


def publishing(remote: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns what decides which parameters act: equal for sections that make the same run.

    Args:
        remote: a section `remote` by its fields.
    """
    if not remote["actor_workers"]:
        return ("every", 1)
    if remote["publish"] == "every":
        return ("every", remote["publish_every"])
    return ("drift", remote["max_drift"], remote["reference_steps"]) if remote["max_drift"] else ("every", 1)
