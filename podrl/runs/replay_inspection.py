"""Reads what is in a checkpoint's replay, without the observations: no environment, no network, no accelerator.

It knows the rings of `podrl.replay.batches` and `podrl.replay.ring` by their fields. Of any other it tells the bytes.
"""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
from typing import cast

from etils import epath
import jax
import numpy as np

from podrl.config.config import check
from podrl.runs.checkpoint_errors import reading
from podrl.runs.checkpoint_facts import Facts, name_of
from podrl.runs.checkpoint_replay import damaged_replay, has_replay, replay_folder
from podrl.runs.replay_pieces import hash_stored, read_stored
from podrl.runs.replay_steps import RingSteps, read_ring_steps
from podrl.telemetry.histograms import draw_histograms, write_image


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayDetails:
    """A checkpoint's replay.

    Attributes:
        shapes: Shape and dtype of each array by its path.
        num_updates: Updates whose experience it holds; None for a ring that is not known.
        num_envs: Environments.
        num_steps: Steps of all environments.
        ages: [N] updates from the parameters that acted to the checkpoint, of every step; empty if not known.
        returns: [E] returns of the episodes of which it has every step, up to a real end. In a ring of steps an
            episode that was truncated just where a run may have reopened its environments is left out.
        priorities: [S] priorities above 0, to the power of the exponent: of every start that can be drawn.
        num_starts: Priorities in the ring, those of 0 included.
    """

    shapes: Mapping[str, jax.ShapeDtypeStruct]
    num_updates: int | None = None
    num_envs: int = 0
    num_steps: int = 0
    ages: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    returns: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    priorities: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    num_starts: int = 0


def inspect_replay(workdir: epath.PathLike, step: int, facts: Facts) -> ReplayDetails | None:
    """Reads a checkpoint's replay, after a check of the hash of every array; None if it has none, or no longer.

    Raises:
        CheckpointError: If it is damaged, or cannot be read.
    """
    if facts.replay is None or not has_replay(workdir, step):
        return None
    folder, records = replay_folder(workdir, step), facts.replay
    try:
        with reading(name_of(workdir, step)):
            for path, record in records.items():
                if hash_stored(folder, path) != record.hash:
                    raise damaged_replay(workdir, step, path)
            return _describe(folder, step, {path: _parse(record.shape) for path, record in records.items()}, facts)
    except Exception:
        if has_replay(workdir, step):
            raise
        return None  # A newer checkpoint was saved meanwhile.


def _describe(folder: epath.Path, step: int, shapes: Mapping[str, jax.ShapeDtypeStruct], facts: Facts) -> ReplayDetails:
    found = read_ring_steps(folder, shapes, facts.config or {})
    if found is None:
        return ReplayDetails(shapes=shapes)
    num_updates, steps = found
    priority = read_stored(folder, "priority") if "priority" in shapes else np.zeros(0)
    return ReplayDetails(
        shapes=shapes,
        num_updates=num_updates,
        num_envs=len(steps.reward),
        num_steps=steps.reward.size,
        ages=np.zeros(0) if steps.version is None else (step - steps.version).reshape(-1),
        returns=_whole_returns(steps),
        priorities=priority[priority > 0],
        num_starts=priority.size,
    )


def _whole_returns(steps: RingSteps) -> np.ndarray:
    """Returns the undiscounted returns of the episodes that begin and end in these steps, [E]."""
    earned = np.pad(np.cumsum(steps.reward, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    found = []
    for first, ends, total in zip(steps.first, steps.ends, earned, strict=True):
        begins = np.flatnonzero(first)
        whole = ends[begins[1:] - 1]
        found.append((total[begins[1:]] - total[begins[:-1]])[whole])
    return np.concatenate(found)


def write_picture(path: str, step: int, details: ReplayDetails | None) -> None:
    """Writes a picture of a replay.

    Raises:
        ConfigError: If there is no replay to draw, or the file cannot be written.
    """
    check(
        details is not None and details.num_updates is not None,
        f"--out={path}: checkpoint {step} has no replay to draw. The newest checkpoint of a run with replay has one.",
    )
    drawn = draw_replay(cast(ReplayDetails, details), Path(path).suffix.removeprefix("."))
    write_image(path, drawn)


def draw_replay(details: ReplayDetails, image_format: str) -> bytes:
    """Draws histograms of a replay's ages, returns and priorities, as far as it has them.

    Raises:
        ConfigError: If matplotlib is missing, or does not write this format.
    """
    shown: dict[str, tuple[np.ndarray, str]] = {
        "updates since the parameters that acted": (details.ages, "steps"),
        "return of whole episodes": (details.returns, "episodes"),
        "priority": (details.priorities, "starts"),
    }
    shown = {label: (values, unit) for label, (values, unit) in shown.items() if values.size}
    return draw_histograms(shown, image_format, logarithmic="priority")


def _parse(shape: str) -> jax.ShapeDtypeStruct:
    """Returns the shape that a record's text names, such as `float32[50, 16]`."""
    dtype, _, sizes = shape.removesuffix("]").partition("[")
    return jax.ShapeDtypeStruct(tuple(int(size) for size in sizes.split(",") if size.strip()), dtype)
