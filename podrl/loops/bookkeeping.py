"""What both run loops share: compiled programs, rows of metrics, counters, and what is said when a run fails."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

from absl import logging
import jax

from podrl.agents.parts.nonfinite import NonFiniteError, first_bad_leaf
from podrl.config.config import Config
from podrl.experience.episodes import EpisodeWindow
from podrl.experience.schedule import last_update, max_lag
from podrl.learning.programs import FusedPrograms, Programs
from podrl.loops.interface import Assembly, Hooks, Services
from podrl.runtime.job.job import Job
from podrl.runtime.ledger import OTHER, Ledger
from podrl.runtime.watchdog import Watched
from podrl.telemetry.episode_gatherer import EpisodeGatherer
from podrl.telemetry.metrics_rows import MetricsRows
from podrl.types import Counters, EnvSpec, LearnerState, Snapshot

_Programs = TypeVar("_Programs", Programs, FusedPrograms)

COMPILE_S = 3600.0  # How much longer than others a process may compile; one that dies meanwhile is missed at once.


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
        hooks.compile()
        job.exchange("programs compiled", "", COMPILE_S)  # What follows is quick, so that others need not wait long.
        if start is None:
            state = jax.block_until_ready(programs.learner.init(assembly.config.seed))
            start = Snapshot(state=hooks.begin(state), counters=Counters(), episodes={})
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
    totals: Callable[[], Mapping[str, int]] = dict,
    whose: str = "",
) -> MetricsRows:
    """The rows of a run that resumes from `start`, where its clock continues; this process's began at `start_s`.

    They sum `totals`, which count since this start, over all processes. Offline `actors` are the ledgers of the threads
    that bring samples.
    """
    config = assembly.config
    return MetricsRows(
        begun=start.counters,
        every_updates=config.log.every_updates,
        last_update=last_update(config, start.counters),
        episodes=EpisodeWindow(config.log.episodes, start.episodes),
        gatherer=EpisodeGatherer(job, config.log.episodes, config.actors.timeout_s, totals),
        chain=start.chain,
        frames_per_step=assembly.spec.frames_per_step,
        start_s=start_s - (start.wall_s or 0.0),
        warm_up=1 + max_lag(config),
        stop_on_nonfinite=config.on_nonfinite == "stop",
        learner=services.ledger,
        actors=actors,
        write=hooks.write_row,
        whose=whose,
        samples_per_update=config.data.batch * config.data.learner_steps if config.is_offline else 0,
    )


def watch_learner(services: Services, doing: Callable[[], str]) -> None:
    """Lets the watchdog watch the main thread; `doing` returns what it does, for messages."""
    services.watchdog.watch(Watched(ledger=services.ledger, doing=doing, is_alive=lambda: True))


def tell_of_timeout(error: Exception, services: Services) -> None:
    """Logs what every thread does if one waited for too long, as long as they still stand where they wait."""
    if isinstance(error.__cause__ or error, TimeoutError):
        logging.error("A thread waited for too long.\n%s", services.watchdog.report(but=services.ledger))


def explain_nonfinite(
    error: NonFiniteError,
    config: Config,
    start: Counters,
    counters: Counters,
    state: LearnerState,
    in_batch: Sequence[str] = (),
) -> RuntimeError:
    """Explains an update that is not finite, found a few updates later: at `counters`.

    Args:
        error: Names what is not finite.
        config: The run's config.
        start: Counters where this process began.
        counters: Counters after the newest update that was launched.
        state: The state after it.
        in_batch: Numbers of the update's batch that are not finite, in words.
    """
    every, update = config.checkpoint.every_updates, counters.learner_steps - 1
    saved = max(start.learner_steps, update - update % every if every else 0)
    checkpoint = f"The last good checkpoint is of update {saved}. " if saved else "There is no checkpoint yet. "
    if in_batch:
        return RuntimeError(
            f"{error}. Its batch was not: {in_batch[0]}. {checkpoint}Mend the environment; on_nonfinite='skip' drops "
            "such updates."
        )
    leaf, further = first_bad_leaf(state.params), first_bad_leaf(state.extra)
    return RuntimeError(
        f"{error}. "
        + (f"The first parameter that is not finite now is {leaf}. " if leaf else "")
        + (f"Of the agent's further state {further} is not finite. " if further else "")
        + checkpoint
        + "A smaller agent.optimizer.learning_rate or .max_grad_norm may help; on_nonfinite='skip' drops such updates."
    )


def count_updates(config: Config, spec: EnvSpec, counters: Counters, num: int = 1) -> Counters:
    """Counters after more updates; the same on every process."""
    env_steps = counters.env_steps + num * config.env_steps_per_update
    return Counters(
        learner_steps=counters.learner_steps + num, env_steps=env_steps, frames=env_steps * spec.frames_per_step
    )
