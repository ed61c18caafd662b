"""Which parameters make which rollout, and where a run can go on after it was stopped.

Rollout n is what update n+1 learns from, counted from 0. It is made with the parameters of an exact update, whatever
the timing of threads: those before the newest, so that acting and learning overlap, or the newest if synchronous. With
`determinism='free'` it is made with the newest that are ready when it starts, up to a bound.

Emulators cannot be saved. So at every *boundary* the environments are opened anew, with seeds of their own, and the
rollout is made with the newest parameters, as at the start of a run: nothing from before is needed but the learner's
state. A run that was stopped goes on from a boundary as if it had not been, since one that is not stopped does the
same.

Where environments are in the compiled program (`topology.placement='anakin'`) none of this applies: they are a part of
the checkpoint, from which a run goes on wherever it was stopped, and the newest parameters always act.
"""

from collections.abc import Container, Iterable
import dataclasses

from podrl.config.config import Config
from podrl.types import Counters

_NONE = Counters()
WARMUP_UPDATES = 3  # A run's first two rollouts are made with the same parameters, and its first one opens the pools.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The order of things in a run.

    Attributes:
        first: updates done before it starts.
        last: updates done when it ends.
        every: updates between boundaries; 0 for none but the start.
        max_lag: updates between the newest parameters and those that act, away from boundaries.
        exact: whether the lag is `max_lag`, or at most that.
    """

    first: int
    last: int
    every: int
    max_lag: int
    exact: bool

    @property
    def rollouts(self) -> range:
        """Numbers of the rollouts to make."""
        return range(self.first, self.last)

    def boundary(self, update: int) -> int:
        """The newest boundary after at most `update` updates."""
        return max(self.first, update - update % self.every if self.every else 0)

    def versions(self, rollout: int) -> range:
        """The updates whose parameters may make a rollout: the newest of them that is ready does."""
        oldest = max(rollout - self.max_lag, self.boundary(rollout))
        return range(oldest, oldest + 1 if self.exact else rollout + 1)


def last_update(config: Config, counters: Counters) -> int:
    """The number of the update that reaches `total_env_steps`, for a run that stands at `counters`.

    Updates before it may have been of other sizes: what counts is the env steps. It is the same wherever a run whose
    sizes stay stands.
    """
    left = max(0, config.total_env_steps - counters.env_steps)
    return counters.learner_steps - (-left // config.env_steps_per_update)


def updates_ahead(config: Config, counters: Counters) -> float:
    """How many updates of today's size a run's env steps are ahead of its updates.

    0 where all updates were of this size, negative after smaller ones; the same wherever a run whose sizes stay stands.
    """
    steps = counters.env_steps - counters.learner_steps * config.env_steps_per_update
    return steps / config.env_steps_per_update


def is_finished(config: Config, counters: Counters) -> bool:
    """Whether a run that stands at `counters` has consumed all of its env steps."""
    return counters.env_steps >= config.total_env_steps


def make_schedule(config: Config, begun: Counters = _NONE) -> Schedule:
    """The schedule of a run that starts at `begun`."""
    exact = config.determinism == "exact"
    return Schedule(
        first=begun.learner_steps,
        last=last_update(config, begun),
        every=config.checkpoint.every_updates if exact else 0,
        max_lag=max_lag(config),
        exact=exact,
    )


def max_lag(config: Config) -> int:
    """How many updates the parameters that act may be behind the newest."""
    if config.actors.synchronous or config.topology.placement == "anakin":
        return 0
    return 1 if config.determinism == "exact" else config.actors.max_lag


def warm_up_updates(config: Config) -> int:
    """Updates of each start of a run that measured rates leave out.

    Rollouts of the first parameters lie ready when the first update ends: one for each update of policy lag.
    """
    return max(WARMUP_UPDATES, 1 + max_lag(config))


def resumable(config: Config, checkpoints: Iterable[int], finished: Container[int] = ()) -> list[int]:
    """Of the updates that have a checkpoint, those that the run can go on from, best first.

    At boundaries, and after the last update, it resumes bit for bit. Other checkpoints are of runs that were stopped in
    between: they serve only where there is no better one. The newest boundary is less than one interval behind the
    newest checkpoint, unless the interval has changed or boundaries were lost: then the newest checkpoints come first,
    so that no more than one interval is ever made again.

    Args:
        config: of the run.
        checkpoints: their updates.
        finished: those of them at which the run had all of its env steps.
    """
    checkpoints = list(checkpoints)
    boundaries = [update for update in checkpoints if update in finished or is_exact(config, update)]
    if boundaries and max(checkpoints) - max(boundaries) >= max(config.checkpoint.every_updates, 1):
        return sorted(checkpoints, reverse=True)
    return sorted(checkpoints, key=lambda update: (update in boundaries, update), reverse=True)


def is_exact(config: Config, update: int) -> bool:
    """Whether a run that goes on after this many updates, not its last, equals one that was not stopped."""
    if config.determinism != "exact":
        return False
    if config.topology.placement == "anakin":
        return True
    every = config.checkpoint.every_updates
    return every > 0 and update % every == 0
