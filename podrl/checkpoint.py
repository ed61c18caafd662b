"""Checkpoints of the whole learner state, through Orbax (on tensorstore); the only module that imports it.

A checkpoint is committed atomically: until it is whole it does not count. Saving copies the state off the device and
writes in the background.
"""

import dataclasses
from types import TracebackType
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp

from podrl.types import Counters, LearnerState, PyTree


class Checkpointer:
    """Saves and restores learner states under `<workdir>/checkpoints/<learner step>`; a context manager."""

    def __init__(self, workdir: epath.PathLike, *, keep: int):
        """Opens the folder, keeping the newest `keep` checkpoints."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        folder = epath.Path(workdir).resolve() / "checkpoints"  # Orbax refuses relative paths.
        self._manager = ocp.CheckpointManager(folder, options=options)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def save(self, state: LearnerState, counters: Counters) -> None:
        """Saves under the learner step of `counters`; returns when the state may be donated again.

        Raises:
            RuntimeError: if Orbax refuses the save; an error in the background is raised by the next call.
        """
        saved = self._manager.save(
            counters.learner_steps,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_to_arrays(state)),
                counters=ocp.args.JsonSave(dataclasses.asdict(counters)),
            ),
            force=True,
        )
        if not saved:
            raise RuntimeError(f"The checkpoint of update {counters.learner_steps} was not saved.")

    def latest(self) -> int | None:
        """Learner step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, shape: LearnerState, step: int | None = None) -> tuple[LearnerState, Counters]:
        """Restores a state onto the devices that `shape` names.

        Args:
            shape: `jax.ShapeDtypeStruct`s with shardings.
            step: which; by default the newest.

        Raises:
            FileNotFoundError: if there is no checkpoint.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise FileNotFoundError(f"No checkpoint in {self._manager.directory}.")
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_to_array_shapes(shape)), counters=ocp.args.JsonRestore()
            ),
        )
        state = dataclasses.replace(shape, **restored["state"])
        return dataclasses.replace(state, key=jax.random.wrap_key_data(state.key)), Counters(**restored["counters"])

    def close(self) -> None:
        """Waits for saves in the background and raises their errors."""
        self._manager.wait_until_finished()
        self._manager.close()


def _to_arrays(state: LearnerState) -> dict[str, PyTree]:
    """The state as plain arrays: a typed key becomes its words."""
    fields: dict[str, Any] = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return fields | {"key": jax.random.key_data(state.key)}


def _to_array_shapes(shape: LearnerState) -> dict[str, PyTree]:
    fields: dict[str, Any] = {field.name: getattr(shape, field.name) for field in dataclasses.fields(shape)}
    words = jax.eval_shape(jax.random.key_data, shape.key)
    return fields | {"key": jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=shape.key.sharding)}
