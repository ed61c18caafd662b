"""The replay of a checkpoint: an item of its own beside the state, which only the newest checkpoints keep.

Orbax commits it together with the state, so that no checkpoint ever has half a replay. Once that is done, the replay of
the checkpoints before is deleted: a ring is often a thousand times as large as the rest of the state. A replay's file
`zarr.json` is written last and deleted first; without it there is no replay.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from podrl.config.config import Config, check
from podrl.config.paths import is_there
from podrl.runs.checkpoint_errors import DamagedError, reading
from podrl.runs.checkpoint_facts import ArrayRecord, Facts, checkpoint_folder, name_of
from podrl.runs.replay_pieces import hash_ring, read_pieces, ring_order, write_pieces
from podrl.runs.state_arrays import by_path, leaf_shapes
from podrl.types import Counters, PyTree

_MARK = "zarr.json"  # Makes the folder a group of zarr arrays.


def replay_folder(workdir: epath.PathLike, step: int) -> epath.Path:
    """Returns the folder of a checkpoint's replay, which need not be there."""
    return checkpoint_folder(workdir) / str(step) / "replay"


def has_replay(workdir: epath.PathLike, step: int) -> bool:
    """Returns whether a complete checkpoint has a replay."""
    return is_there(replay_folder(workdir, step) / _MARK)


def delete_replay(folder: epath.Path) -> bool:
    """Deletes a replay's folder, and returns whether it was there."""
    found = is_there(folder)
    if found:
        (folder / _MARK).unlink(missing_ok=True)
        folder.rmtree()
    return found


class ReplayHandler(ocp.CheckpointHandler):
    """Writes a replay for Orbax, which makes the folder on all processes before."""

    def save(self, directory: epath.Path, args: "ReplaySave") -> None:
        """Writes what this process's devices hold; returns when the ring may be donated."""
        write_pieces(directory, args.ring, args.env_index)
        if jax.process_index() == 0:
            (directory / _MARK).write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))

    def restore(self, directory: epath.Path, args: Any = None) -> Any:
        """Is not for this: `read_replay` is."""
        raise NotImplementedError(f"{directory} is read by podrl.runs.checkpoint_replay.read_replay.")


@ocp.args.register_with_handler(ReplayHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class ReplaySave(ocp.args.CheckpointArgs):
    """What `ReplayHandler` saves.

    Attributes:
        ring: The ring, as plain arrays.
        env_index: [B] uint32; the order of its environments.
    """

    ring: PyTree
    env_index: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayRule:
    """Which checkpoints get a replay, and how its environments lie on the devices.

    Attributes:
        is_saved: Whether checkpoints have a replay at all.
        env_index: [B] uint32; the order of the ring's environments. None if it is that of their numbers.
        is_next: (counters, whole steps) -> whether the run would resume from a checkpoint that is saved now, rather
            than from those that are whole. One that it would not resume from needs no replay.
    """

    is_saved: bool = True
    env_index: np.ndarray | None = None
    is_next: Callable[[Counters, Sequence[int]], bool] = lambda counters, steps: True

    def order_of(self, ring: PyTree) -> np.ndarray:
        """Returns the order of a ring's environments, [B] uint32."""
        return ring_order(ring) if self.env_index is None else self.env_index

    def choose(self, ring: PyTree | None, counters: Counters, steps: Sequence[int]) -> "ReplayItem":
        """Returns the replay of a checkpoint that is saved now; called by all processes together.

        Args:
            ring: The ring as plain arrays; None without one.
            counters: Progress of the run.
            steps: Steps of the whole checkpoints.
        """
        if ring is None or not self.is_next(counters, steps):
            return ReplayItem()
        if not self.is_saved:
            return ReplayItem(replaces=True)
        shapes, order = leaf_shapes(ring), self.order_of(ring)
        records = {path: ArrayRecord(shapes[path], hashed) for path, hashed in hash_ring(ring, order).items()}
        return ReplayItem(items={"replay": ReplaySave(ring, order)}, records=records, replaces=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayItem:
    """The replay of one checkpoint, on its way to the disk.

    Attributes:
        items: Orbax's arguments by item; empty without a replay.
        records: Records of its arrays for the facts; None without a replay.
        replaces: Whether no other checkpoint needs its replay once this one is whole.
    """

    items: Mapping[str, ReplaySave] = dataclasses.field(default_factory=dict)
    records: Mapping[str, ArrayRecord] | None = None
    replaces: bool = False


def read_replay(workdir: epath.PathLike, step: int, facts: Facts, like: PyTree, env_index: np.ndarray) -> PyTree | None:
    """Reads the replay of a checkpoint onto devices; waits for no other process.

    Args:
        workdir: The run's folder.
        step: The checkpoint's step.
        facts: Its facts.
        like: `jax.ShapeDtypeStruct`s of the ring as plain arrays, with shardings.
        env_index: [B] uint32; the order of the environments on these devices.

    Returns:
        The ring; None if the checkpoint has none.

    Raises:
        ConfigError: If it is a replay of another kind or size.
        DamagedError: If it is damaged.
        UnreadableError: If the system does not let it be read.
    """
    with reading(name_of(workdir, step)):
        if facts.replay is None or not has_replay(workdir, step):
            return None
    wanted = leaf_shapes(like)
    for path in sorted({**facts.replay, **wanted}):
        found = facts.replay[path].shape if path in facts.replay else "not there"
        check(
            found == wanted.get(path),
            f"{name_of(workdir, step)} holds its run's replay, and this run has another: {path} is {found}, expected "
            f"{wanted.get(path, 'none')}. Keep replay.*, actors.num_envs and actors.unroll_length as they were, or "
            f"delete {replay_folder(workdir, step)}: then the replay is refilled.",
        )
    with reading(name_of(workdir, step)):
        return read_pieces(replay_folder(workdir, step), like, env_index)


def check_rows(workdir: epath.PathLike, step: int, before: Mapping[str, Any] | None, now: Config) -> None:
    """Checks what decides the meaning of a replay's rows and priorities, and does not show in their shapes.

    Args:
        workdir: The run's folder.
        step: The checkpoint's step.
        before: The config that it was made with, by sections; None if it is not known.
        now: The config that the run resumes with.

    Raises:
        ConfigError: If they differ.
    """
    for section, key in (("actors", "unroll_length"), ("replay", "priority_exponent")):
        was = ((before or {}).get(section) or {}).get(key)
        becomes = getattr(getattr(now, section), key)
        check(
            was is None or was == becomes,
            f"{name_of(workdir, step)} holds a replay that was made with {section}.{key}={was}, and this run has "
            f"{becomes}. Keep it, or delete {replay_folder(workdir, step)}: then the replay is refilled.",
        )


def check_replay(workdir: epath.PathLike, step: int, facts: Facts, ring: PyTree, env_index: np.ndarray) -> None:
    """Checks what `read_replay` read; all processes call it together and get the same result.

    Raises:
        DamagedError: If an array differs from what was saved.
    """
    records, hashes = facts.replay or {}, hash_ring(ring, env_index)
    differing = [path for path in hashes if path not in records or records[path].hash != hashes[path]]
    if differing:
        raise damaged_replay(workdir, step, differing[0])


def damaged_replay(workdir: epath.PathLike, step: int, path: str) -> DamagedError:
    """Makes the error for an array of a replay that is not what was saved."""
    return DamagedError(
        f"{name_of(workdir, step)} is damaged: replay/{path}: the hash is not that of what was saved. Without the "
        f"folder {replay_folder(workdir, step)} it is whole."
    )


def is_in_order(ring: PyTree, env_index: np.ndarray) -> bool:
    """Returns whether a ring has its environments in this order [B]; called by all processes together.

    Rings of an earlier podrl were saved in the order of the devices that they were on.
    """
    (found,) = [leaf for path, leaf in by_path(ring).items() if path.rpartition("/")[2] == "env_index"]
    whole = jax.sharding.NamedSharding(found.sharding.mesh, jax.sharding.PartitionSpec())
    return bool(np.asarray(jax.jit(lambda x: (x == env_index).all(), out_shardings=whole)(found)))


class OlderReplays:
    """Deletes replays that no run would resume from any more; for the first process."""

    def __init__(self, workdir: epath.PathLike):
        """Deletes nothing yet."""
        self._workdir = workdir
        self._bare: set[int] = set()  # Steps that are known to have no replay.

    def delete(self, steps: Sequence[int], newest: int) -> None:
        """Deletes replays of older checkpoints; warns of one that cannot be deleted, and tries it no more.

        Args:
            steps: Steps of the whole checkpoints.
            newest: The one that keeps its replay.
        """
        self._bare.discard(newest)
        for step in [step for step in steps if step != newest and step not in self._bare]:
            self._bare.add(step)
            folder = replay_folder(self._workdir, step)
            try:
                delete_replay(folder)
            except OSError as error:
                logging.warning(
                    "The replay of checkpoint %d, which is no longer needed, could not be deleted (%s). Delete %s by "
                    "hand.",
                    step,
                    error.strerror or error,
                    folder,
                )
