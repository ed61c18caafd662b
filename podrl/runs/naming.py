"""What a run's folder is called unless the user says so. Needs no JAX: launchers name folders, too."""

from collections.abc import Iterator, Mapping
import itertools
import os
import time

from etils import epath

from podrl.mistakes import ConfigError


def default_folder(config_name: str) -> str:
    """`runs/<config>-<time>`, which is not made, and may be there."""
    return f"runs/{config_name}-{time.strftime('%Y%m%d-%H%M%S')}"


def job_folder(config_name: str, environ: Mapping[str, str]) -> str | None:
    """A name on which all tasks of a SLURM step agree, and no other step does; None outside of one."""
    job, step = environ.get("SLURM_JOB_ID"), environ.get("SLURM_STEP_ID")
    return f"runs/{config_name}-job-{job}.{step}" if job and step else None


def free_folder(path: str) -> epath.Path:
    """`path`, or the first of `path-2`, `path-3` and so on that is not there yet."""
    return next(candidate for candidate in _candidates(path) if not candidate.exists())


def make_new_folder(path: str) -> epath.Path:
    """Makes the same folder, which then is the caller's alone, even if others look for one at the same time.

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


def _candidates(path: str) -> Iterator[epath.Path]:
    return map(epath.Path, itertools.chain([path], (f"{path}-{number}" for number in itertools.count(2))))
