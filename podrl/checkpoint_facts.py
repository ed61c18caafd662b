"""What lies beside the arrays of a checkpoint: counters, the newest episodes, and the run's config and manifest.

These are JSON, which can be read without a device, without Orbax, and without knowing the network.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import re
from typing import Any

from etils import epath

from podrl.metrics import recorded_return
from podrl.types import Counters, Snapshot

JSON_ITEMS = ("counters", "episodes", "chain", "config", "manifest")
JSON_FILE = "metadata"  # Orbax's own default.


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read: one clear line, with the library's own error as its cause."""


def checkpoint_folder(workdir: epath.PathLike) -> epath.Path:
    """Where a run's checkpoints lie."""
    return epath.Path(workdir).resolve() / "checkpoints"  # Orbax refuses relative paths.


def make_facts(
    snapshot: Snapshot, config: Mapping[str, Any] | None, manifest: Mapping[str, Any] | None
) -> dict[str, Mapping[str, Any]]:
    """By name, those of `JSON_ITEMS` that there are: `config` and `manifest` may be left out."""
    facts = {
        "counters": dataclasses.asdict(snapshot.counters),
        "episodes": dict(snapshot.episodes),
        "chain": {"chain": snapshot.chain},
        "config": config,
        "manifest": manifest,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def read_fact(workdir: epath.PathLike, step: int, name: str) -> dict[str, Any] | None:
    """One of `JSON_ITEMS` of a checkpoint; None where it was made before podrl saved that.

    Raises:
        CheckpointError: if it is damaged.
    """
    path = checkpoint_folder(workdir) / str(step) / name / JSON_FILE
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {explain(error)}.") from error


def read_progress(workdir: epath.PathLike, step: int) -> dict[str, Any]:
    """The fields of a checkpoint's `Snapshot`, but for the state.

    Raises:
        CheckpointError: if they are damaged, or not there.
    """
    counters, episodes, chain = (read_fact(workdir, step, name) for name in ("counters", "episodes", "chain"))
    if counters is None or episodes is None:
        raise CheckpointError(f"Checkpoint {step} in {checkpoint_folder(workdir)} is not whole.")
    # Checkpoints before podrl chained its fingerprints have no chain.
    return {"counters": Counters(**counters), "episodes": episodes, **(chain or {})}


def read_return(workdir: epath.PathLike, step: int) -> float | None:
    """Mean episode return at a checkpoint; None if no episode had ended, or that part of it is damaged."""
    try:
        return recorded_return(read_fact(workdir, step, "episodes") or {})
    except CheckpointError:
        return None


def explain(error: Exception) -> str:
    """Why, in one line: the system's words where tensorstore gives the number of its error, such as 28 for no room."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    first = str(error).partition("\n")[0].partition(" See full TensorStore details")[0]
    return first.rstrip(".") or type(error).__name__
