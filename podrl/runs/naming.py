"""Names of runs' folders for which the user gave none. Needs no JAX: launchers name folders too."""

from collections.abc import Iterator, Mapping
import itertools
import os
import re
import time

from etils import epath

from podrl.mistakes import ConfigError

_LONGEST = 60  # Characters of an environment's id.


def default_folder(config_name: str, env_id: str) -> str:
    """Returns `runs/<config>-<environment>-<time>`, without making it; it may exist."""
    return f"{_name(config_name, env_id)}-{time.strftime('%Y%m%d-%H%M%S')}"


def job_folder(config_name: str, env_id: str, environ: Mapping[str, str]) -> str | None:
    """Returns a name that all tasks of a SLURM step, and no other step's, agree on; None outside of a step."""
    job, step = environ.get("SLURM_JOB_ID"), environ.get("SLURM_STEP_ID")
    return f"{_name(config_name, env_id)}-job-{job}.{step}" if job and step else None


def free_folder(path: str) -> epath.Path:
    """Returns `path`, or the first of `path-2`, `path-3` and so on that does not exist yet."""
    return next(candidate for candidate in _candidates(path) if not candidate.exists())


def make_new_folder(path: str) -> epath.Path:
    """Makes that folder, which only this caller gets, even if others ask for one at the same time.

    Raises:
        ConfigError: if it cannot be made.
    """
    for candidate in _candidates(path):
        try:
            os.makedirs(candidate)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{candidate} cannot be made ({error.strerror}). Name a folder by --workdir.") from None
        return candidate
    raise AssertionError("There is always another number.")


def _name(config_name: str, env_id: str) -> str:
    """Returns the part of both names that is the config's; of an environment's path, such as `ALE/Pong-v5`, the end."""
    last = re.split(r"[/:]", env_id)[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.")[:_LONGEST]
    return f"runs/{config_name}-{plain}" if plain else f"runs/{config_name}"


def _candidates(path: str) -> Iterator[epath.Path]:
    return map(epath.Path, itertools.chain([path], (f"{path}-{number}" for number in itertools.count(2))))
