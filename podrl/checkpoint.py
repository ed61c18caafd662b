"""Checkpoints of the whole learner state, through Orbax (on tensorstore); the only module that imports it.

A checkpoint is committed atomically: until it is whole it does not count. Saving copies the state off the device and
writes in the background. Beside the state it holds what the state means (`podrl.checkpoint_facts`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import sys
from types import TracebackType
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from podrl.checkpoint_facts import (
    JSON_FILE,
    JSON_ITEMS,
    CheckpointError,
    checkpoint_folder,
    explain,
    make_facts,
    read_progress,
    read_return,
)
from podrl.config import CheckpointConfig, ConfigError
from podrl.metrics import recorded_return
from podrl.retention import Preservation
from podrl.state_arrays import (
    by_path,
    check_leaves,
    from_arrays,
    to_array_shapes,
    to_arrays,
    with_remainders,
    without_absent,
)
from podrl.types import Counters, LearnerState, PyTree, Snapshot


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
    ):
        """Opens the folder.

        Args:
            workdir: the run's.
            keep: newest checkpoints to keep.
            every: count only those at multiples of this; the others are kept until the next of these.
            keep_every: keep those at multiples of this for good; 0 for none.
            keep_best: keep as many of the highest mean episode return; 0 for none.
            save_timeout_s: how long a save in the background may take, and its processes wait for each other there.
        """
        self._workdir = workdir
        self._first = jax.process_index() == 0
        self._saving: int | None = None  # The step that is being written, until it is known to be whole.
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
        self._manager = ocp.CheckpointManager(
            checkpoint_folder(workdir),
            options=options,
            item_handlers=items | {"state": ocp.StandardCheckpointHandler()},
        )

    def __enter__(self) -> "Checkpointer":
        self._report_before, sys.unraisablehook = sys.unraisablehook, self._report_unraisable
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes; an error of the run goes before one of the last save, which is logged then."""
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            logging.error("%s", failure)
        finally:
            sys.unraisablehook = self._report_before

    def _report_unraisable(self, unraisable: Any) -> None:
        """Hides what tensorstore cannot deliver any more: of a failed save, `wait` reports the first write."""
        if str(unraisable.exc_value) != "Event loop is closed":
            self._report_before(unraisable)

    def save(
        self,
        snapshot: Snapshot,
        *,
        config: Mapping[str, Any] | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        """Saves under the learner step of its counters; returns when the state may be donated again.

        Args:
            snapshot: where the run stands.
            config: the run's, resolved, as JSON takes it; None leaves it out.
            manifest: what it runs on and with, likewise.

        Raises:
            CheckpointError: if this save cannot begin, or the one before it failed in the background.
        """
        self.wait()
        step = snapshot.counters.learner_steps
        self._returns[step] = recorded_return(snapshot.episodes)
        facts = make_facts(snapshot, config, manifest)
        items: dict[str, Any] = {name: ocp.args.JsonSave(fact) for name, fact in facts.items()}
        items["state"] = ocp.args.StandardSave(to_arrays(snapshot.state))
        self._saving = step
        try:
            saved = self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:
            raise self._failure(step, error) from error
        if not saved:
            raise CheckpointError(f"Orbax did not save the checkpoint of update {step}.")

    def check_save(self) -> None:
        """Raises the error of a save that has failed in the background since; waits for nothing.

        Raises:
            CheckpointError: names the checkpoint, its path and the reason.
        """
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def steps(self) -> list[int]:
        """Learner steps of the whole checkpoints, oldest first; a save that was cut short does not count."""
        return sorted(self._manager.all_steps())

    def restore(self, shape: LearnerState, step: int) -> Snapshot:
        """Restores a state onto the devices that `shape` names.

        Nobody waits for other processes here: what is damaged may be what one of them alone has to read.

        Args:
            shape: `jax.ShapeDtypeStruct`s with shardings.
            step: which checkpoint.

        Raises:
            ConfigError: if it is of another network or algorithm; names the first leaf that differs.
            Exception: whatever Orbax raises on one that is damaged.
        """
        checkpoint, saved = checkpoint_folder(self._workdir) / str(step), self._manager.item_metadata(step)["state"]
        expected = without_absent(to_array_shapes(shape), saved)
        check_leaves(checkpoint, saved, expected)
        progress = read_progress(self._workdir, step)
        arrays = ocp.StandardCheckpointHandler().restore(checkpoint / "state", args=ocp.args.StandardRestore(expected))
        return Snapshot(state=from_arrays(arrays, shape), **progress)

    def restore_first(
        self,
        shape: LearnerState,
        steps: Iterable[int],
        share: Callable[[str], Sequence[str]] = lambda text: [text],
    ) -> Snapshot | None:
        """Restores the first of these checkpoints that can be read; None if none can.

        One that cannot is named in a warning and put aside as `damaged-<step>`, for a person to look at.

        Args:
            shape: as for `restore`.
            steps: which checkpoints, the same on all processes.
            share: brings a text of this process to all of them, and theirs here.

        Raises:
            ConfigError: as `restore`.
            JaxRuntimeError: if a device has no room for it, which is no fault of the checkpoint's.
        """
        for step in steps:
            snapshot, reason = None, ""
            try:
                snapshot = self.restore(shape, step)
            except (ConfigError, jax.errors.JaxRuntimeError):
                raise
            except Exception as error:  # noqa: BLE001 (Orbax and tensorstore raise many kinds for a damaged file)
                reason = explain(error)
            reasons = [found for found in share(reason) if found]
            if not reasons:
                return snapshot
            if self._first:
                aside = self._put_aside(step)
                logging.warning("Checkpoint %d is damaged and was put aside as %s: %s", step, aside.name, reasons[0])
            share("")
            self._manager.reload()
        return None

    def forget_after(self, step: int, among: Sequence[int] | None = None) -> None:
        """Deletes checkpoints of later updates, which the run is about to make again.

        Args:
            step: of the last one that stays.
            among: what there is, the same on all processes; by default what this one sees.
        """
        self.wait()
        for later in [other for other in (self.steps() if among is None else among) if other > step]:
            self._manager.delete(later)

    def wait(self) -> None:
        """Waits until a save in the background is whole.

        An older checkpoint that cannot be deleted then is named in a warning and left where it is.

        Raises:
            CheckpointError: if it failed; names the checkpoint, its path and the reason. Raised once.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            failure = self._failure(self._saving, error)
            if not (isinstance(error, OSError) and self._saving in self.steps()):
                raise failure from error
            self._leave_undeleted(error)  # Orbax deletes when the new one is whole, and in the same thread.
        finally:
            self._saving = None

    def close(self) -> None:
        """Waits as `wait` does, and ends."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _failure(self, step: int | None, error: Exception) -> CheckpointError:
        """What to tell of a save that failed; from here on only whole checkpoints count again."""
        self._manager.reload()
        whole = self.steps()
        return CheckpointError(
            f"The checkpoint of update {step} could not be saved as {self._manager.directory / str(step)}: "
            f"{explain(error)}. "
            + (f"It does not count; the newest whole one is of update {whole[-1]}." if whole else "There is no other.")
        )

    def _leave_undeleted(self, error: OSError) -> None:
        """Warns of the checkpoint at whose deletion Orbax stopped; the ones behind it go with the next save."""
        for step in [step for step in self._preservation.dropped if step in self.steps()][:1]:
            self._preservation.undeletable.add(step)
            logging.warning(
                "Checkpoint %d, which is no longer needed, could not be deleted (%s). Delete %s by hand.",
                step,
                error.strerror or explain(error),
                self._manager.directory / str(step),
            )

    def _return_of(self, step: int) -> float | None:
        """The mean episode return at a checkpoint, read once where an earlier process made it."""
        if step not in self._returns:
            self._returns[step] = read_return(self._workdir, step)
        return self._returns[step]

    def _put_aside(self, step: int) -> epath.Path:
        folder = epath.Path(self._manager.directory)
        aside = folder / f"damaged-{step}"
        if aside.exists():
            aside.rmtree()
        (folder / str(step)).rename(aside)
        return aside


def whole_steps(workdir: epath.PathLike) -> list[int]:
    """Learner steps of the whole checkpoints in a run's folder, oldest first."""
    folder = checkpoint_folder(workdir)
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.exists() else []


def read_shapes(workdir: epath.PathLike, step: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every array of a checkpoint's state by its path, as `params/encoder/Dense_0/kernel`.

    Raises:
        CheckpointError: if it is damaged.
    """
    saved = by_path(_read_metadata(workdir, step))
    return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in saved.items()}


def read_params(workdir: epath.PathLike, step: int) -> dict[str, np.ndarray]:
    """The parameters of a checkpoint in host memory by their path, as `encoder/Dense_0/kernel`.

    With them come the statistics by which observations were normalised, if they were (`podrl.normalization`), as
    `observations/mean`. It does not matter how many devices made the checkpoint and how many there are.

    Raises:
        CheckpointError: if it is damaged.
    """
    saved = _read_metadata(workdir, step)
    item = {"params": saved["params"]}
    if isinstance(saved.get("extra"), Mapping) and "observations" in saved["extra"]:
        statistics = saved["extra"]["observations"]
        item["extra"] = {"observations": {name: statistics[name] for name in ("count", "mean", "variance")}}
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    arguments = ocp.args.PyTreeRestore(item=item, restore_args=on_host, partial_restore=True)
    path = checkpoint_folder(workdir) / str(step) / "state"
    try:
        restored = ocp.PyTreeCheckpointHandler().restore(path, args=arguments)
    except Exception as error:
        raise CheckpointError(f"Checkpoint {step} in {path.parent.parent} is damaged: {explain(error)}.") from error
    return by_path(restored["params"] | restored.get("extra", {}))


def restore_actor(workdir: epath.PathLike, shape: LearnerState, step: int) -> tuple[LearnerState, Counters]:
    """Restores `params` and `extra` alone, which is what `Agent.actor_params` reads; the rest is left as in `shape`.

    Args:
        workdir: the run's.
        shape: `jax.ShapeDtypeStruct`s with shardings, of any topology.
        step: which checkpoint.

    Raises:
        ConfigError: if the checkpoint is of another network or algorithm.
        CheckpointError: if it is damaged.
    """
    checkpoint = checkpoint_folder(workdir) / str(step)
    parts = {"params": shape.params, "extra": shape.extra}
    try:
        with (
            ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as arrays,
            ocp.Checkpointer(ocp.JsonCheckpointHandler()) as numbers,
        ):
            saved = arrays.metadata(checkpoint / "state").item_metadata.tree
            parts = without_absent(parts, saved)
            check_leaves(checkpoint, saved, parts, partly=True)
            restore = ocp.args.PyTreeRestore(
                item=parts, restore_args=ocp.checkpoint_utils.construct_restore_args(parts), partial_restore=True
            )
            restored = arrays.restore(checkpoint / "state", args=restore)
            extra = with_remainders(restored["extra"], shape.extra)
            state = dataclasses.replace(shape, params=restored["params"], extra=extra)
            return state, Counters(**numbers.restore(checkpoint / "counters"))
    except ConfigError:
        raise
    except Exception as error:
        raise CheckpointError(f"Checkpoint {step} in {checkpoint.parent} is damaged: {explain(error)}.") from error


def _read_metadata(workdir: epath.PathLike, step: int) -> dict[str, PyTree]:
    """Orbax's record of each array in the state."""
    path = checkpoint_folder(workdir) / str(step) / "state"
    try:
        return ocp.PyTreeCheckpointHandler().metadata(path).tree
    except Exception as error:
        raise CheckpointError(f"Checkpoint {step} in {path.parent.parent} is damaged: {explain(error)}.") from error
