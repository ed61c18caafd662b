"""Opens the folders of a run, one for each of its seeds, and what writes to them.

A run of one seed has one folder. With `topology.seeds` above 1 the run's folder has its config, and in it each seed has
a folder of its own that is what a run of that seed alone leaves.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

from etils import epath

from podrl.config.config import Config
from podrl.config.config_dict import to_dict
from podrl.loops.evaluations import open_evaluator, prepare_evaluation
from podrl.loops.interface import Assembly, Hooks, SeedRun, Services
from podrl.loops.recording import RecordFolder, open_recording
from podrl.loops.services import Instruments, open_reporter
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpointing import make_checkpointer
from podrl.runs.folder_guard import FolderGuard
from podrl.runs.run_id import find_run_id, make_run_id
from podrl.runs.seed_folders import seed_folder
from podrl.runs.start_notes import note_start
from podrl.runs.workdir import write_facts
from podrl.runtime.job.job import Job
from podrl.runtime.watchdog import Watched
from podrl.telemetry.reporter import Reporter
from podrl.telemetry.seeds_display import SeedsDisplay
from podrl.types import Counters, Snapshot


class Place(NamedTuple):
    """A folder that a process holds, and whether there is a run in it."""

    folder: epath.Path
    resumes: bool
    guard: FolderGuard


def open_places(
    stack: contextlib.ExitStack,
    config: Config,
    whole: Place,
    open_one: Callable[..., tuple[epath.Path, bool]],
    stop_code: Callable[[], int],
) -> list[Place]:
    """Opens the folder of each seed in that of the run; of one seed it is that of the run.

    Args:
        stack: Releases them.
        config: The run's config, as the user asked for it.
        whole: The run's folder.
        open_one: (config, path, guard, is_new) -> folder and whether it holds a run, see `podrl.runs.opening`.
        stop_code: Asked while a folder is waited for.

    Raises:
        ConfigError: If one cannot be used.
    """
    if config.topology.seeds == 1:
        return [whole]
    places = []
    for alone in config.of_each_seed():
        guard = stack.enter_context(FolderGuard(stop_code))
        places.append(Place(*open_one(alone, seed_folder(str(whole.folder), alone.seed), guard, is_new=False), guard))
    return places


def open_checkpoints(stack: contextlib.ExitStack, assembly: Assembly, places: Sequence[Place]) -> list[Checkpointer]:
    """Opens the checkpoints of each seed.

    Saves of several seeds end at different times. So each keeps the one before, too: it is still there where a run ends
    between two of these times. `_in_step` takes care that all have completed it.
    """
    opened = [
        stack.enter_context(make_checkpointer(assembly.config, place.folder, assembly.env_index)) for place in places
    ]
    for checkpointer in opened if len(opened) > 1 else ():
        checkpointer.keep_previous()
    return opened


def open_seeds(
    stack: contextlib.ExitStack,
    assembly: Assembly,
    whole: Place,
    places: Sequence[Place],
    *,
    starts: Sequence[Snapshot | None],
    checkpointers: Sequence[Checkpointer],
    instruments: Instruments,
    manifest: Mapping[str, Any],
    recorded: RecordFolder,
    hooks: Hooks,
    services: Services,
    job: Job,
) -> list[SeedRun]:
    """Notes the start of the run in its folders, and opens what each seed writes to.

    Args:
        stack: Closes it.
        assembly: The run's parts.
        whole: The run's folder.
        places: The folders of its seeds.
        starts: Where they resume, None where they begin.
        checkpointers: Their checkpoints.
        instruments: Show the run.
        manifest: The run's manifest.
        recorded: Where the run's experience goes.
        hooks: Those of the process.
        services: Those of the process.
        job: All processes.
    """
    seeds: list[SeedRun] = []
    parts = assembly.of_each_seed()
    begin = starts[0].counters if starts[0] else Counters()
    hooks = stack.enter_context(open_recording(assembly, recorded, whole.folder.name, begin, hooks, services, job))
    in_step, make_evaluator = _in_step(checkpointers), prepare_evaluation(assembly)
    display: Any = SeedsDisplay(instruments.display, len(parts)) if len(parts) > 1 else instruments.display
    if len(parts) > 1:
        write_facts(whole.folder, assembly.asked, manifest)
    for alone, place, start, checkpointer in zip(parts, places, starts, checkpointers, strict=True):
        own = {**manifest, "seed": alone.config.seed}
        reporter = None
        if job.process_index == 0:
            own["run_id"] = find_run_id(place.folder) or make_run_id()
            _note(alone, place, start, own, tells=not seeds)
            opened = open_reporter(
                *(alone, place.folder, start, instruments._replace(display=display), place.guard),
                resumes=place.resumes,
                label=f"Seed {alone.config.seed}: " if len(parts) > 1 else "",
            )
            reporter, start = stack.enter_context(opened)
        begin = start.counters if start else Counters()
        opening = open_evaluator(make_evaluator, alone.config, begin, place.folder, reporter)
        evaluator, keep_unfinished = stack.enter_context(opening)
        services.watchdog.watch(Watched(ledger=evaluator.ledger, doing=evaluator.doing, is_alive=evaluator.is_alive))
        save = functools.partial(in_step, checkpointer, config=to_dict(alone.asked), manifest=own)
        seeds.append(
            SeedRun(
                assembly=alone,
                start=start,
                hooks=_with_files(hooks, reporter, place.guard, keep_unfinished, save),
                services=dataclasses.replace(services, evaluator=evaluator),
            )
        )
    return seeds


def _in_step(checkpointers: Sequence[Checkpointer]) -> Callable[..., None]:
    """Returns (checkpointer, snapshot, ...) -> None, which saves; the first of an update waits for those before it."""
    begun: set[Counters] = set()

    def save(checkpointer: Checkpointer, snapshot: Snapshot, **facts: Any) -> None:
        if snapshot.counters not in begun:
            for each in checkpointers:
                each.wait()
            begun.clear()
            begun.add(snapshot.counters)
        checkpointer.save(snapshot, **facts)

    return save


def _note(
    assembly: Assembly, place: Place, start: Snapshot | None, manifest: Mapping[str, Any], *, tells: bool
) -> None:
    """Records the start of a seed's run; `tells` is whether to warn of what has changed since its last start."""
    if tells:
        note_start(assembly.asked, place.folder, start, manifest, resumes=place.resumes)
    else:
        write_facts(place.folder, assembly.asked, manifest)


def _with_files(
    hooks: Hooks,
    reporter: Reporter | None,
    guard: FolderGuard,
    keep_unfinished: Callable[[Snapshot], None],
    save: Callable[[Snapshot], None],
) -> Hooks:
    """Returns hooks that write rows and checkpoints to a folder; `reporter` is None where another process does."""

    def save_guarded(snapshot: Snapshot) -> None:
        guard.check()
        hooks.save(snapshot)  # What was recorded up to here.
        if reporter:
            reporter.before_checkpoint(snapshot)  # A run that resumes from it does not make these rows again.
        keep_unfinished(snapshot)
        save(snapshot)

    write_row = reporter.write_row if reporter else lambda row: None
    return dataclasses.replace(hooks, write_row=write_row, save=save_guarded)
