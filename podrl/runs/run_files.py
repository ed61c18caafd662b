"""The files of a run in its folder: found, noted, set aside, and deleted where the user says so."""

from collections.abc import Mapping
import contextlib
import itertools
import json
import os
import re
from typing import Any

from etils import epath

from podrl.config.config import ConfigError, check
from podrl.config.paths import is_there, size_bytes

START_ANEW = "--start_anew, which deletes the run's rows and checkpoints"
CHECKPOINTED = "checkpointed.json"
_OF_A_RUN = re.compile(
    r"checkpoints|tensorboard|(checkpointed|config|manifest(-\d+)?)\.json(\.tmp)?|metrics\.jsonl(\.\d+|\.kept|\.moved(\.tmp)?)?"
)
# Checkpoints by their update, those that were put aside, and what Orbax has not finished.
_OF_CHECKPOINTS = re.compile(r"\d+|damaged-\d+(-\d+)?|.*\.orbax-checkpoint-tmp.*")


def holds_run(workdir: epath.Path) -> bool:
    """Whether a run has begun in this folder.

    Raises:
        ConfigError: if the system does not say.
    """
    try:
        return is_there(workdir / "config.json")
    except OSError as error:
        raise ConfigError(f"{workdir / 'config.json'} cannot be read ({error.strerror or error}).") from None


def find_remains(workdir: epath.Path) -> list[str]:
    """What a folder has of a run, `metrics.jsonl` or `checkpoints`, though perhaps no config.

    Raises:
        ConfigError: if something of that name is another program's, or cannot be read.
    """
    rows, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"
    try:
        remains = [path for path in (rows, checkpoints) if _has_content(path)]
        names = [path.name for path in checkpoints.iterdir()] if checkpoints in remains else []
    except OSError as error:
        raise ConfigError(f"--workdir={workdir} cannot be read ({error.strerror or error}).") from None
    foreign = sorted(name for name in names if not _OF_CHECKPOINTS.fullmatch(name))
    check(
        not foreign or holds_run(workdir),
        f"--workdir={workdir} has a folder checkpoints that is not podrl's: it holds {', '.join(foreign[:5])}. Choose "
        "another folder.",
    )
    return [path.name for path in remains]


def check_rights(workdir: epath.Path) -> None:
    """Checks that this user may go on with what another has left in a folder.

    Raises:
        ConfigError: names what may not be read or written; nothing was changed.
    """
    if "://" in str(workdir):
        return
    needed = {"config.json": os.R_OK, "metrics.jsonl": os.R_OK | os.W_OK}
    needed |= dict.fromkeys(("checkpoints", "tensorboard"), os.R_OK | os.W_OK | os.X_OK)
    kept = [
        name for name, rights in needed.items() if is_there(workdir / name) and not os.access(workdir / name, rights)
    ]
    check(
        not kept,
        f"--workdir={workdir} holds a run of another user, and {', '.join(kept)} may not be read and written by this "
        f"one. Let its owner run `chmod -R g+rwX {workdir}`, and use umask 002; or choose another folder.",
    )


def clear_run(workdir: epath.Path) -> None:
    """Deletes what a run has left in its folder, its config last; what else is there stays.

    Raises:
        ConfigError: if something cannot be deleted.
    """
    try:
        found = [path for path in workdir.iterdir() if _OF_A_RUN.fullmatch(path.name)]
        for path in sorted(found, key=lambda path: path.name == "config.json"):
            path.rmtree() if path.is_dir() else path.unlink()
    except OSError as error:
        raise ConfigError(f"--workdir={workdir} cannot be cleared ({error.strerror or error}).") from None


def note_checkpoint(workdir: epath.PathLike, step: int) -> None:
    """Writes down that a run has a checkpoint, once: it never restarts from update 0 without being told to."""
    path = epath.Path(workdir) / CHECKPOINTED
    with contextlib.suppress(OSError):  # After the next save, then; on a full disk what matters more says so.
        if not is_there(path):
            write_json(path, {"learner_steps": step})


def set_rows_aside(workdir: epath.Path) -> epath.Path | None:
    """Renames the metrics of a run that begins anew to the first free `metrics.jsonl.1`, `.2` and so on.

    Returns:
        The new path; None if there were none.
    """
    path = workdir / "metrics.jsonl"
    if not _has_content(path):
        return None
    names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    aside = next(name for name in names if not is_there(name))
    path.rename(aside)
    return aside


def write_json(path: epath.Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all, also if the process is killed."""
    written = path.with_name(path.name + ".tmp")
    written.unlink(missing_ok=True)  # It might be a link.
    written.write_text(json.dumps(content, indent=2) + "\n")
    written.replace(path)


def _has_content(path: epath.Path) -> bool:
    """Whether a file or folder is there and not empty."""
    if not is_there(path):
        return False
    return any(path.iterdir()) if path.is_dir() else size_bytes(path) > 0
