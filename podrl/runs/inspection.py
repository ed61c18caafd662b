"""What there is to know of a run's checkpoints without running it: no environment, no network, no accelerator."""

from collections.abc import Callable, Mapping
import dataclasses
import math
import time
from typing import Any, TypeVar

from etils import epath
import jax

from podrl.config.config import CheckpointConfig, ConfigError, check
from podrl.config.paths import check_workdir_path, is_folder, is_there, size_bytes
from podrl.runs import heartbeat
from podrl.runs.checkpoint_arrays import check_all, has_whole_step, read_shapes, whole_steps
from podrl.runs.checkpoint_errors import CheckpointError, DamagedError, DeletedError
from podrl.runs.checkpoint_facts import checkpoint_folder, read_facts, read_return
from podrl.runs.records import read_json
from podrl.runs.retention import reasons_to_keep
from podrl.types import Counters

_T = TypeVar("_T")
_TRIES = 50  # To read a checkpoint before its run deletes it.
_DELETING_S, _LOOK_S = 1.0, 0.05  # How long a folder that is being deleted may stay as it is.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint in a list of them.

    Attributes:
        step: its update.
        env_steps: agent decisions behind it; None if that part is damaged.
        episode_return: mean of the newest episodes; None if no episode had ended.
        size_bytes: of its files.
        reasons: why it is kept, see `podrl.runs.retention`.
    """

    step: int
    env_steps: int | None
    episode_return: float | None
    size_bytes: int
    reasons: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Details:
    """One checkpoint, but for the arrays themselves.

    Attributes:
        step: its update.
        counters: progress of the job.
        episode_return: mean of the newest episodes; None if no episode had ended.
        num_episodes: behind that mean.
        config: the run's, resolved, as JSON holds it.
        manifest: what it ran on and with.
        is_complete: whether both are the checkpoint's own; else they are those of the run's folder.
        shapes: shape and dtype of each array of the learner's state by its path, the parameters first.
        num_checked: arrays that were read and match their hashes; None where none were saved.
    """

    step: int
    counters: Counters
    episode_return: float | None
    num_episodes: int
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    is_complete: bool
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    num_checked: int | None

    @property
    def param_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Those of the parameters."""
        return {path: shape for path, shape in self.shapes.items() if path.startswith("params/")}


def count_elements(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Numbers in all these arrays."""
    return sum(math.prod(shape.shape) for shape in shapes.values())


def count_bytes(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Their size in memory."""
    return sum(math.prod(shape.shape) * shape.dtype.itemsize for shape in shapes.values())


def find_run(workdir: str) -> epath.Path:
    """The folder of a run that has a checkpoint.

    Raises:
        ConfigError: if it is none, has none, or cannot be read; says what is there.
    """
    check_workdir_path(workdir)
    folder = epath.Path(workdir)
    try:
        check(is_folder(folder), f"--workdir={workdir} is not there, or no folder. Name the folder of a run.")
        check(
            is_there(folder / "config.json"),
            f"--workdir={workdir} is not the folder of a run: it has no config.json. Name the folder that has one.",
        )
        has_whole = has_whole_step(folder)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir} cannot be read ({error.strerror or error}).") from None
    others = "" if has_whole else ", ".join(leftovers(folder))
    check(
        has_whole,
        f"--workdir={workdir} has no whole checkpoint yet{f', only {others}' if others else ''}. The run saves one at "
        "every multiple of checkpoint.every_updates, and at its end.",
    )
    return folder


def leftovers(workdir: epath.Path) -> list[str]:
    """What lies among the checkpoints and is none: half-written, or damaged and put aside."""
    folder = checkpoint_folder(workdir)
    whole = {str(step) for step in whole_steps(workdir)}
    return sorted(path.name for path in folder.iterdir() if path.name not in whole) if folder.exists() else []


def choose_step(workdir: epath.Path, step: int | None) -> int:
    """`step`, or that of the newest checkpoint if None.

    Raises:
        ConfigError: if there is no such checkpoint; lists those that are there.
    """
    if step is not None and has_whole_step(workdir, step):
        return step
    steps = whole_steps(workdir)
    there = ", ".join(map(str, steps)) or "none"
    check(step is not None or bool(steps), f"{workdir} has no whole checkpoint any more.")
    check(step is None or step in steps, f"--step={step} has no checkpoint in {workdir}. There are: {there}.")
    return steps[-1] if step is None else step


def read_checkpoint(workdir: epath.Path, step: int | None, read: Callable[[int], _T]) -> _T:
    """What is read of a checkpoint, whose run may be under way and delete it meanwhile, which is no damage.

    Args:
        workdir: the run's.
        step: which checkpoint; if it is None, the newest, or one that is the newest by then.
        read: reads the checkpoint of an update.

    Raises:
        ConfigError: if there is no such checkpoint; lists those that are there.
        DeletedError: if it was deleted while it was read.
        CheckpointError: if it is damaged, or cannot be read.
    """
    for _ in range(_TRIES):
        chosen = choose_step(workdir, step)
        try:
            return read(chosen)
        except CheckpointError:
            if not _is_deleted(workdir, chosen):
                raise
        if step is not None:
            there = ", ".join(map(str, whole_steps(workdir))) or "none"
            raise DeletedError(f"Checkpoint {step} in {workdir} was deleted meanwhile by its run. There are: {there}.")
    raise DeletedError(
        f"{workdir}: {_TRIES} checkpoints were deleted before they could be read. Its run keeps too few for that: see "
        "checkpoint.keep."
    )


def _is_deleted(workdir: epath.Path, step: int) -> bool:
    """Whether a checkpoint is there no more, or is just being deleted."""
    path = checkpoint_folder(workdir) / str(step)
    left, since_s = -1, time.monotonic()
    while is_there(path):
        if not _may_be_under_way(workdir):
            return False
        before, left = left, _size_bytes(path)
        if left != before:
            since_s = time.monotonic()
        elif time.monotonic() - since_s > _DELETING_S:
            return False
        time.sleep(_LOOK_S)
    return True


def _may_be_under_way(workdir: epath.Path) -> bool:
    """Whether a run may have this folder; in an object store nothing says so."""
    return "://" in str(workdir) or is_there(workdir / heartbeat.NAME)


def list_checkpoints(workdir: epath.Path) -> list[Entry]:
    """The whole checkpoints, oldest first."""
    returns = {step: read_return(workdir, step) for step in whole_steps(workdir)}
    reasons = reasons_to_keep(_checkpoint_config(workdir), returns)
    return [
        Entry(
            step=step,
            env_steps=_read_env_steps(workdir, step),
            episode_return=episode_return,
            size_bytes=_size_bytes(checkpoint_folder(workdir) / str(step)),
            reasons=reasons[step],
        )
        for step, episode_return in returns.items()
        if is_there(checkpoint_folder(workdir) / str(step))  # Unless it was deleted meanwhile.
    ]


def describe_checkpoint(workdir: epath.Path, step: int) -> Details:
    """One checkpoint, every array of which is read and compared with its hash.

    Raises:
        CheckpointError: if it is damaged, or cannot be read.
    """
    facts = read_facts(workdir, step)
    shapes = read_shapes(workdir, step, facts)
    return Details(
        step=step,
        counters=facts.counters,
        episode_return=read_return(workdir, step),
        num_episodes=len(facts.episodes.get("newest", ())),
        config=facts.config or _read_json(workdir / "config.json"),
        manifest=facts.manifest or _read_json(workdir / "manifest.json"),
        is_complete=bool(facts.config and facts.manifest),
        shapes=dict(sorted(shapes.items(), key=lambda item: not item[0].startswith("params/"))),
        num_checked=check_all(workdir, step, facts),
    )


def _read_env_steps(workdir: epath.Path, step: int) -> int | None:
    try:
        return read_facts(workdir, step).counters.env_steps
    except DamagedError:
        return None


def _checkpoint_config(workdir: epath.Path) -> CheckpointConfig:
    """What the run keeps; keys that its podrl did not have yet are left at their defaults."""
    section = _read_json(workdir / "config.json").get("checkpoint", {})
    known = {field.name for field in dataclasses.fields(CheckpointConfig)}
    return CheckpointConfig(**{name: value for name, value in section.items() if name in known})


def _read_json(path: epath.Path) -> dict[str, Any]:
    return read_json(path) if is_there(path) else {}


def _size_bytes(path: epath.Path) -> int:
    """Of a file, or of all files in a folder; nothing if the run has deleted it meanwhile."""
    try:
        return sum(map(_size_bytes, path.iterdir())) if path.is_dir() else size_bytes(path)
    except FileNotFoundError:
        return 0
