"""Checkpoints of the whole learner state, through Orbax (on tensorstore); the only module that imports it.

A checkpoint is committed atomically: until it is whole it does not count. Saving copies the state off the device and
writes in the background.
"""

from collections.abc import Iterable, Sequence
import dataclasses
from types import TracebackType
from typing import Any

from absl import logging
from etils import epath
import jax
import orbax.checkpoint as ocp

from podrl.config import ConfigError
from podrl.types import Counters, LearnerState, PyTree, Snapshot


class Checkpointer:
    """Saves and restores learner states under `<workdir>/checkpoints/<learner step>`; a context manager."""

    def __init__(self, workdir: epath.PathLike, *, keep: int, every: int = 0):
        """Opens the folder.

        Args:
            workdir: the run's.
            keep: newest checkpoints to keep.
            every: count only those at multiples of this; the others are kept until the next of these.
        """
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_KeepNewest(keep=keep, every=every), enable_async_checkpointing=True
        )
        folder = epath.Path(workdir).resolve() / "checkpoints"  # Orbax refuses relative paths.
        items = {
            "state": ocp.StandardCheckpointHandler(),
            "counters": ocp.JsonCheckpointHandler(),
            "episodes": ocp.JsonCheckpointHandler(),
            "chain": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(folder, options=options, item_handlers=items)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def save(self, snapshot: Snapshot) -> None:
        """Saves under the learner step of its counters; returns when the state may be donated again.

        Raises:
            RuntimeError: if Orbax refuses the save; an error in the background is raised by the next call.
        """
        step = snapshot.counters.learner_steps
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_to_arrays(snapshot.state)),
                counters=ocp.args.JsonSave(dataclasses.asdict(snapshot.counters)),
                episodes=ocp.args.JsonSave(dict(snapshot.episodes)),
                chain=ocp.args.JsonSave({"chain": snapshot.chain}),
            ),
            force=True,
        )
        if not saved:
            raise RuntimeError(f"The checkpoint of update {step} was not saved.")

    def steps(self) -> list[int]:
        """Learner steps of the whole checkpoints, oldest first; a save that was cut short does not count."""
        return sorted(self._manager.all_steps())

    def restore(self, shape: LearnerState, step: int) -> Snapshot:
        """Restores a state onto the devices that `shape` names.

        Args:
            shape: `jax.ShapeDtypeStruct`s with shardings.
            step: which checkpoint.

        Raises:
            ConfigError: if it is of another network or algorithm; names the first leaf that differs.
            Exception: whatever Orbax raises on one that is damaged.
        """
        self._check_leaves(shape, step)
        items: dict[str, Any] = {
            "state": ocp.args.StandardRestore(_to_array_shapes(shape)),
            "counters": ocp.args.JsonRestore(),
            "episodes": ocp.args.JsonRestore(),
        }
        if "chain" in self._manager.item_metadata(step):  # Checkpoints before podrl chained its fingerprints have none.
            items["chain"] = ocp.args.JsonRestore()
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        state = dataclasses.replace(shape, **restored["state"])
        return Snapshot(
            state=dataclasses.replace(state, key=jax.random.wrap_key_data(state.key)),
            counters=Counters(**restored["counters"]),
            episodes=restored["episodes"],
            **({"chain": restored["chain"]["chain"]} if "chain" in items else {}),
        )

    def restore_first(self, shape: LearnerState, steps: Iterable[int]) -> Snapshot | None:
        """Restores the first of these checkpoints that can be read; None if none can.

        One that cannot is named in a warning and put aside as `damaged-<step>`, for a person to look at.

        Raises:
            ConfigError: as `restore`.
            JaxRuntimeError: if a device has no room for it, which is no fault of the checkpoint's.
        """
        for step in steps:
            try:
                return self.restore(shape, step)
            except (ConfigError, jax.errors.JaxRuntimeError):
                raise
            except Exception as error:  # noqa: BLE001 (Orbax and tensorstore raise many kinds for a damaged file)
                aside = self._put_aside(step)
                reason = str(error).partition("\n")[0] or type(error).__name__
                logging.warning("Checkpoint %d is damaged and was put aside as %s: %s", step, aside.name, reason)
        return None

    def forget_after(self, step: int) -> None:
        """Deletes checkpoints of later updates, which the run is about to make again."""
        self.wait()
        for later in [other for other in self.steps() if other > step]:
            self._manager.delete(later)

    def _put_aside(self, step: int) -> epath.Path:
        folder = epath.Path(self._manager.directory)
        aside = folder / f"damaged-{step}"
        if aside.exists():
            aside.rmtree()
        (folder / str(step)).rename(aside)
        self._manager.reload()
        return aside

    def wait(self) -> None:
        """Waits for saves in the background and raises their errors."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does, and ends."""
        self.wait()
        self._manager.close()

    def _check_leaves(self, shape: LearnerState, step: int) -> None:
        """Raises ConfigError unless the checkpoint has the leaves of `shape`."""
        saved = _leaf_shapes(self._manager.item_metadata(step)["state"])
        for path, expected in _leaf_shapes(_to_array_shapes(shape)).items():
            if (found := saved.pop(path, None)) != expected:
                raise ConfigError(
                    f"Checkpoint {step} in {self._manager.directory} is of another network or algorithm: {path} is "
                    f"{found or 'not there'}, expected {expected}."
                )
        if saved:
            path = next(iter(saved))
            raise ConfigError(
                f"Checkpoint {step} in {self._manager.directory} is of another network or algorithm: it has {path}, "
                "which this run has not."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _KeepNewest:
    """Orbax's interface to what is kept: the newest `keep` boundaries, and whatever is newer than these."""

    keep: int
    every: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """For each checkpoint, oldest first, whether it stays."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        boundaries = [step for step in steps if self.every and step % self.every == 0] or steps
        kept = boundaries[-self.keep :]
        return [step in kept or step > max(kept) for step in steps]


def _leaf_shapes(tree: PyTree) -> dict[str, str]:
    """Dtype and shape of each leaf by its path, which is the same in a live state and in Orbax's record of it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _to_arrays(state: LearnerState) -> dict[str, PyTree]:
    """The state as plain arrays: a typed key becomes its words."""
    fields: dict[str, Any] = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return fields | {"key": jax.random.key_data(state.key)}


def _to_array_shapes(shape: LearnerState) -> dict[str, PyTree]:
    fields: dict[str, Any] = {field.name: getattr(shape, field.name) for field in dataclasses.fields(shape)}
    words = jax.eval_shape(jax.random.key_data, shape.key)
    return fields | {"key": jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=shape.key.sharding)}
