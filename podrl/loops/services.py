"""What a run's loop calls, what plays its evaluations, and how the run ended for all processes."""

from collections.abc import Callable, Sequence
import dataclasses
import json

from absl import logging
from etils import epath
from rich.console import Console

from podrl.config.config import Config
from podrl.evaluation.evaluator import OFF, ROW_KEY, Evaluator
from podrl.evaluation.making import make_evaluator
from podrl.loops.interface import Assembly, Hooks, Outcome
from podrl.mistakes import shorten
from podrl.runs.folder_guard import FolderGuard
from podrl.runtime.profiler import Profiler
from podrl.telemetry.display import Display
from podrl.telemetry.kept_rows import has_row_with
from podrl.telemetry.reporter import Reporter
from podrl.telemetry.summary import Summary
from podrl.types import Counters, EnvSpec, Snapshot


def make_hooks(
    display: Display,
    profiler: Profiler,
    reporter: Reporter | None,
    guard: FolderGuard,
    *,
    checks: Sequence[Callable[[], None]],
    save: Callable[[Snapshot], None],
) -> Hooks:
    """The functions that a run loop calls.

    Args:
        display: Shows how far the run is.
        profiler: Traces some updates.
        reporter: Writes rows; None where another process does.
        guard: Notices that the run's folder is lost.
        checks: Called before each update.
        save: Writes a checkpoint.
    """

    def before_update(launched: Counters, ended: Counters) -> None:
        display.advance(ended)
        profiler.before_update(launched.learner_steps + 1)
        for check_one in checks:
            check_one()

    def save_guarded(snapshot: Snapshot) -> None:
        guard.check()
        if reporter:
            reporter.before_checkpoint(snapshot)  # A run that resumes from it does not make these rows again.
        save(snapshot)

    write_row = reporter.write_row if reporter else lambda row: None
    return Hooks(show_phase=display.phase, before_update=before_update, write_row=write_row, save=save_guarded)


def open_display(config: Config, folder: epath.Path, *, shown: bool) -> Display:
    """The display of a run; of a process that is not the first it prints nothing."""
    console = None if shown else Console(quiet=True)
    return Display(config.name, config.env.id, config.total_env_steps, folder, console)


def open_evaluator(assembly: Assembly, begin: Counters, folder: epath.Path, reporter: Reporter | None) -> Evaluator:
    """The evaluator of a run that starts at `begin`; one that is off where there is no reporter."""
    evaluator = make_evaluator(
        assembly.config,
        agent=assembly.agent,
        spec=assembly.spec,
        source=assembly.source,
        device=assembly.topology.local_actor_devices[-1],
        begun=begin,
        done={begin.learner_steps} if reporter and has_row_with(folder, ROW_KEY, begin.learner_steps) else set(),
        write=reporter.write_evaluation if reporter else lambda counters, episodes: None,
    )
    return evaluator if reporter else OFF


def agree_on_end(
    outcome: Outcome, stop_code: int, share: Callable[[str], Sequence[str]], name_of: Callable[[int], str]
) -> Outcome:
    """How the run ended for all processes: finished if it is for each, and stopped by the highest code of any.

    Args:
        outcome: This process's outcome.
        stop_code: Exit code of a signal that has come to this process, perhaps after the last vote.
        share: brings a text of this process to all of them, and theirs here.
        name_of: a process, for people.
    """
    ends = [json.loads(text) for text in share(json.dumps([outcome.finished, outcome.stop_code, stop_code]))]
    told = [name_of(process) for process, (_, _, code) in enumerate(ends) if code]
    if told and len(ends) > 1:
        logging.info("Told to stop: %s.", shorten(told))
    return dataclasses.replace(
        outcome,
        finished=all(finished for finished, _, _ in ends),
        stop_code=max(max(voted, code) for _, voted, code in ends),
    )


def make_summary(config: Config, spec: EnvSpec, outcome: Outcome, *, wall_s: float) -> Summary:
    """What the display shows in the end."""
    return Summary(
        outcome="finished" if outcome.finished else "interrupted",
        counters=outcome.counters,
        wall_s=wall_s,
        compile_s=outcome.compile_s,
        env_steps_per_second=outcome.env_steps_per_second,
        frames_per_second=outcome.env_steps_per_second * spec.frames_per_step,
        episode_return=outcome.episode_return,
        episodes=outcome.episodes,
        tensorboard=config.log.tensorboard,
    )
