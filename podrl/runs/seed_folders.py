"""The folders of several seeds in that of their run: which there are, which may resume together, and their deletion."""

import re

from etils import epath

from podrl.config.config import Config, ConfigError, check
from podrl.config.paths import is_there
from podrl.mistakes import shorten
from podrl.runs.folder_guard import sole_user
from podrl.runs.records import read_json
from podrl.runs.run_files import clear_run, find_remains, holds_run

_NAME = re.compile(r"seed-\d+")
_INSTEAD = "Choose another --workdir"
_ANEW = "or add --start_anew, which deletes what is found"


def seed_folder(folder: str, seed: int) -> str:
    """Returns the path of a seed's folder in that of a run of several."""
    return f"{folder}/seed-{seed}"


def find_seeds(workdir: epath.Path) -> list[str]:
    """Returns the names of the seeds' folders in this one that hold a run.

    Raises:
        ConfigError: if the folder cannot be read.
    """
    try:
        folders = [path for path in workdir.iterdir() if _NAME.fullmatch(path.name)] if is_there(workdir) else []
    except OSError as error:
        raise ConfigError(f"--workdir={workdir} cannot be read ({error.strerror or error}).") from None
    return sorted((path.name for path in folders if holds_run(path)), key=lambda name: (len(name), name))


def check_seed_folders(config: Config, workdir: epath.Path) -> None:
    """Checks that the seeds of a run are those whose runs its folder holds, so that none begins beside them.

    Args:
        config: The run's config.
        workdir: The run's folder.

    Raises:
        ConfigError: If not. Nothing was changed.
    """
    found, first, num = find_seeds(workdir), config.seed, config.topology.seeds
    if num == 1:
        check(
            not found,
            f"--workdir={workdir} holds runs of several seeds ({shorten(found)}), and topology.seeds=1 would begin "
            f"another beside them. Take the topology.seeds of that run, name one seed's folder with its seed, or "
            f"choose another --workdir{_or_anew(workdir)}.",
        )
        return
    remains = find_remains(workdir)
    check(
        not remains,
        f"--workdir={workdir} holds {' and '.join(remains)} of a run of one seed, and topology.seeds={num} would begin "
        f"others beside it. {_INSTEAD}, take topology.seeds=1, {_ANEW}.",
    )
    asked = {f"seed-{first + index}" for index in range(num)}
    check(
        not found or not asked.isdisjoint(found),
        f"--workdir={workdir} holds runs of other seeds ({shorten(found)}): seed={first} with topology.seeds={num} are "
        f"seed-{first} to seed-{first + num - 1}, which would begin beside them. Take the seed of that run, or "
        f"choose another --workdir{_or_anew(workdir)}.",
    )


def clear_seeds(workdir: epath.Path) -> None:
    """Deletes what a run of several seeds has left in their folders; runs of no such run stay.

    Raises:
        ConfigError: If another process trains in one, or something cannot be deleted.
    """
    if not _is_of_seeds(workdir):
        return
    for name in find_seeds(workdir):
        with sole_user(workdir / name):
            clear_run(workdir / name)


def _or_anew(workdir: epath.Path) -> str:
    return f", {_ANEW}" if _is_of_seeds(workdir) else ""


def _is_of_seeds(workdir: epath.Path) -> bool:
    """Returns whether a folder is that of a run of several seeds, so that those in it are its own."""
    if not holds_run(workdir):
        return False
    try:
        topology = read_json(workdir / "config.json").get("topology", {})
    except ConfigError:  # Damaged; --start_anew deletes it, whatever it is.
        return False
    seeds = topology.get("seeds", 1) if isinstance(topology, dict) else 1
    return isinstance(seeds, int) and seeds > 1
