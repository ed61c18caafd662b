"""Numbers of environments' `info` over their episodes, inside the compiled program.

`podrl.envs.workers.info` counts the same where environments step on the host, in float64; this counts in float32, as
the program does with returns.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any
import zlib

from flax import struct
import jax
from jax import numpy as jnp
import numpy as np

from podrl.config.config import check
from podrl.envs.source import JaxEnvironment
from podrl.envs.workers.info_keys import KeyedPaths
from podrl.types import EnvSpec, PyTree

_SUMS = ("mean", "sum")


@struct.dataclass(kw_only=True)
class InfoTotals:
    """The numbers of the episodes under way, N of each of `B` environments.

    Attributes:
        totals: [B, N] float32; what each statistic is so far, NaN for an extreme or a newest number that is missing.
        counts: [B, N] int32; the numbers behind a sum.
    """

    totals: jax.Array
    counts: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class InGraphTally:
    """Pure functions that collect numbers of episodes.

    Attributes:
        keys: `log.info_keys`.
        names: [N] the numbers' names in alphabetical order: paths, with the statistics before them.
        statistics: [N] one of `podrl.envs.workers.info_keys.STATISTICS` each, empty for the number at the last step.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    statistics: tuple[str, ...]

    @property
    def code(self) -> str:
        """Tells the numbers from others of the same count, in the paths of a checkpoint's arrays."""
        return f"{zlib.crc32(chr(10).join(self.names).encode()):08x}"

    def init(self, num_envs: int) -> dict[str, InfoTotals]:
        """Starts an episode in every environment; the only entry's name is `code`."""
        totals = jnp.broadcast_to(self._empty(), (num_envs, len(self.names)))
        return {self.code: InfoTotals(totals=totals, counts=jnp.zeros(totals.shape, jnp.int32))}

    def add(
        self, state: Mapping[str, InfoTotals], info: PyTree, first: jax.Array, ends: jax.Array
    ) -> tuple[dict[str, InfoTotals], jax.Array]:
        """Adds a step.

        Args:
            state: The numbers before it.
            info: What the environments tell, nested dictionaries of arrays [B].
            first: [B] bool; the step was a reset, which tells nothing.
            ends: [B] bool; the episode is over, so that the next step belongs to another.

        Returns:
            The numbers after it, and those [B, N] of the episodes so far, float32, NaN where there is none.
        """
        found, before = _find_numbers(KeyedPaths(self.keys), info), state[self.code]
        value = jnp.stack([found[name][1].astype(jnp.float32) for name in self.names], axis=-1)
        there = jnp.isfinite(value) & ~first[:, None]
        largest, smallest = jnp.fmax(before.totals, value), jnp.fmin(before.totals, value)
        added = jnp.select(
            [self._is("max"), self._is("min"), self._is(*_SUMS)], [largest, smallest, before.totals + value], value
        )
        missing = jnp.where(self._is("") & ~first[:, None], jnp.nan, before.totals)
        totals, counts = jnp.where(there, added, missing), before.counts + there
        means = jnp.where(self._is("mean"), totals / counts, totals)
        numbers = jnp.where(self._is(*_SUMS) & (counts == 0), jnp.nan, means)
        over = ends[:, None]
        after = InfoTotals(totals=jnp.where(over, self._empty(), totals), counts=jnp.where(over, 0, counts))
        return {self.code: after}, numbers

    def _is(self, *statistics: str) -> np.ndarray:
        """Returns which columns [N] have one of these statistics."""
        return np.isin(self.statistics, statistics)

    def _empty(self) -> np.ndarray:
        """Returns the totals [N] of no numbers."""
        return np.where(self._is(*_SUMS), 0.0, np.nan).astype(np.float32)


def make_in_graph_tally(
    keys: Sequence[str], environment: JaxEnvironment, spec: EnvSpec, num_envs: int
) -> InGraphTally | None:
    """Finds what `log.info_keys` ask for in an environment's `info`, and warns of keys that ask for nothing.

    Returns:
        None if there are no keys, or they ask for nothing.

    Raises:
        ConfigError: if the environment gives no numbers, or a key names what is no number, or too much.
    """
    if not keys:
        return None
    step = environment.step_with_info
    check(
        step is not None,
        f"env.id={spec.id!r} gives no numbers of its info inside the compiled program. Clear log.info_keys={keys}, by "
        "--config.log.info_keys= on the command line, or use topology.placement=sebulba.",
    )

    def told(seeds: jax.Array) -> Any:
        each = jax.vmap(jax.random.key)(seeds)
        action = jnp.zeros((num_envs, *spec.actions.struct.shape), spec.actions.struct.dtype)
        return step(each, environment.init(each)[0], action)[2].info  # type: ignore[misc]

    paths = KeyedPaths(keys)
    found = _find_numbers(paths, jax.eval_shape(told, jax.ShapeDtypeStruct((num_envs,), jnp.uint32)))
    paths.warn_of_unmatched()
    if not found:
        return None
    return InGraphTally(
        keys=tuple(keys), names=tuple(found), statistics=tuple(statistic for statistic, _ in found.values())
    )


def _find_numbers(paths: KeyedPaths, info: PyTree) -> dict[str, tuple[str, Any]]:
    """Returns statistic and array [B] of each number that is asked for, or its shape, by name in alphabetical order."""
    found: dict[str, tuple[str, Any]] = {}
    for path, value in paths.items(info if isinstance(info, Mapping) else {}):
        if len(value.shape) != 1 or value.dtype.kind not in "biuf":
            paths.refuse(path, np.zeros(value.shape[1:], value.dtype))
            continue
        paths.count(path)
        found |= {key.name_of(path): (key.statistic, value) for key in paths.keys_of(path)}
    return dict(sorted(found.items()))
