"""Reads facts of a run's checkpoints without running it: no environment, no network, no accelerator."""

from collections.abc import Callable, Mapping
import dataclasses
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
from podrl.runs.replay_inspection import ReplayDetails, inspect_replay
from podrl.runs.retention import reasons_to_keep
from podrl.types import Counters

_T = TypeVar("_T")
_TRIES = 50  # Attempts to read a checkpoint before its run deletes it.
_DELETING_S, _LOOK_S = 1.0, 0.05  # How long a folder that is being deleted may stay unchanged.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint in a list.

    Attributes:
        step: the checkpoint's update.
        env_steps: agent decisions up to it; None if that part is damaged.
        episode_return: mean of the newest episodes; None if no episode had ended.
        size_bytes: size of its files.
        reasons: why it is kept, see `podrl.runs.retention`.
    """

    step: int
    env_steps: int | None
    episode_return: float | None
    size_bytes: int
    reasons: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Details:
    """One checkpoint, except the arrays themselves.

    Attributes:
        step: the checkpoint's update.
        counters: progress of the job.
        episode_return: mean of the newest episodes; None if no episode had ended.
        num_episodes: number of episodes in that mean.
        config: the run's resolved config, as JSON holds it.
        manifest: the run's manifest: hardware, software and command.
        is_complete: whether both come from the checkpoint itself; otherwise they are those of the run's folder.
        shapes: shape and dtype of each array of the learner's state by its path, the parameters first.
        num_checked: number of arrays that were read and match their hashes; None if no hashes were saved.
        had_replay: whether it was saved with a replay.
        replay: its replay; None if it has none any more.
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
    had_replay: bool
    replay: ReplayDetails | None

    @property
    def param_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the parameters."""
        return {path: shape for path, shape in self.shapes.items() if path.startswith("params/")}


def find_run(workdir: str) -> epath.Path:
    """Returns the folder of a run that has a checkpoint.

    Raises:
        ConfigError: if it is no run's folder, has no checkpoint, or cannot be read; the message says what was found.
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
    """Returns the names in the checkpoints' folder that are no complete checkpoints: half-written, or damaged."""
    folder = checkpoint_folder(workdir)
    whole = {str(step) for step in whole_steps(workdir)}
    return sorted(path.name for path in folder.iterdir() if path.name not in whole) if folder.exists() else []


def choose_step(workdir: epath.Path, step: int | None) -> int:
    """Returns `step`, or the step of the newest checkpoint if it is None.

    Raises:
        ConfigError: if there is no such checkpoint; the message lists those that exist.
    """
    if step is not None and has_whole_step(workdir, step):
        return step
    steps = whole_steps(workdir)
    there = ", ".join(map(str, steps)) or "none"
    check(step is not None or bool(steps), f"{workdir} has no whole checkpoint any more.")
    check(step is None or step in steps, f"--step={step} has no checkpoint in {workdir}. There are: {there}.")
    return steps[-1] if step is None else step


def read_checkpoint(workdir: epath.Path, step: int | None, read: Callable[[int], _T]) -> _T:
    """Reads a checkpoint whose run may be in progress and delete it meanwhile, which is no damage.

    Args:
        workdir: the run's folder.
        step: the checkpoint's step; None for the newest, or the one that is the newest by then.
        read: reads the checkpoint of an update.

    Raises:
        ConfigError: if there is no such checkpoint; the message lists those that exist.
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
    """Returns whether a checkpoint is deleted, or is just being deleted."""
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
    """Returns whether a run may be using this folder, which is unknown in an object store."""
    return "://" in str(workdir) or is_there(workdir / heartbeat.NAME)


def list_checkpoints(workdir: epath.Path) -> list[Entry]:
    """Returns the complete checkpoints, oldest first."""
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
    """Describes one checkpoint, after reading every array and comparing it with its hash.

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
        had_replay=facts.replay is not None,
        replay=inspect_replay(workdir, step, facts),
    )


def _read_env_steps(workdir: epath.Path, step: int) -> int | None:
    try:
        return read_facts(workdir, step).counters.env_steps
    except DamagedError:
        return None


def _checkpoint_config(workdir: epath.Path) -> CheckpointConfig:
    """Returns the run's `checkpoint` section; keys that its podrl did not have yet get their defaults."""
    section = _read_json(workdir / "config.json").get("checkpoint", {})
    known = {field.name for field in dataclasses.fields(CheckpointConfig)}
    return CheckpointConfig(**{name: value for name, value in section.items() if name in known})


def _read_json(path: epath.Path) -> dict[str, Any]:
    return read_json(path) if is_there(path) else {}


def _size_bytes(path: epath.Path) -> int:
    """Returns the size of a file, or of all files in a folder; 0 if the run has deleted it meanwhile."""
    try:
        return sum(map(_size_bytes, path.iterdir())) if path.is_dir() else size_bytes(path)
    except FileNotFoundError:
        return 0
