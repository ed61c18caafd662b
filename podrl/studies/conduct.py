"""Conducts a study: finds out what can be run, runs what is left, and writes tables, figures and the report."""

from collections.abc import Callable, Sequence
import dataclasses
import shlex
import sys

from absl import logging

from podrl.config.config import ConfigError, check
from podrl.launch.signals import StopSignals
from podrl.mistakes import shorten
from podrl.runs.folder_guard import sole_user
from podrl.runtime.job.secret import EXPORT
from podrl.runtime.tables import encode_table
from podrl.studies import slurm_array
from podrl.studies.execution import Measure, Predict, Runner, measure_speed, order, run_all, take_up, tell
from podrl.studies.feasibility import Infeasible, examine
from podrl.studies.figures import draw_all
from podrl.studies.folder import Folder
from podrl.studies.grid import Definition, Manner, Point, Trial
from podrl.studies.places import common_overrides, make_run_command, platform, slice_name
from podrl.studies.report import make_page
from podrl.studies.summary import RunRecord, collect, summarize_points
from podrl.studies.table import make_point_table, make_run_table
from podrl.telemetry.plotting import make_figure

REPORT = "report.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyKind:
    """What a study is for: what is measured of a run, and the report that is made of all runs."""

    measure: Measure
    report: Callable[[Folder, Manner], int]  # writes it; returns the exit code: 1 if a run is not complete
    prepare: Callable[[Folder], None] = lambda folder: None  # writes what reports need, once the folder is the study's


def show_commands(definition: Definition, workdir: str, manner: Manner, program: Sequence[str]) -> None:
    """Prints what would be run: every command, and the scripts of SLURM's jobs."""
    folder = _open(definition, workdir)
    feasible, infeasible = _examine(definition, manner)
    trials = order(feasible, definition)
    for each in infeasible:
        sys.stdout.write(f"# Left out: {each.name}: {each.reason}\n")
    if definition.place == "slurm":
        for script in slurm_array.make_scripts(definition, folder, dict(enumerate(trials)), program, manner):
            sys.stdout.write(f"# sbatch, for runs {script.tasks}:\n{script.text}\n")
        sys.stdout.write(f"# By which the processes of each run know each other:\n{EXPORT}\n")
    for number, trial in enumerate(trials):
        job = make_run_command(definition, trial, str(folder.run_folder(trial)))
        environ = [f"{name}={shlex.quote(value)}" for name, value in job.environ.items()]
        limit = definition.seconds
        ended = "" if limit is None else f", which the study ends after {limit:g} s of training"
        sys.stdout.write(f"# {number}: {trial.name}{ended}\n{' '.join([*environ, shlex.join(job.command)])}\n")


def conduct(
    definition: Definition,
    workdir: str,
    argv: Sequence[str],
    manner: Manner,
    program: Sequence[str],
    predict: Predict | None = None,
    kind: StudyKind | None = None,
) -> int:
    """Conducts a study, or resumes it: a scaling study, or one of another `kind`.

    Returns:
        The exit code: 0 if every run is complete, or submitted; 1 if one is not; 75 and 130 if told to stop.
    """
    kind = kind or SCALING_STUDY
    feasible, infeasible = _examine(definition, manner)
    make_figure(1, 1)  # Matplotlib may be missing; better now than after hours.
    encode_table([], manner.table)
    folder = _open(definition, workdir)
    folder.begin(definition, feasible, infeasible, argv, accept_changes=manner.accept_changes)
    kind.prepare(folder)
    trials = order(feasible, definition)
    if definition.place == "slurm":
        return _submit(definition, folder, trials, manner, program, kind)
    with sole_user(folder.path), StopSignals() as stop:
        runner = Runner(
            definition=definition,
            folder=folder,
            stop=stop,
            silence_s=manner.silence_s,
            measure=kind.measure,
            predict=predict,
        )
        code = run_all(runner, trials, retry_failed=manner.retry_failed)
        if code is not None:
            logging.info("Stopped. The same command goes on.")
            return code
        if definition.place == "tpu":  # They cost money.
            names = dict.fromkeys(slice_name(definition, trial.point.machines) for trial in trials)
            logging.info("The TPU(s) %s stay: delete them when you are done (docs/tpu.md).", ", ".join(names))
        return kind.report(folder, manner)


def conduct_one(workdir: str, number: int, manner: Manner, kind: StudyKind | None = None) -> int:
    """Makes one run of a study that another command has begun: a task of a SLURM array.

    Returns:
        The exit code: 0 if it is complete, 1 if it failed, 75 or 130 if it was told to stop.
    """
    folder = Folder(workdir)
    definition = folder.read_definition()
    feasible, _ = _examine(definition, dataclasses.replace(manner, skip_invalid=True))
    trials = order(feasible, definition)
    check(0 <= number < len(trials), f"--point={number}: this study has runs 0 to {len(trials) - 1}.")
    trial = trials[number]
    with StopSignals() as stop:
        measure = (kind or SCALING_STUDY).measure
        runner = Runner(definition=definition, folder=folder, stop=stop, silence_s=manner.silence_s, measure=measure)
        logging.info("%d of %d: %s", number, len(trials), trial.name)
        status = runner.run(trial)
        logging.info("%d of %d: %s", number, len(trials), tell(status))
        if status.word == "complete":
            return 0
        return stop.exit_code or (status.facts["exit_code"] if status.facts["exit_code"] in (75, 130) else 1)


def report(folder: Folder, manner: Manner) -> int:
    """Writes tables, figures and the report of what there is so far.

    Returns:
        The exit code: 1 if a run is not complete.

    Raises:
        ConfigError: If the folder is not that of a scaling study.
    """
    manifest, definition = folder.read_manifest(), folder.read_definition()
    check(definition.score is None, f"{folder.flag}={folder.path} is the folder of a suite, not of a scaling study.")
    feasible, _ = _examine(definition, dataclasses.replace(manner, skip_invalid=True))
    records = collect(folder, feasible, definition.seeds)
    summaries = summarize_points(records)
    tables = {
        f"runs.{manner.table}": make_run_table(records, summaries),
        f"points.{manner.table}": make_point_table(summaries),
    }
    for name, rows in tables.items():
        (folder.path / name).write_bytes(encode_table(rows, manner.table))
    figures = draw_all(summaries)
    (folder.path / "figures").mkdir(exist_ok=True)
    for name, image in figures.items():
        (folder.path / "figures" / f"{name}.png").write_bytes(image)
    page = make_page(manifest, records, summaries, figures=figures, platform=platform(definition), files=list(tables))
    (folder.path / REPORT).write_text(page)
    return tell_end(folder, records)


SCALING_STUDY = StudyKind(measure=measure_speed, report=report)


def read_points(folder: Folder, manner: Manner) -> list[Point]:
    """The points of a folder's study that can be run."""
    return _examine(folder.read_definition(), dataclasses.replace(manner, skip_invalid=True))[0]


def tell_end(folder: Folder, records: Sequence[RunRecord]) -> int:
    """Says what is not complete, and where the report is; returns the exit code."""
    path = folder.path / REPORT
    lost = [record for record in records if record.status.word != "complete"]
    if not lost:
        logging.info("All %d runs are complete. The report: %s", len(records), path)
        return 0
    listed = shorten([f"{record.trial.name} ({record.status.word})" for record in lost])
    failed = any(record.status.word == "failed" for record in lost)
    advice = "add --retry_failed to try what failed again" if failed else "the same command goes on"
    logging.error(
        "%d of %d runs are not complete: %s; %s. The report: %s", len(lost), len(records), listed, advice, path
    )
    return 1


def _open(definition: Definition, workdir: str) -> Folder:
    """The folder of a study that is to be run, if it is where it can be."""
    folder = Folder(workdir)
    bucket = "with --launch tpu it must be in a bucket, gs://BUCKET/FOLDER, which all slices see."
    check(folder.is_remote or definition.place != "tpu", f"--workdir={workdir}: {bucket}")
    is_shared = not folder.is_remote or definition.place != "slurm"
    check(is_shared, f"--workdir={workdir}: SLURM's jobs want a folder that all nodes share.")
    late = "is in an object store, where metrics come late. Use --steps instead of --seconds."
    check(not folder.is_remote or definition.seconds is None, f"--workdir={workdir} {late}")
    return folder


def _examine(definition: Definition, manner: Manner) -> tuple[list[Point], list[Infeasible]]:
    whole = dataclasses.replace(definition, overrides=common_overrides(definition))
    feasible, infeasible = examine(whole, platform(definition))
    if infeasible and not (manner.skip_invalid and feasible):
        first, more = infeasible[0], len(infeasible) - 1
        why = f"{first.reason}{f' So it is with {more} more point(s).' if more else ''}"
        suite = "Change the config or --games."
        advice = "Change the grid, or add --skip_invalid." if definition.score is None else suite
        raise ConfigError(f"Point {first.name} cannot be run: {why} {advice}")
    return feasible, infeasible


def _submit(
    definition: Definition,
    folder: Folder,
    trials: Sequence[Trial],
    manner: Manner,
    program: Sequence[str],
    kind: StudyKind,
) -> int:
    slurm_array.require_idle(folder)
    statuses = [take_up(folder, trial, retry_failed=manner.retry_failed) for trial in trials]
    left = {number: trials[number] for number, status in enumerate(statuses) if status is not None}
    if not left:
        return kind.report(folder, manner)
    scripts = slurm_array.make_scripts(definition, folder, left, program, manner)
    jobs = [slurm_array.submit_study(folder, script) for script in scripts]
    last = slurm_array.submit_study(folder, slurm_array.make_last(definition, folder, jobs, program))
    sys.stdout.write(
        f"Submitted {len(left)} run(s) as SLURM job array(s) {', '.join(jobs)}; job {last} writes the report.\n"
        f"Where they stand:  squeue --jobs={','.join([*jobs, last])}\n"
        f"To end them:       scancel {' '.join([*jobs, last])}\n"
        f"The report so far: {shlex.join(['python', *program, f'--workdir={folder.path}', '--report_only'])}\n"
        f"To go on:          the same command, once no job is left\n"
    )
    return 0
