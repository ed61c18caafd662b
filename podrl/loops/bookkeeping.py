"""What both run loops share: how updates are counted, when they are saved and evaluated, and how a run ends."""

from collections.abc import Callable, Sequence
import dataclasses
import functools

from absl import logging
import jax

from podrl.agents.parts.nonfinite import NonFiniteError, first_bad_leaf
from podrl.config.config import Config
from podrl.evaluation.evaluator import Evaluator, is_evaluation_due
from podrl.experience.episodes import EpisodeWindow
from podrl.experience.schedule import is_finished, last_update, max_lag
from podrl.runtime.job.job import Job
from podrl.runtime.ledger import OTHER, Ledger
from podrl.telemetry.episode_gatherer import EpisodeGatherer
from podrl.telemetry.metrics_file import Row
from podrl.telemetry.metrics_rows import Journal
from podrl.types import Counters, EnvSpec, LearnerState, PyTree, Snapshot

COMPILE_S = 3600.0  # How much longer than others a process may compile; one that dies meanwhile is missed at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves in memory.

    Attributes:
        state: the learner's last state.
        counters: progress of the whole job.
        finished: false if it was told to stop before the last update or the last evaluation had ended.
        stop_code: what `should_stop` said in the end: 0, or the exit code of the signal that stopped it.
        env_steps_per_second: average that the learner consumed, warm-up excluded; NaN after a single update.
        compile_s: seconds that compilation took; 0 if the programs were given.
        episode_return: mean over the newest episodes; None if none has finished.
        episodes: number of episodes behind it.
    """

    state: LearnerState
    counters: Counters
    finished: bool
    stop_code: int
    env_steps_per_second: float
    compile_s: float
    episode_return: float | None
    episodes: int


class Evaluations:
    """When a run evaluates, and what waits for that; one process plays, and the others wait where it does."""

    def __init__(
        self,
        config: Config,
        start: Snapshot | None,
        evaluator: Evaluator,
        job: Job,
        ledger: Ledger,
        give_up: Callable[[], bool],
    ):
        """Starts nothing.

        Args:
            config: of the run.
            start: where it goes on; None if it begins.
            evaluator: of this process; of the first one alone it plays.
            job: of this process.
            ledger: of the main thread.
            give_up: asked in long waits; ends them.
        """
        evaluate = config.evaluate
        self._evaluator, self._job, self._ledger, self._give_up = evaluator, job, ledger, give_up
        self._is_on = evaluate.every_updates > 0
        self._patience_s = config.actors.timeout_s + evaluate.timeout_s
        self._goes_on = True  # Until it is to stop while it waits for an evaluation.
        self.is_due = functools.partial(
            is_evaluation_due,
            every_updates=evaluate.every_updates,
            last_update=last_update(config, start.counters if start else Counters()),
        )

    def add(self, counters: Counters, params: PyTree, *, saves: bool, look: Callable[[], object]) -> None:
        """Takes an update that was just launched; see `Evaluator.add`.

        Args:
            counters: after this update.
            params: what `Agent.actor_params` returned.
            saves: whether a checkpoint follows.
            look: sees whether the update has ended; called all the time while this waits for an evaluation.
        """

        def give_up() -> bool:
            look()
            return self._give_up()

        with self._ledger.spend("evaluate" if self._is_on else OTHER):
            self._goes_on = self._goes_on and self._evaluator.add(counters, params, saves=saves, should_stop=give_up)
            if saves or self.is_due(counters):
                self._await_first()

    def settle(self, counters: Counters) -> bool:
        """Waits for an evaluation under way, and says whether all that were due have ended."""
        with self._ledger.spend("evaluate"):
            ended = self._evaluator.settle(self._give_up) and not self._evaluator.is_due(counters)
            self._await_first()
        return ended

    def make_up(self, counters: Counters, make_params: Callable[[], PyTree]) -> bool:
        """Evaluates the last update of a run that has made all, if that is missing; says whether it has ended."""
        if self._is_on:  # On all processes, though one evaluates: they hold parts of the parameters.
            params = make_params()
            if self._evaluator.is_due(counters):
                self._evaluator.add(counters, params)
        with self._ledger.spend("evaluate"):
            ended = self._evaluator.settle(self._give_up)
            self._await_first()
        return ended

    def _await_first(self) -> None:
        """Waits for evaluations, which the first process alone does; a reduction has a shorter limit of its own."""
        if self._is_on:
            self._job.exchange("evaluation", "", self._patience_s)


def make_journal(
    config: Config,
    spec: EnvSpec,
    start: Snapshot,
    job: Job,
    *,
    start_s: float,
    learner: Ledger,
    actors: Sequence[Ledger],
    write: Callable[[Row], None],
) -> Journal:
    """The journal of a run that goes on from `start`, whose clock goes on there; this process's began at `start_s`."""
    patience_s = config.actors.timeout_s
    return Journal(
        begun=start.counters.learner_steps,
        every_updates=config.log.every_updates,
        last_update=last_update(config, start.counters),
        episodes=EpisodeWindow(config.log.episodes, start.episodes),
        gatherer=EpisodeGatherer(job, config.log.episodes, patience_s),
        chain=start.chain,
        frames_per_step=spec.frames_per_step,
        start_s=start_s - (start.wall_s or 0.0),
        warm_up=1 + max_lag(config),
        timeout_s=patience_s,
        stop_on_nonfinite=config.on_nonfinite == "stop",
        learner=learner,
        actors=actors,
        write=write,
    )


def nothing_to_do(config: Config, start: Snapshot, *, finished: bool, stop_code: int) -> Outcome:
    """Of a run that had made all of its updates before."""
    steps = f"{start.counters.env_steps:,}"
    logging.info("This run is finished: it has %s env steps, in %d updates.", steps, start.counters.learner_steps)
    episodes = EpisodeWindow(config.log.episodes, start.episodes)
    return Outcome(
        state=start.state,
        counters=start.counters,
        finished=finished,
        stop_code=stop_code,
        env_steps_per_second=float("nan"),
        compile_s=0.0,
        episode_return=episodes.summary().get("episode/return"),
        episodes=len(episodes),
    )


def make_outcome(
    config: Config,
    state: LearnerState,
    counters: Counters,
    journal: Journal,
    ledger: Ledger,
    *,
    evaluated: bool,
    code: int,
) -> Outcome:
    """Of a run that has made its updates, or was stopped with this code before."""
    return Outcome(
        state=state,
        counters=counters,
        finished=is_finished(config, counters) and evaluated,
        stop_code=code,
        env_steps_per_second=journal.rates.average,
        compile_s=ledger.seconds()["compile"],
        episode_return=journal.episode_return,
        episodes=journal.num_episodes,
    )


def explain_nonfinite(
    error: NonFiniteError,
    config: Config,
    start: Counters,
    counters: Counters,
    state: LearnerState,
    in_batch: Sequence[str] = (),
) -> RuntimeError:
    """What to know of a run whose numbers went wrong, a few updates before `counters`.

    Args:
        error: what is not finite.
        config: of the run.
        start: where this process began.
        counters: of the newest update that was launched.
        state: after it.
        in_batch: numbers of the update's batch that are not finite, in words.
    """
    every, update = config.checkpoint.every_updates, counters.learner_steps - 1
    saved = max(start.learner_steps, update - update % every if every else 0)
    checkpoint = f"The last good checkpoint is of update {saved}. " if saved else "There is no checkpoint yet. "
    if in_batch:
        return RuntimeError(
            f"{error}. Its batch was not: {in_batch[0]}. {checkpoint}Mend the environment; on_nonfinite='skip' drops "
            "such updates."
        )
    leaf = first_bad_leaf(state.params)
    return RuntimeError(
        f"{error}. "
        + (f"The first parameter that is not finite now is {leaf}. " if leaf else "")
        + checkpoint
        + "A smaller agent.learning_rate or agent.max_grad_norm may help; on_nonfinite='skip' drops such updates."
    )


def first_snapshot(init: Callable[[int], LearnerState], seed: int) -> Snapshot:
    """Where a new run starts."""
    state = jax.block_until_ready(init(seed))
    return Snapshot(state=state, counters=Counters(), episodes={})


def make_snapshot(state: LearnerState, counters: Counters, journal: Journal) -> Snapshot:
    """Where a run stands; the journal has settled its last update."""
    return Snapshot(
        state=state,
        counters=counters,
        episodes=journal.record_episodes(),
        chain=journal.chain,
        wall_s=journal.wall_s,
    )


def is_checkpoint_due(config: Config, counters: Counters) -> bool:
    """Whether the update that was just counted ends with a checkpoint; the same on every process."""
    every = config.checkpoint.every_updates
    return every > 0 and counters.learner_steps > 0 and counters.learner_steps % every == 0


def count_updates(config: Config, spec: EnvSpec, counters: Counters, num: int = 1) -> Counters:
    """Counters after more updates; the same on every process."""
    env_steps = counters.env_steps + num * config.env_steps_per_update
    return Counters(
        learner_steps=counters.learner_steps + num, env_steps=env_steps, frames=env_steps * spec.frames_per_step
    )
