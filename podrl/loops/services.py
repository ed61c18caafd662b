"""What a run's loop calls, what shows the run, and how it ended for all processes."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import json
import time
from typing import NamedTuple

from absl import logging
from etils import epath
from rich.console import Console

from podrl.config.config import Config
from podrl.envs.observations import describe_observation
from podrl.evaluation.evaluator import ROW_KEY
from podrl.learning.replay import describe_replay
from podrl.learning.sharding import describe_split
from podrl.loops.interface import Assembly, Hooks, Outcome
from podrl.mistakes import shorten
from podrl.networks.no_effect import describe_unused
from podrl.networks.observation import encoders_of_parts
from podrl.runs.folder_guard import FolderGuard
from podrl.runs.resume import with_clock
from podrl.runtime.job.job import Job
from podrl.runtime.ledger import Ledger
from podrl.runtime.profiler import Profiler
from podrl.runtime.watchdog import Watchdog, Watched
from podrl.telemetry.display import Display
from podrl.telemetry.metrics_file import newest_rows
from podrl.telemetry.reporter import Reporter
from podrl.telemetry.summary import Score, SeedEnd, Summary
from podrl.telemetry.writer import MetricsWriter
from podrl.types import Counters, LearnerState, Snapshot


class Instruments(NamedTuple):
    """What shows a run, and watches its main thread."""

    display: Display
    watchdog: Watchdog
    profiler: Profiler
    ledger: Ledger


@contextlib.contextmanager
def open_instruments(
    assembly: Assembly, folder: epath.Path, job: Job, on_stall: Callable[[], None], *, profile: bool
) -> Iterator[Instruments]:
    """Opens a run's instruments, and logs what it is made of. The display and the profile are the first process's.

    Args:
        assembly: The run's parts.
        folder: The run's folder.
        job: All processes; a lost one closes the display.
        on_stall: Called by the watchdog before it ends a process that stands still.
        profile: Whether to trace some updates.
    """
    config, first = assembly.config, job.process_index == 0
    console = None if first else Console(quiet=True)
    total, counts = config.total_env_steps, "env_steps"
    if config.is_offline:
        total, counts = config.total_updates, "learner_steps"
    with (
        Display(config.name, config.env.id, total, folder, console, counts=counts) as display,
        Watchdog(config.watchdog_s, on_stall=on_stall) as watchdog,
        Profiler(folder / "profile", last_update=config.num_updates, enabled=profile and first) as profiler,
    ):
        job.on_loss = display.close
        ledger = Ledger("learner", annotate=profiler.annotate)
        watchdog.watch(Watched(ledger=ledger, doing=lambda: "learner gets ready", is_alive=lambda: True))
        for line in _describe(assembly, str(folder)):
            logging.info("%s", line)
        yield Instruments(display, watchdog, profiler, ledger)


@contextlib.contextmanager
def open_reporter(
    assembly: Assembly,
    folder: epath.Path,
    start: Snapshot | None,
    instruments: Instruments,
    guard: FolderGuard,
    *,
    resumes: bool,
    label: str = "",
) -> Iterator[tuple[Reporter, Snapshot | None]]:
    """Opens the files of rows, and yields what reports to them, and `start` with the clock of the rows that are kept.

    Args:
        assembly: The run's parts.
        folder: The run's folder.
        start: Where the run resumes; None if it begins.
        instruments: Show rows, and what limits the run.
        guard: Notices that the run's folder is lost.
        resumes: Whether the folder holds a run.
        label: Begins messages about evaluations, to name one of several seeds.
    """
    config, (display, _, profiler, ledger) = assembly.config, instruments
    kept = (start.counters if start else Counters()) if resumes else None
    counts = "learner_steps" if config.is_offline else "env_steps"
    with MetricsWriter(folder, tensorboard=config.log.tensorboard, resumed=kept, counts=counts) as writer:
        start = with_clock(start, folder)  # The writer has put the rows in order.
        has_threads = config.is_offline or config.topology.placement == "sebulba"  # The advice is about their waits.
        advises = profiler.annotate is None and has_threads
        parts = (config, assembly.topology, writer, display, ledger, start, guard.check_news)
        yield Reporter(*parts, start_s=time.perf_counter(), advises=advises, label=label), start


def make_hooks(
    instruments: Instruments,
    *,
    checks: Sequence[Callable[[], None]],
    begin: Callable[[LearnerState], LearnerState] = lambda state: state,
) -> Hooks:
    """The functions that a run loop calls, without those that write to a folder.

    Args:
        instruments: Show how far the run is, and trace some updates.
        checks: Called before each update.
        begin: See `Hooks.begin`.
    """

    def before_update(launched: Counters, ended: Counters) -> None:
        instruments.display.advance(ended)
        instruments.profiler.before_update(launched.learner_steps + 1)
        for check_one in checks:
            check_one()

    return Hooks(show_phase=instruments.display.phase, before_update=before_update, begin=begin)


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


def make_summary(
    assembly: Assembly, outcome: Outcome, folder: epath.Path, *, start: Snapshot | None, wall_s: float
) -> Summary:
    """What the display shows in the end.

    Args:
        assembly: The run's parts.
        outcome: How the run ended.
        folder: The run's folder.
        start: Where this process resumed it, with the clock of its rows; None if it began.
        wall_s: Seconds since this process began.
    """
    return Summary(
        outcome="finished" if outcome.finished else "interrupted",
        counters=outcome.counters,
        wall_s=wall_s,
        before_s=(start.wall_s or 0.0) if start else 0.0,
        env_steps_per_second=outcome.env_steps_per_second,
        frames_per_second=outcome.env_steps_per_second * assembly.spec.frames_per_step,
        episode_return=outcome.episode_return,
        episodes=outcome.episodes,
        tensorboard=assembly.config.log.tensorboard,
        samples_per_second=outcome.samples_per_second if assembly.config.is_offline else None,
        score=_newest_score(assembly.config, folder) if assembly.config.is_offline else None,
        seeds=tuple(
            SeedEnd(alone.seed, each.episode_return, each.episodes)
            for alone, each in zip(assembly.config.of_each_seed(), outcome.seeds, strict=True)
        )
        if outcome.seeds
        else (),
    )


def _newest_score(config: Config, folder: epath.Path) -> Score | None:
    """The newest evaluation in the rows of a run."""
    rows = (row for row in newest_rows(folder / "metrics.jsonl") if isinstance(row.get(ROW_KEY), int | float))
    if (row := next(rows, None)) is None:
        return None
    return Score(row["learner_steps"], row[ROW_KEY], row["evaluate/episodes"], config.evaluate.greedy)


def _describe(assembly: Assembly, folder: str) -> list[str]:
    """Lines for the log: where a run acts, learns and writes, what its agent observes, and which layers are split."""
    lines = [f"{assembly.topology.describe()}; results go to {folder}"]
    lines += [f"observation: {describe_observation(assembly.spec)}"]
    if kinds := encoders_of_parts(assembly.config.network, assembly.spec):
        lines += [f"encoders: {', '.join(f'{name} by {kind}' for name, kind in kinds.items())}"]
    if unused := describe_unused(assembly.config.network, assembly.spec):
        lines += [f"network: {unused}"]
    if replay := describe_replay(assembly.config, assembly.state_shape):
        lines += [f"replay: {replay}"]
    if assembly.recorded:
        lines += [f"data: {assembly.recorded.describe()}"]
    if (seeds := assembly.config.topology.seeds) > 1:
        first = assembly.config.seed
        lines += [f"seeds: {first} to {first + seeds - 1} in one program, each in a folder seed-SEED of its own"]
    params = assembly.of_each_seed()[0].state_shape.params
    return lines + ([f"Learner: {describe_split(params)}."] if assembly.rules else [])
