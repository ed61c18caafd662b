"""The folder of a study: its manifest, what each run came to, and so what is left to do.

study.json             the manifest: definition, points, and every time that the study was started
points/POINT/seed-N/   the folder of a run, with `job.log`, and `result.json` or `failed.json` once it has ended
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import os
import platform
import time
from typing import Any

from etils import epath

from podrl.config.config import ConfigError, check
from podrl.config.config_dict import to_dict
from podrl.runs.records import Rows
from podrl.runs.run_files import write_json, writing
from podrl.runtime.software import describe_start
from podrl.studies.feasibility import Infeasible
from podrl.studies.grid import Definition, Point, Trial, definition_from_fields, with_new_keys
from podrl.studies.sameness import check_same
from podrl.telemetry.metrics_file import Row

MANIFEST = "study.json"
WORDS = ("complete", "failed", "half-done", "not begun")
_FILES = {"complete": "result.json", "failed": "failed.json"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """What a run came to so far."""

    word: str  # `complete`, `failed`, `half-done` (begun, to be continued) or `not begun`
    facts: Mapping[str, Any]  # of `result.json` or `failed.json`


class Folder:
    """Reads and writes the files of a study, in a folder or in a bucket."""

    def __init__(self, path: epath.PathLike, *, flag: str = "--workdir"):
        self.path = epath.Path(path)
        self.flag = flag  # that names it, for messages

    @property
    def is_remote(self) -> bool:
        """Whether it is in an object store, where rows of metrics appear late."""
        return "://" in str(self.path)

    def run_folder(self, trial: Trial) -> epath.Path:
        """Where a run goes."""
        return self.path / self.run_path(trial)

    def run_path(self, trial: Trial) -> str:
        """The same, relative to the folder of the study."""
        today, *earlier = trial.folders
        return next((name for name in earlier if (self.path / name).exists()), today)

    def rows(self, trial: Trial, *names: str) -> Iterator[Row]:
        """The run's metrics so far; of each row the fields of these names, or all of them."""
        path = self.run_folder(trial) / "metrics.jsonl"
        if path.exists():
            yield from Rows(path).fields(*names) if names else Rows(path)

    def status(self, trial: Trial) -> Status:
        """What the run came to."""
        folder = self.run_folder(trial)
        for word, name in _FILES.items():
            if (folder / name).exists():
                return Status(word=word, facts=json.loads((folder / name).read_text()))
        return Status(word="half-done" if (folder / "config.json").exists() else "not begun", facts={})

    def settle(self, trial: Trial, word: str, facts: Mapping[str, Any]) -> Status:
        """Writes down that a run is `complete` or `failed`."""
        folder = self.run_folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts}
        write_json(folder / _FILES[word], facts)
        return Status(word=word, facts=facts)

    def forget_failure(self, trial: Trial) -> None:
        """Makes a failed run one to be resumed."""
        (self.run_folder(trial) / _FILES["failed"]).unlink(missing_ok=True)

    def read_manifest(self) -> dict[str, Any]:
        """The manifest."""
        path = self.path / MANIFEST
        check(path.exists(), f"{self.flag}={self.path} is not the folder of a study: it has no {MANIFEST}.")
        try:
            manifest: dict[str, Any] = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is not JSON: {error}.") from None
        is_free = manifest["config"].get("determinism") == "free"
        return {**manifest, "definition": with_new_keys(manifest["definition"], is_free=is_free)}

    def read_definition(self) -> Definition:
        """What the study is to measure."""
        return definition_from_fields(self.read_manifest()["definition"])

    def begin(
        self,
        definition: Definition,
        feasible: Sequence[Point],
        infeasible: Sequence[Infeasible],
        argv: Sequence[str],
        *,
        accept_changes: bool,
    ) -> None:
        """Writes the manifest; that of a study that goes on gets another start."""
        now = {
            "definition": json.loads(json.dumps(dataclasses.asdict(definition))),
            "points": [_describe(each) for each in feasible],
            "invalid": [dataclasses.asdict(each) for each in infeasible],
            "config": json.loads(json.dumps(to_dict(feasible[0].config) if feasible else {})),
        }
        starts: list[Any] = []
        with writing(self.path):
            if (self.path / MANIFEST).exists():
                before = self.read_manifest()
                check_same(self.path, before, now, accept_changes=accept_changes)
                starts = before["starts"]
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / MANIFEST, {**now, "starts": [*starts, _describe_start(argv)]})


def _describe_start(argv: Sequence[str]) -> dict[str, Any]:
    """When and where a study was started, and with what hardware and software."""
    path = epath.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        **describe_start(argv),
        "host": platform.node(),
        "processor": names[0] if names else platform.processor(),
        "load_average": os.getloadavg()[0],
    }


def _describe(point: Point) -> dict[str, Any]:
    place = {"name": point.name, "scaling": point.scaling, "machines": dataclasses.asdict(point.machines)}
    counts = {name: getattr(point, name) for name in ("settings", "num_envs", "actor_devices", "learner_devices")}
    return {**place, **counts, "env_steps_per_update": point.config.env_steps_per_update}
