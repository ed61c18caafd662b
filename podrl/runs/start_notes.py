"""Notes the start of a run in its folder, and warns of what has changed since its last start."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from absl import logging
from etils import epath

from podrl.config.config import Config
from podrl.config.config_dict import differences, to_dict
from podrl.config.renamed import with_new_names
from podrl.experience.schedule import is_finished
from podrl.mistakes import shorten
from podrl.runs.checkpoint_facts import read_fact
from podrl.runs.comparison import changes
from podrl.runs.records import read_manifests
from podrl.runs.workdir import write_facts
from podrl.types import Counters, Snapshot

_SCHEDULE_KEYS = (
    "agent.optimizer.learning_rate",
    "agent.optimizer.learning_rate_decay",
    "total_env_steps",
    "total_updates",
)


def note_start(
    config: Config, workdir: epath.Path, start: Snapshot | None, manifest: Mapping[str, Any], *, resumes: bool
) -> None:
    """Records the start of a run, and warns of what has changed since its last start.

    Args:
        config: The run's config.
        workdir: The run's folder.
        start: The snapshot that the run resumes from; None if it begins.
        manifest: The hardware and software of this start.
        resumes: Whether the folder holds a run.
    """
    if resumes and not is_finished(config, start.counters if start else Counters()):
        warn_of_changes(config, read_manifests(workdir), manifest)
        warn_of_learning_rate(workdir, config, start)
    write_facts(workdir, config, manifest)


def warn_of_changes(config: Config, before: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> None:
    """Warns of changes since the last start that may change the run's numbers."""
    if config.determinism == "exact" and before and (found := changes(before[-1], now)):
        logging.warning("What follows may not be bit for bit what it would have been: %s.", shorten(found))


def warn_of_learning_rate(workdir: epath.Path, config: Config, start: Snapshot | None) -> None:
    """Warns if the learning rate jumps where a run resumes: its schedule spans the run, whose length may have changed.

    Args:
        workdir: The run's folder.
        config: The config that the run resumes with.
        start: The snapshot that the run resumes from; None if it begins.
    """
    counters = start.counters if start else Counters()
    update = counters.learner_steps
    before = with_new_names((read_fact(workdir, update, "config") if start else None) or {})
    now = to_dict(config)
    earlier, later = _learning_rate(before, counters), _learning_rate(now, counters)
    if earlier is None or later is None:
        return
    (was, _), (becomes, share) = earlier, later
    if math.isclose(was, becomes, rel_tol=0.01, abs_tol=1e-12):
        return
    changed = differences(before, now)
    causes = [f"{key} was {changed[key][0]}, is {changed[key][1]}" for key in _SCHEDULE_KEYS if key in changed]
    logging.warning(
        "The learning rate jumps from %.3g to %.3g after update %d, since %s.%s",
        was,
        becomes,
        update,
        "; ".join(causes),
        f" With agent.optimizer.learning_rate={was / share:.3g} it would continue from {was:.3g}."
        if was and share
        else "",
    )


def _learning_rate(values: Mapping[str, Any], counters: Counters) -> tuple[float, float] | None:
    """Returns the learning rate that a config has at `counters`, and its share of the first; None without one."""
    optimizer, actors = values.get("agent", {}).get("optimizer", {}), values.get("actors", {})
    sizes = [values.get("total_env_steps"), actors.get("num_envs"), actors.get("unroll_length")]
    done = counters.env_steps
    if updates := values.get("total_updates"):  # A run from a data set.
        sizes, done = [updates, 1, 1], counters.learner_steps
    if not isinstance(optimizer, Mapping) or optimizer.get("learning_rate") is None or not all(sizes):
        return None
    total, num_envs, length = sizes
    left = max(0, math.ceil((total - done) / (num_envs * length))) * num_envs * length
    share = left / max(done + left, 1) if optimizer.get("learning_rate_decay") else 1.0
    return optimizer["learning_rate"] * share, share
