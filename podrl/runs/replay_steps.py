"""The steps in a checkpoint's replay, the oldest first.

It knows the rings of `podrl.replay.batches` and `podrl.replay.ring` by their fields.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from podrl.runs.replay_pieces import read_stored


@dataclasses.dataclass(frozen=True, kw_only=True)
class RingSteps:
    """Steps of each environment, the oldest first.

    Attributes:
        first: [B, R+1] bool; the row opens an episode.
        ends: [B, R] bool; the episode really ended with the row, and was not cut off.
        reward: [B, R].
        version: [B, R] the learner step of the parameters that acted; None if the ring does not keep it.
        group: The path of the arrays of all that steps have, such as `rows`.
        arrange: (a stored array of one environment, whether it has a row behind the last step) -> [R, ...] or
            [R+1, ...], the oldest first.
        overwritten: How many of the oldest rows have another row's observation.
    """

    first: np.ndarray
    ends: np.ndarray
    reward: np.ndarray
    version: np.ndarray | None
    group: str
    arrange: Callable[[np.ndarray, bool], np.ndarray]
    overwritten: int = 0


def read_ring_steps(
    folder: epath.Path, shapes: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[int, RingSteps] | None:
    """Reads a ring's steps without observations; None if it is of another kind.

    Args:
        folder: The ring's folder.
        shapes: Its arrays by path.
        config: The run's config, as JSON holds it.

    Returns:
        Updates whose experience it holds, and the steps.
    """
    unroll_length = config.get("actors", {}).get("unroll_length")
    if "batches/reward" in shapes:
        return _read_batches(folder)
    if "rows/reward" not in shapes or not unroll_length:
        return None
    reopens = config.get("topology", {}).get("placement") != "anakin"
    has_version = "rows/params_version" in shapes
    return _read_rows(folder, unroll_length, has_version=has_version, reopens=reopens)


def _read_batches(folder: epath.Path) -> tuple[int, RingSteps]:
    """Reads a `podrl.replay.batches.BatchRing`: how many batches it holds, and their steps."""
    reward, first, version = (read_stored(folder, f"batches/{name}") for name in ("reward", "first", "params_version"))
    inserted, (num_envs, size, _) = int(read_stored(folder, "counts/inserted")), reward.shape
    held = min(inserted, size)
    slots = (np.arange(held) + inserted - held) % size

    def in_turn(x: np.ndarray) -> np.ndarray:
        return x[:, slots].reshape(num_envs, -1)

    def arrange(x: np.ndarray, has_last: bool) -> np.ndarray:
        """Arranges [N, T, ...] or [N, T+1, ...]."""
        rows = x[slots, :-1] if has_last else x[slots]
        rows = rows.reshape(-1, *rows.shape[2:])
        return np.concatenate([rows, x[slots[-1:], -1]]) if has_last else rows

    opened = np.concatenate([in_turn(first[..., :-1]), first[:, slots[-1:], -1]], axis=1)
    return held, RingSteps(
        first=opened,
        ends=in_turn(first[..., 1:]),
        reward=in_turn(reward),
        version=in_turn(version),
        group="batches",
        arrange=arrange,
    )


def _read_rows(folder: epath.Path, unroll_length: int, *, has_version: bool, reopens: bool) -> tuple[int, RingSteps]:
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
    is_full = held * unroll_length == rows
    if is_full:
        opened[:, 0] = False  # The newest bootstrap row has taken the oldest row's place.
    taken = places[:-1]
    acted = None if version is None else version[:, taken]
    ends = opened[:, 1:]
    if reopens:
        ends = ends & ~_may_be_cut(opened, read_stored(folder, "rows/discount")[:, taken], unroll_length)
    return held, RingSteps(
        first=opened,
        ends=ends,
        reward=reward[:, taken],
        version=acted,
        group="rows",
        arrange=lambda x, has_last: x[places] if has_last else x[taken],
        overwritten=int(is_full),
    )


def _may_be_cut(first: np.ndarray, discount: np.ndarray, unroll_length: int) -> np.ndarray:
    """Finds the steps after which environments may have been reopened in the middle of an episode, [B, R] bool.

    All are reopened together, where an unroll begins, and each first row takes the place of the row that would have
    shown whether the episode had ended. It had if it was terminated, by that step or by the one before the reset.

    Args:
        first: [B, R+1], as in `RingSteps`.
        discount: [B, R].
        unroll_length: T.
    """
    num_rows = discount.shape[1]
    begins = np.arange(1, num_rows + 1) % unroll_length == 0
    begins[-1] = False  # The newest bootstrap row is still there.
    terminated = discount == 0
    terminated[:, 1:] |= discount[:, :-1] == 0
    return begins & first[:, 1:].all(axis=0) & ~terminated
