"""What a sweep is to find out, and Optuna's study of it in a storage."""

from collections.abc import Mapping
import dataclasses
import os
from pathlib import Path
from typing import Any

from podrl.config.config import check
from podrl.config.config_files import find_config, is_own_config
from podrl.mistakes import shorten
from podrl.studies.sweep_locks import locked
from podrl.studies.sweep_space import Space, digest_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep is to find out, the same for all its conductors; plain values.

    Attributes:
        config: One of podrl's own configs by name, or a user's file from the root.
        overrides: Overrides of all trials, by key.
        objective: The metric.
        direction: `maximize` or `minimize`.
        last_rows: Number of last rows whose mean is a trial's value.
        prune_by: What counts a trial's progress, `learner_steps` or `env_steps`.
        report_every: How often the pruner hears of a trial, in that unit.
    """

    config: str
    overrides: Mapping[str, str]
    objective: str
    direction: str
    last_rows: int
    prune_by: str
    report_every: int


def trial_folder(folder: Path, number: int) -> Path:
    """Returns the folder of a trial's run."""
    return folder / "trials" / f"{number:04d}"


def open_study(sweep: Sweep, space: Space, folder: Path, storage: str | None, name: str) -> Any:
    """Makes Optuna's study, or opens it; one conductor of a folder after the other, as Optuna makes tables in steps.

    Args:
        sweep: What it is to find out.
        space: What it varies.
        folder: Its folder.
        storage: URL of a database, or path of a journal file; None for SQLite in the folder.
        name: The study's name in the storage.

    Raises:
        ConfigError: If the storage cannot be opened, or has another sweep of this name; the message names what differs.
    """
    with locked(folder / "sweep.lock"):
        return _open(sweep, space, folder, storage, name)


def _open(sweep: Sweep, space: Space, folder: Path, storage: str | None, name: str) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    place: Any = storage or f"sqlite:///{folder / 'study.db'}"
    if place.startswith("sqlite:"):
        place = optuna.storages.RDBStorage(place, engine_kwargs={"connect_args": {"timeout": 60}})
    elif "://" not in place:
        place = optuna.storages.JournalStorage(JournalFileBackend(os.path.abspath(place)))
    direction: Any = sweep.direction  # One of Optuna's literals.
    warm_up = 5 * sweep.report_every
    study = optuna.create_study(
        storage=place,
        study_name=name,
        direction=direction,
        sampler=space.make_sampler() if space.make_sampler else optuna.samplers.TPESampler(constant_liar=True),
        pruner=space.make_pruner() if space.make_pruner else optuna.pruners.MedianPruner(5, warm_up),
        load_if_exists=True,
    )
    now = {**dataclasses.asdict(sweep), "config": _identify(sweep.config)}
    before = study.user_attrs.get("podrl")
    if before is None:
        check(not study.get_trials(deepcopy=False), f"The study {name!r} has trials of another program. Use --study.")
        study.set_user_attr("podrl", now)
        return study
    changed = [f"{key} was {before.get(key)}, is {value}" for key, value in now.items() if before.get(key) != value]
    check(not changed, f"The study {name!r} is another sweep: {shorten(changed)}. Choose another --workdir or --study.")
    return study


def _identify(config: str) -> str:
    """Returns what a config is in whatever folder: the name of one of podrl's own, else the file's name and digest."""
    file = find_config(config)
    if is_own_config(file.stem) and file.resolve() == find_config(file.stem).resolve():
        return file.stem
    return f"{file.name} with SHA-256 {digest_of(file)}..."
