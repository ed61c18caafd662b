"""Opens the folder of a run, the same on every process of its job."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from podrl.config.config import Config
from podrl.runs.folder_guard import FolderGuard
from podrl.runs.heartbeat import GONE_S
from podrl.runs.naming import make_new_folder
from podrl.runs.run_files import clear_run, holds_run
from podrl.runs.seed_folders import check_seed_folders, clear_seeds
from podrl.runs.workdir import make_workdir
from podrl.runtime.job.agreement import from_first
from podrl.runtime.job.job import Job
from podrl.runtime.job.preflight import check_shared_workdir


def open_folder(
    config: Config,
    place: str,
    guard: FolderGuard,
    job: Job,
    *,
    is_new: bool,
    accept_changes: bool,
    start_anew: bool,
    env_before: Mapping[str, str],
    data_hash: str = "",
) -> tuple[epath.Path, bool]:
    """Makes a run's folder, or takes the one of an earlier run of this config; the first process does.

    Args:
        config: The run's config, as the user asked for it.
        place: The folder's path, from the root.
        guard: Takes the folder, so that no other run does.
        job: All processes.
        is_new: Whether to make another folder where this one exists, as with a name that podrl has chosen.
        accept_changes: Whether the run in the folder may have been of another config.
        start_anew: Whether to delete what the run in the folder has.
        env_before: Keys of `env` that mean something else by default than they did; see `podrl.types.EnvSpec`.
        data_hash: Hash of the data set that the run learns from; empty without one.

    Returns:
        The folder, and whether it holds a run to resume.

    Raises:
        ConfigError: On all processes, if the folder cannot be used, holds another run, or is not the same for all.
        TimeoutError: If a process does not answer in time.
    """

    def take() -> list[Any]:
        path = str(make_new_folder(place)) if is_new else place
        folder = make_workdir(
            config,
            path,
            accept_changes=accept_changes,
            start_anew=start_anew,
            env_before=env_before,
            data_hash=data_hash,
        )
        guard.take(folder)
        if start_anew:
            clear_seeds(folder)
            if config.topology.seeds == 1:
                check_seed_folders(config, folder)
            clear_run(folder)
        return [str(folder), holds_run(folder)]

    path, resumes = from_first(job, "workdir", take, timeout_s=config.patience_s + GONE_S)
    check_shared_workdir(job, path, config.actors.timeout_s)
    return epath.Path(path), resumes
