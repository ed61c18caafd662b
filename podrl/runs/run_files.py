"""The files of a run in its folder: found, recorded, renamed, and deleted if the user says so."""

from collections.abc import Iterator, Mapping
import contextlib
import itertools
import json
import os
import re
from typing import Any

from etils import epath

from podrl.config.config import ConfigError, check
from podrl.config.extras import install_command
from podrl.config.paths import is_there, size_bytes

START_ANEW = "--start_anew, which deletes the run's rows and checkpoints"
CHECKPOINTED = "checkpointed.json"
UNFINISHED = "unfinished_evaluations"
_OF_A_RUN = re.compile(
    rf"checkpoints|tensorboard|{UNFINISHED}|(checkpointed|config|manifest(-\d+)?)\.json(\.tmp)?"
    r"|metrics\.jsonl(\.\d+|\.kept|\.moved(\.tmp)?)?"
)
# Checkpoints by their update, damaged ones that were renamed, and those that Orbax has not finished.
_OF_CHECKPOINTS = re.compile(r"\d+|damaged-\d+(-\d+)?|.*\.orbax-checkpoint-tmp.*")


def holds_run(workdir: epath.Path) -> bool:
    """Returns whether a run has begun in this folder.

    Raises:
        ConfigError: if the system cannot say.
    """
    try:
        return is_there(workdir / "config.json")
    except OSError as error:
        raise ConfigError(f"{workdir / 'config.json'} cannot be read ({error.strerror or error}).") from None


@contextlib.contextmanager
def writing(workdir: epath.Path) -> Iterator[None]:
    """Raises `ConfigError` if the folder, in which the code within writes, cannot be written."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"--workdir={workdir} needs another package: {error}. For gs://, `{install_command('tpu')}` brings it."
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--workdir={workdir} cannot be written ({reason}). Choose another folder.") from None


def find_remains(workdir: epath.Path) -> list[str]:
    """Returns what a folder has of a run, `metrics.jsonl` or `checkpoints`, even without a config.

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
    """Checks that this user may resume a run that another user has left in a folder.

    Raises:
        ConfigError: if not; the message names what may not be read or written. Nothing was changed.
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
    """Deletes what a run has left in its folder, its config last; other files stay.

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
    """Records once that a run has a checkpoint: from then on it never restarts at update 0 unless told to."""
    path = epath.Path(workdir) / CHECKPOINTED
    with contextlib.suppress(OSError):  # Tried again after the next save; a full disk is reported elsewhere.
        if not is_there(path):
            write_json(path, {"learner_steps": step})


def set_rows_aside(workdir: epath.Path) -> epath.Path | None:
    """Renames the metrics of a run that begins anew to the first free `metrics.jsonl.1`, `.2` and so on.

    Returns:
        The new path; None if there were no metrics.
    """
    path = workdir / "metrics.jsonl"
    if not _has_content(path):
        return None
    names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    aside = next(name for name in names if not is_there(name))
    path.rename(aside)
    return aside


def write_json(path: epath.Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file completely or not at all, even if the process is killed."""
    written = path.with_name(path.name + ".tmp")
    written.unlink(missing_ok=True)  # It might be a link.
    written.write_text(json.dumps(content, indent=2) + "\n")
    written.replace(path)


def _has_content(path: epath.Path) -> bool:
    """Returns whether a file or folder exists and is not empty."""
    if not is_there(path):
        return False
    return any(path.iterdir()) if path.is_dir() else size_bytes(path) > 0
