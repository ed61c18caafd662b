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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Steps:
    """Steps of each environment, the oldest first.

    Attributes:
        first: [B, R+1] bool; the row opens an episode.
        ends: [B, R] bool; the episode really ended with the row, and was not cut off.
        reward: [B, R].
        version: [B, R] the learner step of the parameters that acted; None if the ring does not keep it.
    """

    first: np.ndarray
    ends: np.ndarray
    reward: np.ndarray
    version: np.ndarray | None


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
    config = facts.config or {}
    unroll_length = config.get("actors", {}).get("unroll_length")
    if "batches/reward" in shapes:
        num_updates, steps = _read_batches(folder)
    elif "rows/reward" in shapes and unroll_length:
        reopens = config.get("topology", {}).get("placement") != "anakin"
        has_version = "rows/params_version" in shapes
        num_updates, steps = _read_rows(folder, unroll_length, has_version=has_version, reopens=reopens)
    else:
        return ReplayDetails(shapes=shapes)
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


def _read_batches(folder: epath.Path) -> tuple[int, _Steps]:
    """Reads a `podrl.replay.batches.BatchRing`: how many batches it holds, and their steps."""
    reward, first, version = (read_stored(folder, f"batches/{name}") for name in ("reward", "first", "params_version"))
    inserted, (num_envs, size, _) = int(read_stored(folder, "counts/inserted")), reward.shape
    held = min(inserted, size)
    slots = (np.arange(held) + inserted - held) % size

    def in_turn(x: np.ndarray) -> np.ndarray:
        return x[:, slots].reshape(num_envs, -1)

    opened = np.concatenate([in_turn(first[..., :-1]), first[:, slots[-1:], -1]], axis=1)
    return held, _Steps(first=opened, ends=in_turn(first[..., 1:]), reward=in_turn(reward), version=in_turn(version))


def _read_rows(folder: epath.Path, unroll_length: int, *, has_version: bool, reopens: bool) -> tuple[int, _Steps]:
    """Reads a `podrl.replay.ring.SequenceRing`: how many unrolls it holds, and their steps.

    Args:
        folder: The ring's folder.
        unroll_length: T.
        has_version: Whether the ring keeps who acted.
        reopens: Whether its run may have reopened environments.
    """
    reward, first = (read_stored(folder, f"rows/{name}") for name in ("reward", "first"))
    version = read_stored(folder, "rows/params_version") if has_version else None
    inserted, rows = int(read_stored(folder, "inserted")), reward.shape[1]
    held = min(inserted, rows // unroll_length)
    places = (np.arange(held * unroll_length + 1) + (inserted - held) * unroll_length) % rows
    opened = first[:, places]
    if held * unroll_length == rows:
        opened[:, 0] = False  # The newest bootstrap row has taken the oldest row's place.
    taken = places[:-1]
    acted = None if version is None else version[:, taken]
    ends = opened[:, 1:]
    if reopens:
        ends = ends & ~_may_be_cut(opened, read_stored(folder, "rows/discount")[:, taken], unroll_length)
    return held, _Steps(first=opened, ends=ends, reward=reward[:, taken], version=acted)


def _may_be_cut(first: np.ndarray, discount: np.ndarray, unroll_length: int) -> np.ndarray:
    """Finds the steps after which environments may have been reopened in the middle of an episode, [B, R] bool.

    All are reopened together, where an unroll begins, and each first row takes the place of the row that would have
    shown whether the episode had ended. It had if it was terminated, by that step or by the one before the reset.

    Args:
        first: [B, R+1], as in `_Steps`.
        discount: [B, R].
        unroll_length: T.
    """
    num_rows = discount.shape[1]
    begins = np.arange(1, num_rows + 1) % unroll_length == 0
    begins[-1] = False  # The newest bootstrap row is still there.
    terminated = discount == 0
    terminated[:, 1:] |= discount[:, :-1] == 0
    return begins & first[:, 1:].all(axis=0) & ~terminated


def _whole_returns(steps: _Steps) -> np.ndarray:
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
