"""How fast a whole run is: the run loop itself, ended by the clock."""

import dataclasses
import itertools
import time

from podrl.assembly import run
from podrl.experience.schedule import warm_up_updates
from podrl.learning.replay import updates_before_learning
from podrl.loops.boundaries import is_checkpoint_due
from podrl.loops.interface import Hooks, Services
from podrl.performance.benchmark.instruments import Clocks, StageTime
from podrl.performance.benchmark.stages import Parts
from podrl.performance.benchmark.workers import env_workers
from podrl.runs.checkpoint import Checkpointer
from podrl.runtime.interruption import Stop
from podrl.runtime.temporary import temporary_folder
from podrl.types import Counters, Snapshot


def time_end_to_end(parts: Parts, seconds: float) -> StageTime:
    """The run loop with the checkpoints that are due, without metrics: steps that the learner consumed after warm-up.

    Measured from before one update to before another: at both ends one update is in flight. With replay the warm-up is
    longer, until updates learn.
    """
    noted: list[tuple[Clocks, int]] = []  # before each update, or each call of several, after the warm-up
    calls = itertools.count()
    first, learning = warm_up_updates(parts.config), updates_before_learning(parts.config)

    def note(launched: Counters, ended: Counters) -> None:
        if next(calls) >= first and launched.learner_steps >= learning:
            noted.append((Clocks.now(), launched.learner_steps))

    def is_over() -> bool:
        return len(noted) > 1 and noted[-1][0].wall_s >= noted[0][0].wall_s + seconds

    _run(parts, Hooks(before_update=note), Services(stop=Stop(code=is_over, now=is_over)))
    (start, before), (end, after) = noted[0], noted[-1]
    return start.sample((after - before) * parts.config.env_steps_per_update, end)


def time_first_update(parts: Parts) -> float:
    """Seconds that a run of a single update takes until its metrics are there: environments open, act, learn."""
    ended_s: list[float] = []
    start_s = time.perf_counter()
    once = dataclasses.replace(parts.config, total_env_steps=parts.config.env_steps_per_update)
    _run(dataclasses.replace(parts, config=once), Hooks(write_row=lambda row: ended_s.append(time.perf_counter())))
    return ended_s[0] - start_s


def _run(parts: Parts, hooks: Hooks, services: Services | None = None) -> None:
    """Runs with the checkpoints that are due, in a folder that is deleted afterwards."""
    config = parts.config
    with (
        env_workers(config),
        temporary_folder("benchmark") as folder,
        Checkpointer(folder, keep=config.checkpoint.keep, every=config.checkpoint.every_updates) as checkpointer,
    ):

        def save(snapshot: Snapshot) -> None:
            if is_checkpoint_due(config, snapshot.counters):  # Not where the clock ends the run.
                checkpointer.save(snapshot)

        hooks = dataclasses.replace(hooks, save=save)
        run(parts, hooks=hooks, services=services, programs=parts.programs)
