"""Opens the checkpoints of a run as its config asks for them."""

from collections.abc import Sequence
import functools

from etils import epath
import numpy as np

from podrl.config.config import Config
from podrl.experience.schedule import resumable
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_replay import ReplayRule
from podrl.types import Counters


def make_checkpointer(config: Config, workdir: epath.Path, env_index: np.ndarray | None = None) -> Checkpointer:
    """Opens the checkpoints of a run's folder.

    Args:
        config: The run's config.
        workdir: The run's folder.
        env_index: [B] uint32; the order of the environments in the replay; None if it is that of their numbers.
    """
    checkpoint = config.checkpoint
    return Checkpointer(
        workdir,
        keep=checkpoint.keep,
        every=checkpoint.every_updates,
        keep_every=checkpoint.keep_every,
        keep_best=checkpoint.keep_best,
        save_timeout_s=2 * config.watchdog_s,  # The watchdog ends a waiting run earlier, and reports more.
        replay=ReplayRule(
            is_saved=checkpoint.replay, env_index=env_index, is_next=functools.partial(would_resume_at, config)
        ),
    )


def would_resume_at(config: Config, counters: Counters, steps: Sequence[int]) -> bool:
    """Returns whether a run resumes from a checkpoint made at `counters`, rather than from those of other `steps`.

    It does not where it was stopped or has ended between two boundaries: with a larger `total_env_steps` it resumes
    from the last of these.
    """
    step = counters.learner_steps
    return resumable(config, {*steps, step}, set())[0] == step
