"""Which parameters generate which rollout, and from which checkpoints a run can resume.

Update n+1 learns from rollout n, counted from 0. The rollout is generated with the parameters of one exact update,
whatever the timing of threads: those of update `n - actors.lag`. With the default of 1 acting and learning overlap,
with 0 they take turns, and with more the actors run ahead. With `determinism='free'` it is generated with the newest
parameters that are ready when it starts, at most `actors.max_lag` behind, and `actors.lag` has no part in it.

The state of emulators cannot be saved. So at every *boundary* the environments are opened anew with new seeds, and the
rollout is generated with the newest parameters, as at the start of a run: it depends on nothing earlier except the
learner's state. From there the lag grows by one with each rollout, up to `actors.lag`, as no parameters of before the
boundary act: rollout n is generated with those of update `max(n - actors.lag, boundary)`. A run that resumes from a
boundary therefore equals one that was never stopped.

Each update of lag lets one more rollout of every actor wait on the learner's devices, and one more version of the
parameters on every actor's.

With `topology.placement='anakin'` none of this applies: the environments are part of the compiled program and of the
checkpoint, a run resumes exactly from any checkpoint, and the newest parameters always act. Nor does it in a run from a
data set, whose samples follow from the update's number.
"""

from collections.abc import Container, Iterable
import dataclasses

from podrl.config.config import Config
from podrl.types import Counters

_NONE = Counters()
WARMUP_UPDATES = 3  # With a lag of 1 the first two rollouts share their parameters; the first one opens the pools.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The rollouts of a run and the parameters that generate each.

    Attributes:
        first: Updates done before the run starts or resumes.
        last: Updates done when the run ends.
        every: Updates between boundaries; 0 if the start is the only one.
        max_lag: Updates between the newest parameters and those that act, as soon as a boundary is as far behind.
        exact: Whether the lag is exactly `max_lag`; if not, it is at most that.
    """

    first: int
    last: int
    every: int
    max_lag: int
    exact: bool

    @property
    def rollouts(self) -> range:
        """The numbers of the rollouts to generate."""
        return range(self.first, self.last)

    def boundary(self, update: int) -> int:
        """Returns the newest boundary at or before `update`."""
        return max(self.first, update - update % self.every if self.every else 0)

    def versions(self, rollout: int) -> range:
        """Returns the versions of the parameters that may generate a rollout; the newest of them that is ready does."""
        oldest = max(rollout - self.max_lag, self.boundary(rollout))
        return range(oldest, oldest + 1 if self.exact else rollout + 1)


def last_update(config: Config, counters: Counters) -> int:
    """Returns the number of the update that reaches `total_env_steps`, for a run that stands at `counters`.

    It counts the env steps that are left, because earlier updates may have had another size. While the size stays the
    same, so does the result. A run from a data set ends at `total_updates`.
    """
    if config.is_offline:
        return max(config.total_updates, counters.learner_steps)
    left = max(0, config.total_env_steps - counters.env_steps)
    return counters.learner_steps - (-left // config.env_steps_per_update)


def updates_ahead(config: Config, counters: Counters) -> float:
    """Returns how far a run's env steps are ahead of its updates, in updates of the current size.

    It is 0 if all updates had this size and negative after smaller ones. While the size stays the same, so does the
    result.
    """
    if config.is_offline:
        return 0.0
    steps = counters.env_steps - counters.learner_steps * config.env_steps_per_update
    return steps / config.env_steps_per_update


def is_finished(config: Config, counters: Counters) -> bool:
    """Returns whether a run that stands at `counters` has consumed all of its env steps, or made all of its updates."""
    if config.is_offline:
        return counters.learner_steps >= config.total_updates
    return counters.env_steps >= config.total_env_steps


def make_schedule(config: Config, begun: Counters = _NONE) -> Schedule:
    """Creates the schedule of a run that starts at `begun`."""
    exact = config.determinism == "exact"
    return Schedule(
        first=begun.learner_steps,
        last=last_update(config, begun),
        every=config.checkpoint.every_updates if exact else 0,
        max_lag=max_lag(config),
        exact=exact,
    )


def max_lag(config: Config) -> int:
    """Returns the largest policy lag of a run, in updates; with `determinism='exact'` its lag away from boundaries."""
    if config.topology.placement == "anakin" or config.is_offline:
        return 0
    return config.actors.lag if config.determinism == "exact" else config.actors.max_lag


def serves_arrivals(config: Config) -> bool:
    """Returns whether actors act for what environment workers have ready, and workers may leave and return."""
    return config.determinism == "free" and not config.is_offline and config.remote.env_workers > 0


def lag_key(config: Config) -> str:
    """Returns the key of a Sebulba run's config that `max_lag` follows."""
    return "actors.lag" if config.determinism == "exact" else "actors.max_lag"


def warm_up_updates(config: Config) -> int:
    """Returns how many updates after each start of a run are left out of measured rates.

    When the first update ends, rollouts of the first parameters are already queued: one for each update of policy lag.
    """
    return max(WARMUP_UPDATES, 1 + max_lag(config))


def resumable(config: Config, checkpoints: Iterable[int], finished: Container[int] = ()) -> list[int]:
    """Returns the checkpoints that the run can resume from, best first.

    A run resumes bit for bit from a boundary and from its last update. Other checkpoints come from runs that were
    stopped in between, and are used only where there is no better one. The newest boundary is less than one interval
    behind the newest checkpoint, unless the interval has changed or boundaries were lost. Then the newest checkpoints
    come first, so that a run never repeats more than one interval.

    Args:
        config: The run's config.
        checkpoints: The updates that have a checkpoint.
        finished: The updates among them at which the run had consumed all of its env steps.
    """
    checkpoints = list(checkpoints)
    boundaries = [update for update in checkpoints if update in finished or is_exact(config, update)]
    if boundaries and max(checkpoints) - max(boundaries) >= max(config.checkpoint.every_updates, 1):
        return sorted(checkpoints, reverse=True)
    return sorted(checkpoints, key=lambda update: (update in boundaries, update), reverse=True)


def is_exact(config: Config, update: int) -> bool:
    """Returns whether a run that resumes after this update, not its last, equals one that was not stopped."""
    if config.determinism != "exact":
        return False
    if config.topology.placement == "anakin" or config.is_offline:
        return True
    every = config.checkpoint.every_updates
    return every > 0 and update % every == 0
