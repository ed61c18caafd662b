"""Runs what is left of a study, one run after another; a run that fails does not end it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
from pathlib import Path
import signal
import time
from typing import Any

from absl import logging

from podrl.config.config import Config, ConfigError
from podrl.launch.signals import StopSignals
from podrl.learning.replay import uncounted_updates
from podrl.runtime.job.secret import VARIABLE, make_secret
from podrl.runtime.stop_signals import INTERRUPTED, PREEMPTED
from podrl.runtime.temporary import temporary_folder
from podrl.studies.folder import Folder, Status
from podrl.studies.grid import Definition, Point, Trial
from podrl.studies.job import RunEnd, run_job
from podrl.studies.measurement import MEASURED_FIELDS, measure_rows, measured_seconds
from podrl.studies.places import make_run_command

Predict = Callable[[Config, int, int], float | None]  # (config, processes, devices of each) -> env steps per second
Measure = Callable[[Folder, Trial], Mapping[str, Any]]  # what `result.json` says of a run that has ended
LOG = "job.log"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
    """How runs of a study are made."""

    definition: Definition  # of the study
    folder: Folder  # that it is kept in
    stop: StopSignals  # catches the signals to this process
    silence_s: float  # how long a run may say nothing
    measure: Measure  # raises RuntimeError for a run that left nothing to measure
    # env steps per second of a config on so many processes of so many devices; None for no prediction
    predict: Predict | None = None

    def run(self, trial: Trial) -> Status:
        """Runs one to its end, or resumes it, and writes down what it came to."""
        predicted = self._predict(trial)
        if self._has_enough(trial):  # The study was cut after the run and before this was written down.
            return self._complete(trial, RunEnd(code=0, had_enough=True, text=""), predicted)
        started_s = time.monotonic()
        job = make_run_command(self.definition, trial, str(self.folder.run_folder(trial)))
        with self._log(trial) as log:
            ending = run_job(
                dataclasses.replace(job, environ={**job.environ, VARIABLE: make_secret()}),  # Launchers make their own.
                log,
                self.stop,
                has_enough=lambda: self._has_enough(trial),
                silence_s=self.silence_s,
            )
            ended = ending.had_enough and ending.code == PREEMPTED
            if ended:  # Else the last lines of the log are those of a run that was stopped from outside.
                text = f"after the {self.definition.seconds:g} s of training that --seconds gives a run"
                with log.open("a") as file:
                    file.write(f"[study {time.strftime('%H:%M:%S')}] Ended by the study as planned, {text}.\n")
        if ending.code == 0 or ended:
            return self._complete(trial, ending, predicted, job_s=time.monotonic() - started_s)
        if ending.was_cut:
            return Status(word="half-done", facts={"exit_code": ending.code, "text": ending.text})
        return self._fail(trial, ending)

    def _has_enough(self, trial: Trial) -> bool:
        seconds = self.definition.seconds
        rows = self.folder.rows(trial, *MEASURED_FIELDS)
        return seconds is not None and measured_seconds(rows, uncounted_updates(trial.point.config)) >= seconds

    def _complete(self, trial: Trial, ending: RunEnd, predicted: float | None, job_s: float | None = None) -> Status:
        try:
            found = self.measure(self.folder, trial)
        except RuntimeError as error:
            return self._fail(trial, dataclasses.replace(ending, text=str(error)))
        facts = {"exit_code": ending.code, "job_s": job_s, **found}
        return self.folder.settle(trial, "complete", facts | {"predicted_env_steps_per_second": predicted})

    def _fail(self, trial: Trial, ending: RunEnd) -> Status:
        return self.folder.settle(trial, "failed", {"exit_code": ending.code, "text": ending.text})

    def _predict(self, trial: Trial) -> float | None:
        """The prediction for a point; taken from its runs with other seeds if there are any."""
        if self.predict is None:
            return None
        for seed in self.definition.seeds:
            known: Any = self.folder.status(dataclasses.replace(trial, seed=seed)).facts
            if known.get("predicted_env_steps_per_second") is not None:
                return float(known["predicted_env_steps_per_second"])
        machines = trial.point.machines
        try:
            return self.predict(trial.point.config, machines.processes, machines.devices_per_process)
        except (ConfigError, RuntimeError, OSError) as error:
            logging.warning("No prediction for %s: %s", trial.point.name, error)
            return None

    @contextlib.contextmanager
    def _log(self, trial: Trial) -> Iterator[Path]:
        """A file on this machine for what the job says; it ends up in the run's folder."""
        folder = self.folder.run_folder(trial)
        if not self.folder.is_remote:
            folder.mkdir(parents=True, exist_ok=True)
            yield Path(folder) / LOG
            return
        with temporary_folder("study") as place:
            log = Path(place) / LOG
            try:
                yield log
            finally:
                if log.exists():
                    (folder / LOG).write_bytes(log.read_bytes())


def measure_speed(folder: Folder, trial: Trial) -> dict[str, Any]:
    """What a scaling study measures of a run. Raises RuntimeError if it left too few rows."""
    measurement = measure_rows(folder.rows(trial), uncounted_updates(trial.point.config))
    return {"measurement": dataclasses.asdict(measurement)}


def order(points: Sequence[Point], definition: Definition) -> list[Trial]:
    """All runs: every point once before any is repeated, so that a machine that slows down harms all alike.

    On TPUs the runs of one slice come together, since slices are created one by one.
    """
    starts, count = (definition.seeds[:1], len(definition.seeds)) if definition.together else (definition.seeds, 1)
    trials = [Trial(point=point, seed=seed, num_seeds=count) for seed in starts for point in points]
    slices = list(dict.fromkeys(point.machines.slice_type for point in points))
    return sorted(trials, key=lambda trial: slices.index(trial.point.machines.slice_type))


def take_up(folder: Folder, trial: Trial, *, retry_failed: bool) -> Status | None:
    """The status of a run that is to be made, whose failure is then forgotten; None if there is nothing to do."""
    status = folder.status(trial)
    if status.word == "complete" or (status.word == "failed" and not retry_failed):
        return None
    if status.word == "failed":
        folder.forget_failure(trial)
    return status


def run_all(runner: Runner, trials: Sequence[Trial], *, retry_failed: bool) -> int | None:
    """Runs what is left of all trials; returns the exit code of a study that was told to stop, else None."""
    for number, trial in enumerate(trials, start=1):
        status = take_up(runner.folder, trial, retry_failed=retry_failed)
        if status is None:
            continue
        begun = "resumes" if status.word != "not begun" else "runs"
        logging.info("%d of %d: %s %s", number, len(trials), begun, trial.name)
        status = runner.run(trial)
        if runner.stop.first is not None and status.word != "complete":
            return runner.stop.exit_code or INTERRUPTED
        logging.info("%d of %d: %s", number, len(trials), tell(status))
    return None


def tell(status: Status) -> str:
    """What a run came to, in one line."""
    if status.word == "complete" and "scores" in status.facts:
        scores = [f"{each['score']:,.2f} with seed {seed}" for seed, each in status.facts["scores"].items()]
        return f"complete: returns {', '.join(scores)}"
    if status.word == "complete":
        found = status.facts["measurement"]
        return (
            f"{found['env_steps_per_second']:,.0f} env steps/s over {found['measured_s']:.1f} s and "
            f"{found['measured_updates']:,} updates"
        )
    if status.word == "half-done":
        code = status.facts["exit_code"]
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"stopped with exit code {code}"
        return f"half-done: {how}; the same command resumes it"
    return f"{status.word}: exit code {status.facts['exit_code']}: {status.facts['text']}"
