"""What a call of a fused program reports of its updates, and how it comes to the host."""

import functools
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from podrl.experience.in_graph_unroll import EndedEpisodes
from podrl.types import Metrics, PyTree, Trajectory


@struct.dataclass(kw_only=True)
class Report:
    """The results of a call. `K` is the bound on its updates; rows after the last update are zeros.

    Attributes:
        metrics: [K] values of each metric, one per update.
        fingerprint: [2 or 3, 2] uint32; the last update's, as `Learner.fingerprint` computes it.
        episodes: [K, T, B]; the episodes that ended.
        num_stuck: [K] int32; how many steps had an action mask without any action; `()` without masks.
    """

    metrics: Metrics
    fingerprint: jax.Array
    episodes: EndedEpisodes
    num_stuck: PyTree = ()


@struct.dataclass(kw_only=True)
class FusedUpdate:
    """One update of a call.

    Attributes:
        trajectory: [T, B]; what it learned from.
        metrics: Its metrics.
        episodes: [T, B]; the episodes that ended.
        num_stuck: [] int32, as in `Report`.
    """

    trajectory: Trajectory
    metrics: Metrics
    episodes: EndedEpisodes
    num_stuck: PyTree


def empty_report(update: FusedUpdate, max_updates: int, num_fingerprints: int) -> Report:
    """Returns the report of a call before its first update, all zeros.

    Args:
        update: The shapes of an update.
        max_updates: K.
        num_fingerprints: How many numbers `Learner.fingerprint` has.
    """

    def rows(shapes: PyTree) -> Any:
        return jax.tree.map(lambda shape: jnp.zeros((max_updates, *shape.shape), shape.dtype), shapes)

    return Report(
        metrics=rows(update.metrics),
        fingerprint=jnp.zeros((num_fingerprints, 2), jnp.uint32),
        episodes=rows(update.episodes),
        num_stuck=rows(update.num_stuck),
    )


def enter_update(report: Report, index: jax.Array, update: FusedUpdate, fingerprint: jax.Array) -> Report:
    """Returns a report with one more update, at `index` in [0, K), and the fingerprint of the newest."""
    write = functools.partial(jax.lax.dynamic_update_index_in_dim, index=index, axis=0)
    return Report(
        metrics=jax.tree.map(write, report.metrics, update.metrics),
        fingerprint=fingerprint,
        episodes=jax.tree.map(write, report.episodes, update.episodes),
        num_stuck=jax.tree.map(write, report.num_stuck, update.num_stuck),
    )


def report_sharding(mesh: Mesh, *, num_seeds: int) -> Report:
    """Returns the shardings of a report, as prefixes of its tree: episodes lie where their environments are."""
    whole: Any = NamedSharding(mesh, PartitionSpec())
    split: Any = NamedSharding(mesh, PartitionSpec(*(2 + (num_seeds > 1)) * [None], "data"))
    return Report(metrics=whole, fingerprint=whole, episodes=split, num_stuck=whole)


def fetch_reports(report: Report, num_seeds: int) -> list[Report]:
    """Waits for a report, and returns that of each seed in numpy arrays, with this process's environments.

    Args:
        report: On the devices; of several seeds each array has the axis [num_seeds] in front.
        num_seeds: The number of seeds; of one there is no such axis.
    """
    axis = 2 + (num_seeds > 1)
    fetched = Report(
        metrics=jax.device_get(dict(report.metrics)),
        fingerprint=jax.device_get(report.fingerprint),
        episodes=jax.tree.map(lambda array: _local_part(array, axis), report.episodes),
        num_stuck=jax.device_get(report.num_stuck),
    )
    if num_seeds == 1:
        return [fetched]
    return [_of_seed(fetched, index) for index in range(num_seeds)]


def _of_seed(report: PyTree, index: int) -> Report:
    part: Report = jax.tree.map(lambda array: array[index], report)
    return part


def _local_part(array: jax.Array, axis: int) -> np.ndarray:
    """This process's environments of an array whose `axis` is [B], in their order."""
    shards = {shard.index[axis].start or 0: shard for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)], axis=axis)
