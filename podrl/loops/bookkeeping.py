"""What both run loops share: how updates are counted, when they are saved and evaluated, and how a run ends."""

from collections.abc import Callable, Sequence
import functools
from typing import Any, TypeVar, cast

from absl import logging
import jax

from podrl.agents.parts.nonfinite import NonFiniteError, first_bad_leaf
from podrl.config.config import Config
from podrl.evaluation.evaluator import is_evaluation_due
from podrl.experience.episodes import EpisodeWindow
from podrl.experience.schedule import is_finished, last_update, max_lag
from podrl.learning.fused import FusedPrograms
from podrl.learning.programs import Programs
from podrl.loops.interface import Assembly, Hooks, Outcome, Services
from podrl.runtime.job.job import Job
from podrl.runtime.ledger import OTHER, Ledger
from podrl.telemetry.episode_gatherer import EpisodeGatherer
from podrl.telemetry.metrics_rows import MetricsRows
from podrl.types import Counters, EnvSpec, LearnerState, PyTree, Snapshot

_Programs = TypeVar("_Programs", Programs, FusedPrograms)

COMPILE_S = 3600.0  # How much longer than others a process may compile; one that dies meanwhile is missed at once.


class Evaluations:
    """When a run evaluates, and what waits for that; one process plays, and the others wait where it does."""

    def __init__(self, assembly: Assembly, start: Snapshot | None, services: Services, job: Job):
        """Starts no evaluation.

        Args:
            assembly: The run's parts.
            start: Where it resumes; None if it begins.
            services: Its evaluator plays on the first process alone; its `stop` ends long waits.
            job: All processes.
        """
        evaluate = assembly.config.evaluate
        self._evaluator, self._ledger, self._stop = services.evaluator, services.ledger, services.stop
        self._job = job
        self._is_on = evaluate.every_updates > 0
        self._patience_s = assembly.config.actors.timeout_s + evaluate.timeout_s
        self._stopped = False  # Whether the run was to stop in a wait for an evaluation.
        self.is_due = functools.partial(
            is_evaluation_due,
            every_updates=evaluate.every_updates,
            last_update=last_update(assembly.config, start.counters if start else Counters()),
        )

    def add(self, counters: Counters, params: PyTree, *, saves: bool, look: Callable[[], object]) -> None:
        """Takes an update that was just launched; see `Evaluator.add`.

        Args:
            counters: After this update.
            params: What `Agent.actor_params` returned.
            saves: Whether a checkpoint follows.
            look: Sees whether the update has ended; called all the time while this waits for an evaluation.
        """

        def should_stop() -> bool:
            look()
            return self._stop.now()

        with self._ledger.spend("evaluate" if self._is_on else OTHER):
            if not self._stopped:
                self._stopped = not self._evaluator.add(counters, params, saves=saves, should_stop=should_stop)
            if saves or self.is_due(counters):
                self._await_first()

    def settle(self, counters: Counters) -> bool:
        """Waits for an evaluation under way, and returns whether all that were due have ended."""
        with self._ledger.spend("evaluate"):
            ended = self._evaluator.settle(self._stop.now) and not self._evaluator.is_due(counters)
            self._await_first()
        return ended

    def make_up(self, counters: Counters, make_params: Callable[[], PyTree]) -> bool:
        """Evaluates the last update of a run that has made all, if that is missing; returns whether it has ended."""
        if self._is_on:  # On all processes, though one evaluates: they hold parts of the parameters.
            params = make_params()
            if self._evaluator.is_due(counters):
                self._evaluator.add(counters, params)
        with self._ledger.spend("evaluate"):
            ended = self._evaluator.settle(self._stop.now)
            self._await_first()
        return ended

    def _await_first(self) -> None:
        """Waits for evaluations, which the first process alone does; a reduction has a shorter limit of its own."""
        if self._is_on:
            self._job.exchange("evaluation", "", self._patience_s)


def prepare(
    assembly: Assembly,
    programs: _Programs | None,
    start: Snapshot | None,
    hooks: Hooks,
    services: Services,
    job: Job,
) -> tuple[_Programs, Snapshot]:
    """Compiles a run's programs unless they are given, and makes its first state unless it resumes."""
    hooks.show_phase("compiling")
    with services.ledger.spend("compile" if programs is None else OTHER):
        programs = programs or cast(_Programs, assembly.compile())
        job.exchange("programs compiled", "", COMPILE_S)  # What follows is quick, so that others need not wait long.
        if start is None:
            state = jax.block_until_ready(programs.learner.init(assembly.config.seed))
            start = Snapshot(state=state, counters=Counters(), episodes={})
    return programs, start


def make_rows(
    assembly: Assembly,
    start: Snapshot,
    hooks: Hooks,
    services: Services,
    job: Job,
    *,
    start_s: float,
    actors: Sequence[Ledger] = (),
) -> MetricsRows:
    """The rows of a run that resumes from `start`, where its clock continues; this process's began at `start_s`."""
    config = assembly.config
    return MetricsRows(
        begun=start.counters,
        every_updates=config.log.every_updates,
        last_update=last_update(config, start.counters),
        episodes=EpisodeWindow(config.log.episodes, start.episodes),
        gatherer=EpisodeGatherer(job, config.log.episodes, config.actors.timeout_s),
        chain=start.chain,
        frames_per_step=assembly.spec.frames_per_step,
        start_s=start_s - (start.wall_s or 0.0),
        warm_up=1 + max_lag(config),
        stop_on_nonfinite=config.on_nonfinite == "stop",
        learner=services.ledger,
        actors=actors,
        write=hooks.write_row,
    )


def nothing_to_do(assembly: Assembly, start: Snapshot, services: Services, job: Job) -> Outcome:
    """The outcome of a run that had already made all of its updates; evaluates the last one if that is missing."""
    evaluations = Evaluations(assembly, start, services, job)
    evaluated = evaluations.make_up(
        start.counters, functools.partial(cast(Any, assembly.learner).actor_params, start.state)
    )
    steps = f"{start.counters.env_steps:,}"
    logging.info("This run is finished: it has %s env steps, in %d updates.", steps, start.counters.learner_steps)
    episodes = EpisodeWindow(assembly.config.log.episodes, start.episodes)
    return Outcome(
        state=start.state,
        counters=start.counters,
        finished=evaluated,
        stop_code=services.stop.code(),
        env_steps_per_second=float("nan"),
        compile_s=0.0,
        episode_return=episodes.summary().get("episode/return"),
        episodes=len(episodes),
    )


def make_outcome(
    assembly: Assembly,
    state: LearnerState,
    counters: Counters,
    rows: MetricsRows,
    services: Services,
    *,
    evaluated: bool,
) -> Outcome:
    """The outcome of a run that has made its updates, or was stopped before."""
    return Outcome(
        state=state,
        counters=counters,
        finished=is_finished(assembly.config, counters) and evaluated,
        stop_code=services.stop.code(),
        env_steps_per_second=rows.rates.average,
        compile_s=services.ledger.seconds()["compile"],
        episode_return=rows.episode_return,
        episodes=rows.num_episodes,
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


def make_snapshot(state: LearnerState, counters: Counters, rows: MetricsRows) -> Snapshot:
    """Where a run stands; its last update has been settled."""
    return Snapshot(
        state=state, counters=counters, episodes=rows.record_episodes(), chain=rows.chain, wall_s=rows.wall_s
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
