"""Resuming the run that a folder holds: from which checkpoint."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from absl import logging
from etils import epath
import jax

from podrl.agents.parts.loading import load_agent
from podrl.config.config import Config
from podrl.config.config_dict import read_agent
from podrl.config.paths import is_there
from podrl.experience.schedule import is_exact, is_finished, resumable
from podrl.mistakes import ConfigError
from podrl.ops.optimizers import rescale_counts
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_errors import CheckpointError, DamagedError
from podrl.runs.checkpoint_facts import checkpoint_folder, read_fact
from podrl.runs.checkpoint_replay import check_rows
from podrl.runs.checkpoint_restore import Share
from podrl.runs.progress import newest_update
from podrl.runs.records import read_json
from podrl.runs.run_files import CHECKPOINTED, START_ANEW, set_rows_aside
from podrl.telemetry.kept_rows import run_seconds
from podrl.types import Counters, LearnerState, Snapshot

_ADVICE = f"Put good copies there and repeat the command, choose another --workdir, or add {START_ANEW}."


def find_start(
    config: Config,
    workdir: epath.Path,
    checkpointer: Checkpointer,
    shape: LearnerState,
    share: Share = lambda text: [text],
) -> Snapshot | None:
    """Restores the snapshot from which the run in a folder resumes, and deletes checkpoints after it.

    Returns and raises what `restore_start` does, where the arguments are explained.
    """
    start = restore_start(config, workdir, checkpointer, shape, share)
    if start is not None:
        settle_starts([config], [checkpointer], shape, [start], share)
    return start


def restore_start(
    config: Config,
    workdir: epath.Path,
    checkpointer: Checkpointer,
    shape: LearnerState,
    share: Share = lambda text: [text],
    among: Sequence[int] | None = None,
) -> Snapshot | None:
    """Restores the snapshot from which the run in a folder resumes; None if it has to begin anew.

    Its state has no replay if its checkpoint has none. Damaged checkpoints are put aside, and no other is changed.

    Args:
        config: The run's config.
        workdir: The run's folder.
        checkpointer: The folder's checkpoints.
        shape: Shapes of the learner's state, with shardings.
        share: Exchanges a text between the processes: takes this process's and returns those of all.
        among: The updates to choose from; by default all that have a checkpoint.

    Raises:
        ConfigError: If a checkpoint belongs to another network or algorithm.
        CheckpointError: If all checkpoints are damaged, if one cannot be read, or if there were some and none is left:
            a run never restarts from update 0 over earlier results.
    """
    steps = checkpointer.steps() if among is None else among
    choices = json.loads(share(json.dumps(_choices(config, workdir, steps)))[0])
    try:
        start = checkpointer.restore_first(shape, choices, share)
    except DamagedError as error:
        which = "this run" if among is None else f"the updates that every seed has ({', '.join(map(str, among))})"
        raise CheckpointError(
            f"All checkpoints of {which} are damaged. They were left as they are. {error} {_ADVICE}"
        ) from error
    if start is None:
        if lost := share(_find_lost(config, workdir))[0]:
            raise CheckpointError(f"The checkpoints of this run are not there: {lost}. {_ADVICE}")
        _begin_anew(workdir)
        return None
    done = start.counters.learner_steps
    before = read_fact(workdir, done, "config")
    if jax.tree.leaves(start.state.replay):
        check_rows(workdir, done, before, config)
    return _with_counts(start, before, config)


def settle_starts(
    configs: Sequence[Config],
    checkpointers: Sequence[Checkpointer],
    shape: LearnerState,
    starts: Sequence[Snapshot],
    share: Share,
) -> None:
    """Deletes checkpoints after the update from which a run resumes, and says once where that is.

    Args:
        configs: The run's config, or those of its seeds.
        checkpointers: The checkpoints of each.
        shape: Shapes of the learner's state of one.
        starts: The snapshots from which they resume, all at one update.
        share: Exchanges a text between the processes.
    """
    config, counters = configs[0], starts[0].counters
    done = counters.learner_steps
    steps = [json.loads(share(json.dumps(each.steps()))[0]) for each in checkpointers]  # Without damaged ones.
    repeated = max(map(max, steps)) - done
    for checkpointer, among in zip(checkpointers, steps, strict=True):
        checkpointer.forget_after(done, among)
    logging.info(
        "Resumes the run in this folder after update %d%s.",
        done,
        f"; repeats {repeated} that were done after it" if repeated else "",
    )
    _tell_of_refill(configs, shape, starts)
    is_as_uninterrupted = is_exact(config, done) or is_finished(config, counters)
    if config.determinism == "exact" and not is_as_uninterrupted and jax.process_index() == 0:
        logging.warning(
            "Update %d is between two boundaries (checkpoint.every_updates=%d): what follows is not bit for bit what "
            "an uninterrupted run would do.",
            done,
            config.checkpoint.every_updates,
        )


def _tell_of_refill(configs: Sequence[Config], shape: LearnerState, starts: Sequence[Snapshot]) -> None:
    """Warns of replays that their checkpoints do not have; of several seeds it names those that others have."""
    config, counters = configs[0], starts[0].counters
    lacking = [
        each.seed for each, start in zip(configs, starts, strict=True) if not jax.tree.leaves(start.state.replay)
    ]
    needed = bool(jax.tree.leaves(shape.replay)) and not is_finished(config, counters)
    if lacking and needed and jax.process_index() == 0:
        logging.warning(
            "Resumes after update %d not bit for bit: the replay%s is refilled, as its checkpoint has none%s.",
            counters.learner_steps,
            f" of seed {', '.join(map(str, lacking))}" if len(lacking) < len(starts) else "",
            "" if config.checkpoint.replay else " with checkpoint.replay=False",
        )


def _choices(config: Config, workdir: epath.Path, steps: Sequence[int]) -> list[int]:
    """Returns the checkpoints to resume from, best first, on the first process; empty on the others."""
    if jax.process_index() > 0:
        return []
    return resumable(config, steps, _finished(config, workdir, steps))


def _finished(config: Config, workdir: epath.Path, steps: Sequence[int]) -> list[int]:
    """Returns the checkpoints, newest first, at which the run had reached its length."""
    finished: list[int] = []
    for step in sorted(steps, reverse=True) if config.determinism == "exact" else ():
        try:
            env_steps = (read_fact(workdir, step, "counters") or {}).get("env_steps")
        except CheckpointError:  # The restore says why.
            continue
        if not isinstance(env_steps, int):
            continue
        if not is_finished(config, Counters(learner_steps=step, env_steps=env_steps)):
            break
        finished.append(step)
    return finished


def _find_lost(config: Config, workdir: epath.Path) -> str:
    """Returns the evidence that a run without checkpoints once had some; empty if it may never have saved any."""
    aside = sorted(path.name for path in checkpoint_folder(workdir).iterdir() if path.name.startswith("damaged-"))
    if aside:
        return f"only {', '.join(aside)}, put aside as damaged"
    if is_there(workdir / CHECKPOINTED):
        return f"{CHECKPOINTED} says that there was one of update {read_json(workdir / CHECKPOINTED)['learner_steps']}"
    every, newest = config.checkpoint.every_updates, newest_update(str(workdir))
    # For runs from before that file. The second save waits until the first is whole, and later updates for the second.
    if 0 < 2 * every < newest:
        return f"its metrics reach update {newest}, and it saved one every {every} updates"
    return ""


def _begin_anew(workdir: epath.Path) -> None:
    """Logs that a run begins at update 0, and keeps the rows of an earlier attempt that saved no checkpoint."""
    aside = set_rows_aside(workdir) if jax.process_index() == 0 else None
    kept = f" The metrics of the attempt before are kept as {aside.name}." if aside else ""
    logging.info("The run in %s has no checkpoint yet: it starts anew.%s", workdir, kept)


def with_clock(start: Snapshot | None, workdir: epath.Path) -> Snapshot | None:
    """Returns `start` with the run's clock, read from the rows that the run keeps if the checkpoint lacks it."""
    if start is None or start.wall_s is not None:
        return start
    return dataclasses.replace(start, wall_s=run_seconds(workdir, start.counters.learner_steps))


def _with_counts(start: Snapshot, before: Mapping[str, Any] | None, config: Config) -> Snapshot:
    """Rescales the step counts of schedules if updates now take another number of optimizer steps.

    Args:
        start: The snapshot that the run resumes from.
        before: The config that it was made with; None if the checkpoint does not hold it.
        config: The config that the run resumes with.
    """
    agent = (before or {}).get("agent")
    if before is None or not isinstance(agent, Mapping):
        return start
    try:  # With --accept_changes it may be another agent than now.
        agent_type = load_agent(agent.get("name", "")).AgentConfig
        was: int = read_agent(before, agent_type).update_shape.optimizer_steps
    except ConfigError:
        return start  # That agent is gone, or takes other values today: what its counts meant is not known.
    becomes = config.agent.update_shape.optimizer_steps
    if was == becomes:
        return start
    # An agent may keep further optimizers, as V-MPO does.
    opt_state, extra = rescale_counts((start.state.opt_state, start.state.extra), becomes / was)
    return dataclasses.replace(start, state=dataclasses.replace(start.state, opt_state=opt_state, extra=extra))
