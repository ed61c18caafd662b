"""Conducts a sweep: asks Optuna for trials, runs each as a job of its own, and tells Optuna what came of it.

The storage knows the trials, and `trials/0007/` is the run of one. Conductors that share a storage work side by side.
One that runs a trial holds a lock in its folder, which ends with the conductor however that ends: a trial that is under
way, and whose lock is free, was left by a conductor that was killed, and the next one resumes it.
"""

from collections.abc import Mapping, Set
import contextlib
import dataclasses
from pathlib import Path
import sys
import time
from typing import Any

from absl import logging
import numpy as np

from podrl.config.config import ConfigError, check
from podrl.config.programs import start_arguments
from podrl.launch.signals import StopSignals
from podrl.mistakes import did_you_mean
from podrl.runs.new_rows import NewRows
from podrl.runs.records import Rows
from podrl.runtime.stop_signals import INTERRUPTED
from podrl.studies.execution import LOG
from podrl.studies.feasibility import as_arguments
from podrl.studies.job import RunCommand, RunEnd, run_job
from podrl.studies.sweep_locks import holds, locked
from podrl.studies.sweep_space import Space
from podrl.studies.sweep_study import Sweep, trial_folder
from podrl.telemetry.metrics_file import is_number

_ATTEMPTS = 3  # Times that a run is resumed within one sitting after it was killed from outside.
_ASKING_S = 60.0  # After so long a trial without values was left by a conductor that was killed while it asked.
_QUIET = {"log.tensorboard": "False"}  # The rows say the same.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conductor:
    """One process that conducts a sweep.

    Attributes:
        sweep: What it is to find out.
        space: What it varies.
        folder: Its folder.
        study: Optuna's study.
        trials: Number of trials, over all conductors.
        silence_s: How long a run may say nothing before it has failed.
        launch_flags: Flags of the launcher for each run.
        stop: The signals to this process.
    """

    sweep: Sweep
    space: Space
    folder: Path
    study: Any
    trials: int
    silence_s: float
    launch_flags: tuple[str, ...]
    stop: StopSignals

    def run(self) -> int | None:
        """Runs what is left; returns the exit code of a conductor that was told to stop, else None."""
        while self.stop.first is None:
            with contextlib.ExitStack() as stack:
                trial = self._claim(stack)
                if trial is None:
                    return None
                self._run(trial)
        return self.stop.exit_code or INTERRUPTED

    def _claim(self, stack: contextlib.ExitStack) -> Any:
        """Returns a trial that was left, or a new one, whose lock the stack releases; None if there is none."""
        from optuna.trial import Trial, TrialState

        with locked(self.folder / "sweep.lock"):
            known = self.study.get_trials(deepcopy=False)
            for left in [each for each in known if each.state == TrialState.RUNNING]:
                lock, place = self._lock(left.number), left.user_attrs.get("folder")
                if place == str(self.folder) or (place is None and lock.exists()):
                    if not holds(stack, lock):
                        continue
                    if "values" in left.user_attrs:
                        trial = Trial(self.study, left._trial_id)
                        trial.set_user_attr("folder", str(self.folder))
                        return trial
                    self._tell(left.number, state=TrialState.FAIL)
                elif place is None and time.time() - left.datetime_start.timestamp() > _ASKING_S:
                    self._tell(left.number, state=TrialState.FAIL)
            while self._num_counted() < self.trials and self.study.user_attrs.get("exhausted") != self.space.digest:
                trial = self._ask(stack)
                if trial is not None:
                    return trial
            return None

    def _num_counted(self) -> int:
        """Returns the number of trials so far, without those that ended before their values were known."""
        known = self.study.get_trials(deepcopy=False)
        return sum("values" in each.user_attrs or each.state.name == "PRUNED" for each in known)

    def _ask(self, stack: contextlib.ExitStack) -> Any:
        """Returns a new trial with its values, whose lock the stack releases; None if the space refuses it.

        Raises:
            ConfigError: If the space fails; the study then knows the trial as failed.
        """
        from optuna import TrialPruned
        from optuna.trial import TrialState

        trial = self.study.ask()
        holds(stack, self._lock(trial.number))
        try:
            values = self.space.draw(trial)
        except TrialPruned:
            self._tell(trial.number, state=TrialState.PRUNED)
            logging.info("Trial %d: sample(trial) refuses it.", trial.number)
            return None
        except ConfigError:
            self._tell(trial.number, state=TrialState.FAIL)
            raise
        trial.set_user_attr("values", values)  # First: a trial with a folder has values.
        trial.set_user_attr("folder", str(self.folder))
        return trial

    def _lock(self, number: int) -> Path:
        return trial_folder(self.folder, number) / ".conductor"

    def _run(self, trial: Any) -> None:
        """Runs a trial to its end, or to where it is pruned, and tells the study; a stop leaves it as it is."""
        from optuna.trial import TrialState

        values: dict[str, str] = trial.user_attrs["values"]
        shown = ", ".join(f"{key}={value}" for key, value in values.items())
        logging.info("Trial %d of %d: %s", trial.number, self.trials, shown)
        try:
            self.space.put_together(values)
        except ConfigError as error:
            self._fail(trial, str(error))
            return
        watch = Watch(trial, self.sweep, self.folder)
        ending = self._run_job(trial, values, watch)
        watch()
        if self.stop.first is not None and ending.code != 0:
            logging.info("Trial %d is half-done; the same command resumes it.", trial.number)
        elif ending.code == 0:
            self._complete(trial)
        elif ending.had_enough:
            self._tell(trial.number, state=TrialState.PRUNED)
            logging.info("Trial %d: pruned at %s %s", trial.number, f"{watch.step:,}", self.sweep.prune_by)
        else:
            self._fail(trial, f"exit code {ending.code}: {ending.text}")

    def _run_job(self, trial: Any, values: Mapping[str, str], watch: "Watch") -> RunEnd:
        folder = trial_folder(self.folder, trial.number)
        settings = as_arguments({**_QUIET, **self.sweep.overrides, **values})
        arguments = (f"--config={self.sweep.config}", *settings, f"--workdir={folder}")
        command = RunCommand(command=(sys.executable, *start_arguments("train"), *self.launch_flags, *arguments))
        for _ in range(_ATTEMPTS):
            ending = run_job(command, folder / LOG, self.stop, has_enough=watch, silence_s=self.silence_s)
            if ending.had_enough or not ending.was_cut or self.stop.first is not None:
                break
            logging.info("Trial %d was stopped from outside (exit code %d): resumes it.", trial.number, ending.code)
        return ending

    def _complete(self, trial: Any) -> None:
        objective, rows = self.sweep.objective, Rows(trial_folder(self.folder, trial.number) / "metrics.jsonl")
        found = [row[objective] for row in rows.fields(objective) if is_number(row.get(objective))]
        if not found:
            self._fail(trial, f"no row has {objective}")
            self._check_objective({name for row in rows for name in row})
            return
        value = float(np.mean(found[-self.sweep.last_rows :]))
        self._tell(trial.number, value)
        logging.info("Trial %d: %s %.4g", trial.number, self.sweep.objective, value)

    def _check_objective(self, names: Set[str]) -> None:
        """Raises ConfigError if the objective is no metric of a complete run, nor of any other trial."""
        objective, known = self.sweep.objective, self.study.get_trials(deepcopy=False)
        check(
            objective in names or any(each.intermediate_values or each.value is not None for each in known),
            f"--objective={objective} is no metric of these runs{did_you_mean(objective, sorted(names))} Start the "
            "sweep again with another objective and another --workdir or --study.",
        )

    def _fail(self, trial: Any, reason: str) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr("reason", reason)
        self._tell(trial.number, state=TrialState.FAIL)
        logging.warning("Trial %d failed: %s", trial.number, reason)

    def _tell(self, number: int, value: float | None = None, state: Any = None) -> None:
        """Tells the study what came of a trial; samplers of a grid then stop a loop of Optuna's, which there is not."""
        try:
            self.study.tell(number, value, state)
        except RuntimeError:
            if not self.study.get_trials(deepcopy=False)[number].state.is_finished():
                raise
            self.study.set_user_attr("exhausted", self.space.digest)


class Watch:
    """Reports the rows of a trial under way to the pruner; called often, and true from when it is to be pruned.

    The steps that are reported are the same for all trials, multiples of `report_every`, so that they can be compared.

    Attributes:
        step: The newest step that was reported.
    """

    def __init__(self, trial: Any, sweep: Sweep, folder: Path) -> None:
        """Starts where an earlier conductor of the trial ended."""
        self._trial, self._sweep = trial, sweep
        self._rows = NewRows(trial_folder(folder, trial.number) / "metrics.jsonl")
        known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        self.step, self._is_pruned = max(known, default=0), False

    def __call__(self) -> bool:
        """Returns whether the trial is to be pruned."""
        step = self.step
        for row in self._rows.read():
            value, done = row.get(self._sweep.objective), row.get(self._sweep.prune_by, 0)
            reached = done // self._sweep.report_every * self._sweep.report_every
            if reached > self.step and is_number(value):
                self.step = reached
                self._trial.report(value, reached)
        if self.step > step and not self._is_pruned:
            self._is_pruned = self._trial.should_prune()
        return self._is_pruned
