"""Whether episodes fit into a folder: a new one, or a data set of the same rows and the same environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from podrl.config import programs
from podrl.config.config import check
from podrl.config.config_dict import differences
from podrl.data.manifest import DataSpec, is_unused_folder
from podrl.data.trees import describe_structs

FREE = ("workers", "worker_timeout_s")  # Settings of the environment that change no episode.


def check_new(folder: Path, is_new: bool) -> None:
    """Raises `ConfigError` if a folder is to hold a new data set, and has something in it."""
    check(
        not is_new or is_unused_folder(folder),
        f"{folder} is no data set, and not empty. Name a new folder, or one that {programs.program_of('record')} made.",
    )


def check_same_rows(folder: Path, found: DataSpec, wanted: DataSpec) -> None:
    """Raises `ConfigError` unless rows of both are alike."""
    check(
        (found.env.id, found.env.actions) == (wanted.env.id, wanted.env.actions),
        f"{folder} holds episodes of {found.env.id} with {found.env.actions}; these are of {wanted.env.id} with "
        f"{wanted.env.actions}. Name another folder.",
    )
    for name in sorted({**found.columns, **wanted.columns}):
        there, new = (spec.columns.get(name, "not there") for spec in (found, wanted))
        before, now = (each if isinstance(each, str) else describe_structs(each) for each in (there, new))
        check(there == new, f"{folder} holds other rows: {name} is {before}, and would be {now}. Name another folder.")


def check_same_settings(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises `ConfigError` unless episodes of both have the same environment, as far as its settings are known."""
    if not (found and wanted):
        return
    for key, (there, new) in differences(found, wanted).items():
        check(
            key.partition(".")[0] in FREE,
            f"{folder} holds episodes with env.{key}={there}; these have {new}. Name another folder.",
        )
