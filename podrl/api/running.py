"""Trains from Python, as the command line does: the same config, folder, resume, reproducibility and messages."""

from collections.abc import Mapping
import copy
import os
from typing import Any

from absl import logging
import jax
import ml_collections
import numpy as np

from podrl.config.commandline import load_config
from podrl.config.config import ConfigError, check
from podrl.config.overrides import override
from podrl.config.paths import absolute_workdir
from podrl.config.programs import program_of
from podrl.config.user_modules import add_working_folder
from podrl.loops.interface import Outcome
from podrl.runtime.interruption import interruptible
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.jax_start import jax_has_started, tell_platforms
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.membership import Membership
from podrl.runtime.machine import jax_plugins, skip_absent_tpu
from podrl.runtime.process_exit import contained
from podrl.starting import borrowed_logging, set_up_process
from podrl.train import train

_READ_AT_START = ("JAX_PLATFORMS", "XLA_FLAGS", "NPROC")  # Variables that podrl sets, and JAX reads once.


def run(
    config: ml_collections.ConfigDict | str | os.PathLike,
    *,
    workdir: str | os.PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
    smoke: bool = False,
    accept_changes: bool = False,
    start_anew: bool = False,
    init_from: str | os.PathLike | None = None,
    profile: bool = False,
    alone: bool = False,
) -> Outcome:
    """Trains one agent in this process, with progress on the terminal; resumes the run that is in `workdir`.

    Ctrl-C saves after the update in flight and returns, with `finished` false and `stop_code` 130; so does SIGTERM,
    with 75. A second Ctrl-C raises `KeyboardInterrupt`. Signals reach a run in the main thread only.

    Args:
        config: What a config file's `get_config()` returns, which stays as it is, the path of such a file, or the name
            of one of podrl's own configs, such as `impala_catch`.
        workdir: The run's folder; by default `runs/<config>-<environment>-<time>`.
        overrides: Values by dotted key, such as `{"seed": 2, "agent.optimizer.learning_rate": 3e-4}`.
        smoke: Whether to shrink the config so that it ends in seconds.
        accept_changes: Whether the run in that folder may have been of another config.
        start_anew: Whether to delete what the run in that folder has, and to begin at update 0.
        init_from: Folder of another run, with whose newest weights this one begins.
        profile: Whether to trace a few updates, into `profile/` of that folder.
        alone: Whether this is the only process, whatever a scheduler's variables say.

    Returns:
        The last state, the counters, the mean return of the newest episodes, and whether the run finished.

    Raises:
        ConfigError: On a mistake of the user's, in one line.
        RuntimeError, TimeoutError: As `podrl.train.train` does, if an environment, a thread or the disk failed.
    """
    add_working_folder()
    asked = override(_load(config), [_argument(key, value) for key, value in (overrides or {}).items()])
    asked.smoke = asked.get("smoke", False) or smoke
    if not alone:
        _check_alone()
    with borrowed_logging():
        had_started, before = jax_has_started(), _settings()
        check_jax_settings(os.environ, jax_plugins())
        check(
            not jax.config.values["jax_enable_x64"],
            "jax_enable_x64 is on in this process, and agents learn in 32 bits. Set it to False before podrl.run.",
        )
        skip_absent_tpu(os.environ, jax_plugins())
        tell_platforms(os.environ)
        resolved = set_up_process(asked, Membership(platform="alone"), alone=True)
        if had_started and before != _settings():
            _tell_of_late_settings(before, exact=resolved.determinism == "exact")
        try:
            with interruptible(ends_process=False) as interruption, contained(by_ctrl_c=True):
                return train(
                    resolved,
                    workdir=_absolute(workdir),
                    argv=("podrl.run",),
                    profile=profile,
                    accept_changes=accept_changes,
                    start_anew=start_anew,
                    init_from=_absolute(init_from),
                    stop_code=interruption.code,
                )
        except Exception as error:
            if isinstance(error.__cause__, ConfigError):  # As `podrl.train.main` says it.
                raise error.__cause__ from None
            raise


def _load(config: ml_collections.ConfigDict | str | os.PathLike) -> ml_collections.ConfigDict:
    if isinstance(config, ml_collections.ConfigDict):
        return copy.deepcopy(config)
    check(
        isinstance(config, str | os.PathLike),
        f"config is a {type(config).__name__}; expected what a config file's get_config() returns, the path of one, or "
        "the name of one of podrl's own.",
    )
    return load_config(os.fspath(config))


def _absolute(folder: str | os.PathLike | None) -> str | None:
    return None if folder is None else absolute_workdir(os.fspath(folder))


def _argument(key: str, value: Any) -> str:
    """Returns an override as it is typed on the command line, where texts may be in quotes."""
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    known = value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
    check(
        known,
        f"overrides[{key!r}] is a {type(value).__name__}; expected a number, a text, true or false, None, or a list, "
        "tuple or dictionary of these.",
    )
    return f"--config.{key}={value!r}"


def _check_alone() -> None:
    """Raises `ConfigError` if a scheduler or launcher has started several processes, each of which would train."""
    place = find_membership(os.environ, coordinator=None, process_count=None, process_index=None)
    check(
        place.process_count == 1,
        f"podrl.run trains in one process, and this is one of {place.process_count} by what {place.platform} says. "
        f"Train several with {program_of('train')}, or say alone=True if this one trains by itself.",
    )


def _settings() -> dict[str, str]:
    return {name: os.environ.get(name, "") for name in _READ_AT_START}


def _tell_of_late_settings(before: Mapping[str, str], *, exact: bool) -> None:
    """Warns that JAX had started with other settings than podrl's; other processes still get podrl's."""
    late = [f"{name}={value!r}" for name, value in _settings().items() if value != before[name]]
    logging.warning(
        "JAX had started before podrl.run, so these have no effect in this process: %s. The run may be slower%s. Call "
        "podrl.run before anything that uses JAX, or set them before Python starts.",
        ", ".join(late),
        ", and differ from one of the command line in its last digits" if exact else "",
    )
