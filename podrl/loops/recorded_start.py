"""How a run from a data set starts: its first rows are read, and its statistics are those of the whole data set."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging
import numpy as np

from podrl.agents.parts.frozen_statistics import freeze_statistics
from podrl.config import programs
from podrl.config.config import MISTAKE, ConfigError
from podrl.config.config_dict import differences, to_plain
from podrl.data.fitting import FREE
from podrl.data.manifest import DataError
from podrl.data.statistics import data_statistics
from podrl.data.trees import from_columns
from podrl.envs.source import evaluation_protocol
from podrl.learning.feed import Feed, open_feed
from podrl.learning.recorded import Recorded
from podrl.loops.bookkeeping import COMPILE_S
from podrl.loops.interface import Assembly, Hooks, Services
from podrl.mistakes import shorten
from podrl.ops.statistics import Statistics, exact_statistics
from podrl.runtime.job.agreement import from_first, together
from podrl.runtime.job.job import Job
from podrl.runtime.ledger import Ledger
from podrl.types import Snapshot


def check_same_data(assembly: Assembly, job: Job) -> None:
    """Checks that all processes have opened the same data set.

    Raises:
        ConfigError: On all processes, if one has other rows than the first.
    """
    if assembly.recorded is None:
        return
    config, hashes = assembly.config, job.exchange("data set", assembly.recorded.data.hash, assembly.config.patience_s)
    other = next((process for process, found in enumerate(hashes) if found != hashes[0]), 0)
    if other:
        job.leave(MISTAKE)
        raise ConfigError(
            f"data.path={config.data.path} has other rows on {job.name_of(other)} than on {job.name_of(0)}: the hashes "
            f"are {hashes[other]} and {hashes[0]}. Give all processes the same data set, one that no longer grows."
        )


def warn_of_other_settings(assembly: Assembly) -> None:
    """Warns in one line if a data set was recorded in another environment, or with other settings.

    Its settings may be those of training or of evaluations.
    """
    config, data = assembly.config, recorded_of(assembly).data
    found = {"id": data.spec.env.id} | dict(data.spec.settings)
    protocol = evaluation_protocol(assembly.source, config.env)
    ours = [to_plain(dataclasses.asdict(env)) for env in (config.env, protocol.env)]
    others = [differences(found, {name: value for name, value in each.items() if name in found}) for each in ours]
    keys = [key for key in others[0] if key in others[1] and key.partition(".")[0] not in FREE]
    if keys:
        said = [f"env.{key} was {others[0][key][0]}, is {others[0][key][1]}" for key in keys]
        logging.warning("data.path=%s was recorded in another environment: %s.", config.data.path, shorten(said))


def open_samples(assembly: Assembly, start: Snapshot | None, hooks: Hooks, services: Services, job: Job) -> Feed:
    """Reads the rows that the first update needs, before anything is compiled; every process its own.

    Raises:
        ConfigError: On all processes, if a shard is damaged on one of them.
    """
    if job.process_index == 0:
        warn_of_other_settings(assembly)
    hooks.show_phase("reading the data set")
    update = start.counters.learner_steps if start else 0
    parts = (assembly.config, recorded_of(assembly), assembly.layout, assembly.topology)

    def read() -> Feed:
        with services.ledger.spend("read"):
            return open_feed(*parts, update=update, beat=lambda: _beat(services.ledger))

    with services.ledger.spend("wait_data"):  # For other processes; what this one reads is watched.
        return together(job, "rows of the data set", read, COMPILE_S)


def observe_data(assembly: Assembly, start: Snapshot, hooks: Hooks, services: Services, job: Job) -> Snapshot:
    """Returns where a run begins, with the statistics of the data set where the agent normalizes by some.

    The first process computes them, so that they are the same on all.

    Raises:
        ConfigError: On all processes, if a shard is damaged.
    """
    network, data = assembly.config.network, recorded_of(assembly).data
    if not (network.normalize_observations or network.normalize_rewards):
        return start
    hooks.show_phase("statistics of the data set")

    def compute() -> dict[str, Any]:
        discount = assembly.config.agent.discount if network.normalize_rewards else 0.0
        try:
            with services.ledger.spend("read"):
                columns, returns = data_statistics(data, discount, beat=lambda: _beat(services.ledger))
        except DataError as error:
            raise ConfigError(f"data.path: {error}") from None
        return {
            "means": {name: each.mean.tolist() for name, each in columns.items()},
            "variances": {name: each.variance.tolist() for name, each in columns.items()},
            "returns": [float(returns.mean), float(returns.variance)],
        }

    with services.ledger.spend("wait_data"):
        found = from_first(job, "statistics of the data set", compute, COMPILE_S)
    observations, returns = _to_statistics(found, data.num_steps)
    state = freeze_statistics(
        start.state,
        observations=observations if network.normalize_observations else None,
        returns=returns if network.normalize_rewards else None,
    )
    return dataclasses.replace(start, state=state)


def recorded_of(assembly: Assembly) -> Recorded:
    """Returns what a run learns from a data set.

    Raises:
        ConfigError: If it has none.
    """
    if assembly.recorded is None:
        tool = programs.program_of("record")
        raise ConfigError(f"data.path is empty. Add --config.data.path=FOLDER of a data set that {tool} made.")
    return assembly.recorded


def _to_statistics(found: Mapping[str, Any], count: int) -> tuple[Statistics, Statistics]:
    """Returns the statistics of observations, and of discounted sums of rewards, from plain numbers."""
    mean, variance = (
        from_columns("observation", {name: np.asarray(values, np.float64) for name, values in found[part].items()})
        for part in ("means", "variances")
    )
    return exact_statistics(count, mean, variance), exact_statistics(count, *map(np.float64, found["returns"]))


def _beat(ledger: Ledger) -> None:
    """Shows the watchdog that there is progress."""
    with ledger.spend("read"):
        pass
