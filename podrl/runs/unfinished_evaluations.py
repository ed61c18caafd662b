"""The evaluations that a run had not finished when it was told to stop, in its folder until they have a row.

Each is one file with the parameters that play, written before the checkpoint of a later update: a run that resumes
there cannot make them again, and a kill between the two would lose them. They are not kept where both have no room.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import errno
import io
import json
import re
import shutil
import zipfile

from absl import logging
from etils import epath
import jax
import numpy as np

from podrl.config.paths import is_there
from podrl.runs.export import encode_npz
from podrl.runs.run_files import UNFINISHED
from podrl.runs.state_arrays import by_path, from_words, leaf_shapes, to_words
from podrl.types import Counters, PyTree

_FILE = re.compile(r"(\d+)\.npz")
_FACTS = "facts.json"  # No path of an array ends like this.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


class UnfinishedEvaluations:
    """The unfinished evaluations in the folder of a run, or of one of its seeds."""

    def __init__(self, workdir: epath.Path, begin: Counters, has_row: Callable[[int], bool]) -> None:
        """Finds them, and deletes those that have a row, those that the run makes again, and parts of files.

        Args:
            workdir: The folder.
            begin: Counters at which this start of the run begins.
            has_row: Whether the evaluation of an update has its row.
        """
        self._folder = workdir / UNFINISHED
        found = list(self._folder.iterdir()) if is_there(self._folder) else []
        for path in found:
            if path.suffix != ".npz" and path.is_file():
                path.unlink(missing_ok=True)
        self._updates = {int(match[1]) for path in found if (match := _FILE.fullmatch(path.name))}
        self._taken: set[int] = set()  # Those of which this start knows whether they still have to be made.
        self._room_bytes = 0
        self._forget({each for each in self._updates if each > begin.learner_steps or has_row(each)})

    def read(self, params: PyTree, *, made: int | None = None) -> list[tuple[Counters, PyTree]]:
        """Returns their counters and parameters, in the order of updates; warns of those that cannot be read.

        A damaged one is deleted by the next `keep`. One that could not be read stays for the next start.

        Args:
            params: What `Agent.actor_params` returned in this start of the run.
            made: The update whose evaluation is made without this; it is left out.
        """
        read: list[tuple[Counters, PyTree]] = []
        for update in sorted(self._updates):
            if update == made:
                self._taken.add(update)
                continue
            try:
                encoded = self._path(update).read_bytes()
            except OSError as error:
                logging.warning(
                    "The evaluation of update %s is not made: %s cannot be read now (%s). It stays until the run "
                    "resumes again.",
                    f"{update:,}",
                    self._path(update),
                    error.strerror or error,
                )
                continue
            self._taken.add(update)
            try:
                read.append(_decode(encoded, params))
            except _DAMAGED as error:
                logging.warning(
                    "The evaluation of update %s has no row: %s, kept when the run was stopped, cannot be read (%s).",
                    f"{update:,}",
                    self._path(update),
                    error,
                )
                continue
            logging.info("Makes the evaluation of update %s, during which the run was stopped.", f"{update:,}")
        return read

    def keep(
        self,
        evaluations: Sequence[tuple[Counters, PyTree]],
        counters: Counters | None = None,
        room_bytes: int | None = None,
    ) -> None:
        """Writes those that are not there yet, and deletes all others that were read, which have their rows.

        A file that cannot be written is named in a warning.

        Args:
            evaluations: Counters and parameters of all unfinished evaluations, see `Evaluator.unfinished`.
            counters: Those of a checkpoint that is about to be saved; an evaluation of the same update is not written,
                as it can be made from it. None when the run ends: such a one is written too, since a run whose config
                is changed then may not make it.
            room_bytes: Room on the file system that this checkpoint needs, left free; as before by default.
        """
        self._room_bytes = self._room_bytes if room_bytes is None else room_bytes
        unfinished = {each.learner_steps: (each, params) for each, params in evaluations}
        for update in unfinished.keys() - self._updates - {counters.learner_steps if counters else None}:
            try:
                self._write(update, _encode(*unfinished[update]))
            except OSError as error:
                logging.warning(
                    "The evaluation of update %s is not kept for when the run resumes: %s cannot be written (%s).",
                    f"{update:,}",
                    self._path(update),
                    error.strerror or error,
                )
            else:
                self._updates.add(update)
                self._taken.add(update)
        self._forget((self._updates & self._taken) - unfinished.keys())

    def _write(self, update: int, encoded: bytes) -> None:
        """Writes a file completely or not at all."""
        self._folder.mkdir(exist_ok=True)
        if "://" not in str(self._folder):  # An object store has no limit that could be asked for.
            free, needed = shutil.disk_usage(self._folder).free, len(encoded) + self._room_bytes
            if free < needed:
                raise OSError(errno.ENOSPC, f"it and the checkpoint need {needed:,} bytes, and {free:,} are free")
        part = self._folder / f"{update}.tmp"
        try:
            part.write_bytes(encoded)
            part.replace(self._path(update))
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def _path(self, update: int) -> epath.Path:
        return self._folder / f"{update}.npz"

    def _forget(self, updates: set[int]) -> None:
        for update in updates:
            self._path(update).unlink(missing_ok=True)
        self._updates -= updates


def _encode(counters: Counters, params: PyTree) -> bytes:
    """Returns a NumPy archive of the bytes of each array, as NumPy lacks some types, and of their shapes."""
    facts = {"counters": dataclasses.asdict(counters), "arrays": leaf_shapes(params)}
    arrays = {path: np.asarray(to_words(leaf).addressable_data(0)) for path, leaf in by_path(params).items()}
    contents = {_FACTS: json.dumps(facts).encode(), **{path: array.tobytes() for path, array in arrays.items()}}
    return encode_npz({name: np.frombuffer(content, np.uint8) for name, content in contents.items()})


def _decode(encoded: bytes, like: PyTree) -> tuple[Counters, PyTree]:
    """Returns counters, and parameters of the same shapes as `like` on one of its devices; raises one of `_DAMAGED`."""
    with np.load(io.BytesIO(encoded), allow_pickle=False) as archive:
        contents: Mapping[str, bytes] = {name: archive[name].tobytes() for name in archive.files}
    facts, shapes = json.loads(contents[_FACTS]), leaf_shapes(like)
    if facts["arrays"] != shapes:
        raise ValueError("it holds the parameters of another network or algorithm")
    device = min(jax.tree.leaves(like)[0].addressable_shards, key=lambda shard: shard.device.id).device

    def restore(path: tuple[object, ...], leaf: jax.Array) -> jax.Array:
        words = to_words(leaf)
        content = contents[jax.tree_util.keystr(path, simple=True, separator="/")]
        array = np.frombuffer(content, words.dtype).reshape(words.shape)
        return from_words(jax.device_put(array, device), leaf)

    return Counters(**facts["counters"]), jax.tree_util.tree_map_with_path(restore, like)
