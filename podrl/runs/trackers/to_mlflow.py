"""Runs in MLflow: in its local store, or on the server of MLFLOW_TRACKING_URI."""

from collections.abc import Iterator, Mapping, Sequence
import re
import sqlite3
from typing import Any

from podrl.config.config import ConfigError
from podrl.runs.trackers.items import Item, TrackedRun, read_marks
from podrl.runs.trackers.mlflow_database import prepare_database

_TAG = "podrl.run_id"
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 1000, 100, 6000  # In one request; MLflow's own limits.


def open_run(run: TrackedRun, project: str) -> "MlflowRun":
    """Finds the run in MLflow by its id, or creates it.

    Raises:
        ConfigError: If MLflow's store or server cannot be reached.
    """
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    try:
        prepare_database(mlflow.get_tracking_uri())
        return MlflowRun(run, project)
    except (mlflow.MlflowException, SQLAlchemyError, OSError, sqlite3.Error) as error:
        text = " ".join(str(getattr(error, "orig", None) or error).split())  # SQLAlchemy's own text has whole queries.
        raise ConfigError(f"MLflow cannot be written: {text.rstrip('.')}. Look at MLFLOW_TRACKING_URI.") from error


class MlflowRun:
    """A run in MLflow, whose metrics have the learner step as their step."""

    def __init__(self, run: TrackedRun, project: str) -> None:
        """Finds the run or creates it, and brings config and manifests up to date."""
        import mlflow

        self._client = mlflow.MlflowClient()
        known = self._client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else self._client.create_experiment(project)
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.run_id}'")
        tags = {_TAG: run.run_id, "podrl.folder": run.folder}
        own = found[0] if found else self._client.create_run(experiment, tags=tags, run_name=run.title)
        self._id = own.info.run_id
        self.marks = read_marks(own.data.metrics)
        missing = {key: value for key, value in _flat(run.config) if key not in own.data.params}
        params = [mlflow.entities.Param(key, value[:_LONGEST_PARAM]) for key, value in missing.items()]
        for begin in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._id, params=params[begin : begin + _MOST_PARAMS])
        self._client.log_dict(self._id, dict(run.config), "config.json")  # Parameters do not change; this file does.
        self._client.log_dict(self._id, {"starts": run.manifests}, "manifests.json")
        self._client.update_run(self._id, status="RUNNING")

    def write(self, items: Sequence[Item]) -> None:
        """Adds items, each completely or not at all where MLflow has a database."""
        for batch in _batches(items):
            for item in batch:
                if item.file is not None:
                    self._client.log_artifact(self._id, str(item.file), "files")
            self._client.log_batch(self._id, metrics=[metric for item in batch for metric in _metrics(item)])

    def close(self, *, finished: bool) -> None:
        """Marks the run as finished if it is."""
        if finished:
            self._client.set_terminated(self._id, "FINISHED")


def _metrics(item: Item) -> list[Any]:
    """Returns an item's metrics, those of its mark last; what rows of updates have already is left out of others."""
    import mlflow

    own = {name: value for name, value in item.values.items() if item.kind == "update" or "/" in name}
    time_ms = round(1000 * item.time_s)
    return [mlflow.entities.Metric(re.sub(r"[^\w\-. :/]", "_", k), v, time_ms, item.mark) for k, v in own.items()]


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Deals items to requests of as many metrics as one may have."""
    batch: list[Item] = []
    for item in items:
        if sum(len(each.values) for each in [*batch, item]) > _MOST_METRICS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
