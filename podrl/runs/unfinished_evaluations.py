"""The evaluations that a run had not finished when it was told to stop, in its folder until they have a row.

Each is one file with the parameters that play, written before the checkpoint of a later update. A run that resumes
there cannot make these parameters again.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import io
import json
import re
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
        """Finds them, and deletes those that have a row and those that the run makes again.

        Args:
            workdir: The folder.
            begin: Counters at which this start of the run begins.
            has_row: Whether the evaluation of an update has its row.
        """
        self._folder = workdir / UNFINISHED
        found = self._folder.iterdir() if is_there(self._folder) else ()
        self._updates = {int(match[1]) for path in found if (match := _FILE.fullmatch(path.name))}
        self._is_read = False
        self._forget({each for each in self._updates if each >= begin.learner_steps or has_row(each)})

    def read(self, params: PyTree) -> list[tuple[Counters, PyTree]]:
        """Returns their counters and parameters, in the order of updates; warns of those that cannot be read.

        Args:
            params: What `Agent.actor_params` returned in this start of the run.
        """
        self._is_read = True
        read: list[tuple[Counters, PyTree]] = []
        for update in sorted(self._updates):
            try:
                read.append(_decode(self._path(update).read_bytes(), params))
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

    def keep(self, evaluations: Sequence[tuple[Counters, PyTree]], counters: Counters) -> None:
        """Writes those that are not there yet, and deletes all others, which have their rows.

        A file that cannot be written is named in a warning.

        Args:
            evaluations: Counters and parameters of all unfinished evaluations, see `Evaluator.unfinished`.
            counters: Those of a checkpoint that is about to be saved. An evaluation of the same update is made from it.
        """
        unfinished = {each.learner_steps: (each, params) for each, params in evaluations}
        unfinished.pop(counters.learner_steps, None)
        for update in unfinished.keys() - self._updates:
            try:
                self._folder.mkdir(exist_ok=True)
                written = self._folder / f"{update}.tmp"
                written.write_bytes(_encode(*unfinished[update]))
                written.replace(self._path(update))
            except OSError as error:
                logging.warning(
                    "The evaluation of update %s will have no row: %s cannot be written (%s).",
                    f"{update:,}",
                    self._path(update),
                    error.strerror or error,
                )
            else:
                self._updates.add(update)
        self.forget_all_but(evaluations)

    def forget_all_but(self, evaluations: Sequence[tuple[Counters, PyTree]]) -> None:
        """Deletes all others than these, which have their rows; none before they were read."""
        if self._is_read:
            self._forget(self._updates - {counters.learner_steps for counters, _ in evaluations})

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
