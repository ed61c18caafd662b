"""Checkpoints of the whole learner state, saved through Orbax (on tensorstore).

A checkpoint is committed atomically: it does not count until it is complete and its index has been read back. Saving
copies the state off the device and writes in the background, except the replay (`podrl.runs.checkpoint_replay`). A
checkpoint also has a hash of every array (`podrl.runs.checkpoint_arrays`) and its `podrl.runs.checkpoint_facts`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import sys
from types import TracebackType
from typing import Any

from absl import logging
from etils import epath
import jax
import orbax.checkpoint as ocp

from podrl.config.config import CheckpointConfig
from podrl.experience.episodes import recorded_return
from podrl.runs.checkpoint_arrays import check_index, make_records
from podrl.runs.checkpoint_errors import CheckpointError, explain_damage, failed_save
from podrl.runs.checkpoint_facts import (
    JSON_FILE,
    JSON_ITEMS,
    ArrayRecord,
    checkpoint_folder,
    make_checkpoint_facts,
    read_return,
)
from podrl.runs.checkpoint_replay import OlderReplays, ReplayHandler, ReplayRule
from podrl.runs.checkpoint_restore import Share, put_aside, restore, restore_first
from podrl.runs.retention import Preservation
from podrl.runs.run_files import note_checkpoint
from podrl.runs.state_arrays import leaf_shapes, to_arrays
from podrl.runtime import tensorstore_metrics
from podrl.types import LearnerState, Snapshot


class Checkpointer:
    """Saves and restores learner states under `<workdir>/checkpoints/<learner step>`; a context manager."""

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        keep: int,
        every: int = 0,
        keep_every: int = 0,
        keep_best: int = 0,
        save_timeout_s: float = 1200.0,
        replay: ReplayRule | None = None,
    ):
        """Opens the folder.

        Args:
            workdir: the run's folder.
            keep: number of newest checkpoints to keep.
            every: count only checkpoints at multiples of this; others are kept until the next multiple.
            keep_every: keep checkpoints at multiples of this permanently; 0 for none.
            keep_best: number of checkpoints with the highest mean episode return to keep; 0 for none.
            save_timeout_s: seconds that a background save may take, and that its processes wait for each other.
            replay: the rule of replays; by default every save has one, in the order of the environments' numbers.
        """
        tensorstore_metrics.switch_off()  # Every save would leak some memory.
        self._workdir, self._first = workdir, jax.process_index() == 0
        self._saving: int | None = None  # The step that is being written, until it is known to be complete.
        self._records: Mapping[str, ArrayRecord] = {}  # Records of the arrays that are being written.
        self._replay, self._older = replay or ReplayRule(), OlderReplays(workdir)
        self._replaces = False  # Whether no other needs its replay once the checkpoint that is written is whole.
        self._returns: dict[int, float | None] = {}
        config = CheckpointConfig(every_updates=every, keep=keep, keep_every=keep_every, keep_best=keep_best)
        self._preservation = Preservation(config, self._return_of)
        options = ocp.CheckpointManagerOptions(
            # Orbax deletes on the first process only, which is the one that knows the returns.
            preservation_policy=self._preservation if self._first else None,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(timeout_secs=max(1, round(save_timeout_s))),
        )
        items: dict[str, Any] = {name: ocp.JsonCheckpointHandler(JSON_FILE) for name in JSON_ITEMS}
        items["replay"] = ReplayHandler()
        arrays = ocp.StandardCheckpointHandler()
        # Orbax calls it before the checkpoint gets its name, and deletes no older one before that.
        arrays.finalize = functools.partial(self._finalize, arrays, arrays.finalize)
        self._manager = ocp.CheckpointManager(
            checkpoint_folder(workdir), options=options, item_handlers=items | {"state": arrays}
        )

    def __enter__(self) -> "Checkpointer":
        self._report_before, sys.unraisablehook = sys.unraisablehook, self._report_unraisable
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes; an error of the run takes precedence over one of the last save, which is then logged."""
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            logging.error("%s", failure)
        finally:
            sys.unraisablehook = self._report_before

    def _report_unraisable(self, unraisable: Any) -> None:
        """Hides errors that tensorstore cannot deliver any more; `wait` reports the first error of a failed save."""
        if str(unraisable.exc_value) != "Event loop is closed":
            self._report_before(unraisable)

    def save(
        self,
        snapshot: Snapshot,
        *,
        config: Mapping[str, Any] | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        """Saves under the learner step of the snapshot's counters; returns when the state may be donated again.

        Args:
            snapshot: the state of the run.
            config: the run's resolved config, as JSON can hold it; None leaves it out.
            manifest: the run's manifest, as JSON can hold it; None leaves it out.

        Raises:
            CheckpointError: if this save cannot begin, or the one before it failed in the background.
        """
        self.wait()
        step = snapshot.counters.learner_steps
        self._returns[step] = recorded_return(snapshot.episodes)
        arrays = to_arrays(snapshot.state)
        replay = self._replay.choose(arrays.pop("replay", None), snapshot.counters, self.steps())
        self._records = make_records(arrays)
        facts = make_checkpoint_facts(snapshot, config, manifest, self._records, replay.records)
        items: dict[str, Any] = {name: ocp.args.JsonSave(fact) for name, fact in facts.items()}
        items |= {"state": ocp.args.StandardSave(arrays), **replay.items}
        self._saving, self._replaces = step, replay.replaces
        try:
            saved = self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:
            raise self._failure(step, error) from error
        if not saved:
            raise CheckpointError(f"Orbax did not save the checkpoint of update {step}.")

    def check_save(self) -> None:
        """Raises the error of a background save that has failed since the last call; does not wait.

        Raises:
            CheckpointError: if it failed; the message names the checkpoint, its path and the reason.
        """
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def keep_previous(self) -> None:
        """Keeps the checkpoint before the newest from now on, too, and its replay, whatever else stays."""
        self._preservation.keeps_previous = True

    def steps(self) -> list[int]:
        """Returns the learner steps of the complete checkpoints, oldest first; interrupted saves do not count."""
        return sorted(self._manager.all_steps())

    def restore(self, shape: LearnerState, step: int) -> Snapshot:
        """Restores one checkpoint, see `podrl.runs.checkpoint_restore.restore`."""
        return restore(self._workdir, shape, step, self._replay.env_index)

    def restore_first(
        self, shape: LearnerState, steps: Iterable[int], share: Share = lambda text: [text]
    ) -> Snapshot | None:
        """Restores the first of these checkpoints that is not damaged; None if there are none.

        Damaged ones before it are named in a warning and renamed to `damaged-<step>`, and lose their replays.

        Args:
            shape: `jax.ShapeDtypeStruct`s with shardings.
            steps: steps of the checkpoints to try, the same on all processes.
            share: exchanges one text of each process between all of them.

        Raises:
            ConfigError: if one is of another network or algorithm; the message names the first leaf that differs.
            DamagedError: if all are damaged; they are not renamed.
            UnreadableError: if one cannot be read for reasons outside the checkpoint.
            JaxRuntimeError: if a device has no room for it.
        """
        snapshot, damaged = restore_first(self._workdir, shape, steps, share, self._replay.env_index)
        if damaged:
            if self._first:
                put_aside(self._workdir, damaged)
            share("")
            self._manager.reload()
        return snapshot

    def forget_after(self, step: int, among: Sequence[int] | None = None) -> None:
        """Deletes checkpoints of later updates, which the run is about to repeat.

        Args:
            step: step of the last checkpoint that stays.
            among: steps of the existing checkpoints, the same on all processes; by default those that are seen here.
        """
        self.wait()
        for later in [other for other in (self.steps() if among is None else among) if other > step]:
            self._manager.delete(later)

    def wait(self) -> None:
        """Waits until a background save is complete.

        An older checkpoint that cannot be deleted then is named in a warning and left in place.

        Raises:
            CheckpointError: if the save failed; the message names the checkpoint, its path and the reason. Raised once.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            failure = self._failure(self._saving, error)
            if not (isinstance(error, OSError) and self._saving in self.steps()):
                raise failure from error
            # Orbax deletes in the same thread once the new checkpoint is complete.
            reason = error.strerror or explain_damage(error)
            self._preservation.leave_undeleted(self.steps(), self._manager.directory, reason)
        else:
            if self._first and self._saving is not None:
                note_checkpoint(self._workdir, self._saving)
                self._older.delete(self._preservation.outdated(self.steps()) if self._replaces else (), self._saving)
        finally:
            self._saving = None

    def close(self) -> None:
        """Waits as `wait` does, and closes the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _failure(self, step: int | None, error: Exception) -> CheckpointError:
        """Makes the error for a failed save; from then on only complete checkpoints count again."""
        self._manager.reload()
        return failed_save(step, self._manager.directory / str(step), error, self.steps())

    def _return_of(self, step: int) -> float | None:
        """Returns the mean episode return at a checkpoint, read once if an earlier process made it."""
        if step not in self._returns:
            self._returns[step] = read_return(self._workdir, step)
        return self._returns[step]

    def _finalize(self, handler: ocp.StandardCheckpointHandler, finalize: Callable[..., None], folder: Any) -> None:
        """Lets Orbax assemble the arrays, and reads their index back; raises DamagedError unless it matches them."""
        finalize(folder)
        check_index(
            f"What was written of update {self._saving}", leaf_shapes(handler.metadata(folder).tree), self._records
        )
