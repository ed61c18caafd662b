"""The folder of a study: its manifest, what each run came to, and so what is left to do.

study.json             the manifest: definition, points, and every time that the study was started
yardsticks.json        of this machine, for the planner's predictions (`podrl.performance.planning.kept_yardsticks`)
points/POINT/seed-N/   the folder of a run, with `job.log`, and `result.json` or `failed.json` once it has ended
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import os
import time
from typing import Any

from etils import epath

from podrl.config.config import ConfigError, check
from podrl.config.config_dict import to_dict
from podrl.runs.records import Rows
from podrl.runs.workdir import write_json
from podrl.runtime.software import find_commit
from podrl.studies.definition import Definition, from_fields
from podrl.studies.feasibility import Feasible, Infeasible
from podrl.studies.grid import Trial, to_fields
from podrl.studies.machine import describe_host
from podrl.studies.sameness import check_same
from podrl.telemetry.metrics_file import Row

MANIFEST = "study.json"
WORDS = ("complete", "failed", "half-done", "not begun")
_RESULT, _FAILURE = "result.json", "failed.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """What a run came to so far.

    Attributes:
        word: `complete`, `failed`, `half-done` (begun, to be gone on with) or `not begun`.
        facts: of `result.json` or `failed.json`.
    """

    word: str
    facts: Mapping[str, Any]


class Folder:
    """Reads and writes the files of a study, in a folder or in a bucket."""

    def __init__(self, path: epath.PathLike):
        """Touches nothing."""
        self.path = epath.Path(path)

    @property
    def is_remote(self) -> bool:
        """Whether it is in an object store, where rows of metrics appear late."""
        return "://" in str(self.path)

    def run_folder(self, trial: Trial) -> epath.Path:
        """Where a run goes."""
        return self.path / "points" / trial.point.name / f"seed-{trial.seed}"

    def rows(self, trial: Trial, *names: str) -> Iterator[Row]:
        """The run's metrics so far; of each row the fields of these names, or all of them."""
        path = self.run_folder(trial) / "metrics.jsonl"
        if path.exists():
            yield from Rows(path).fields(*names) if names else Rows(path)

    def status(self, trial: Trial) -> Status:
        """What the run came to."""
        folder = self.run_folder(trial)
        for word, name in (("complete", _RESULT), ("failed", _FAILURE)):
            if (folder / name).exists():
                return Status(word=word, facts=json.loads((folder / name).read_text()))
        return Status(word="half-done" if (folder / "config.json").exists() else "not begun", facts={})

    def write_result(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """Says that a run is complete."""
        self._settle(trial, _RESULT, facts)

    def write_failure(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """Says that a run failed."""
        self._settle(trial, _FAILURE, facts)

    def forget_failure(self, trial: Trial) -> None:
        """Makes a run that failed one to go on with."""
        (self.run_folder(trial) / _FAILURE).unlink(missing_ok=True)

    def read_manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            ConfigError: if this is not the folder of a study.
        """
        path = self.path / MANIFEST
        check(path.exists(), f"--workdir={self.path} is not the folder of a study: it has no {MANIFEST}.")
        try:
            manifest: dict[str, Any] = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is not JSON: {error}.") from None
        return manifest

    def read_definition(self) -> Definition:
        """What the study is to measure.

        Raises:
            ConfigError: if this is not the folder of a study.
        """
        return from_fields(self.read_manifest()["definition"])

    def begin(
        self,
        definition: Definition,
        feasible: Sequence[Feasible],
        infeasible: Sequence[Infeasible],
        argv: Sequence[str],
        *,
        accept_changes: bool,
    ) -> None:
        """Writes the manifest; that of a study that goes on gets another start.

        Raises:
            ConfigError: if the folder cannot be written, or holds another study; names what differs.
        """
        base = to_dict(feasible[0].config) if feasible else {}
        now = {
            "definition": json.loads(json.dumps(dataclasses.asdict(definition))),
            "points": [_describe(each) for each in feasible],
            "invalid": [dataclasses.asdict(each) for each in infeasible],
            "config": json.loads(json.dumps(base)),
        }
        starts: list[Any] = []
        try:
            if (self.path / MANIFEST).exists():
                before = self.read_manifest()
                check_same(self.path, before, now, accept_changes=accept_changes)
                starts = before["starts"]
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / MANIFEST, {**now, "starts": [*starts, describe_start(argv)]})
        except ImportError as error:
            raise ConfigError(
                f"--workdir={self.path} needs another package: {error}. For gs://, `pip install -e '.[tpu]'` brings it."
            ) from None
        except OSError as error:
            raise ConfigError(
                f"--workdir={self.path} cannot be written ({error.strerror or error}). Choose another folder."
            ) from None

    def _settle(self, trial: Trial, name: str, facts: Mapping[str, Any]) -> None:
        folder = self.run_folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, facts)


def describe_start(argv: Sequence[str]) -> dict[str, Any]:
    """Who starts a study, and with what."""
    return {
        "argv": list(argv),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": find_commit(),
        **describe_host(),
        "load_average": os.getloadavg()[0],
    }


def _describe(each: Feasible) -> dict[str, Any]:
    devices = {"actor_devices": each.actor_devices, "learner_devices": each.learner_devices}
    return {**to_fields(each.point), **devices, "env_steps_per_update": each.config.env_steps_per_update}
