"""The size of a ring, which sequences it can give, and which of them are complete at the moment.

All environments are inserted together, so one number says where every environment's ring stands. Rows are counted from
the run's first, start by start: start a is row a x stride. After R rows the ring holds those from R - rows + 1 to R,
of which row R is the newest rollout's bootstrap row. A start is *live* while all that its sequence needs is there: the
rows before it and its own, up to and including its bootstrap row. So the first starts of a run, before which there are
no rows, are never live.
"""

import dataclasses
import math

import jax
from jax import numpy as jnp

from podrl.mistakes import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class RingShape:
    """The numbers that make a ring of sequences.

    Attributes:
        num_envs: B, environments of the whole job.
        unroll_length: T, rows that one insertion writes for each environment.
        unrolls: Unrolls that the ring holds for each environment.
        length: L, transitions of a sequence, burn-in included.
        stride: Rows from one start to the next, a divisor of T. T itself for sequences that begin with a stored carry,
            1 for transitions.
        before: Rows before a sequence that are returned with it, at least 1: a frame stack of n is rebuilt from n - 1.
        groups: Groups of neighbouring environments, see `podrl.replay.groups`; each gives the same share of a batch.
        batch: N, sequences in a batch.
        priority_exponent: The power of priorities by which starts are drawn; None draws all live starts alike and keeps
            no priorities.
    """

    num_envs: int
    unroll_length: int
    unrolls: int
    length: int
    stride: int
    before: int = 1
    groups: int = 1
    batch: int
    priority_exponent: float | None = None

    def __post_init__(self) -> None:
        """Raises `ConfigError` unless the numbers fit each other and a full ring has live starts."""
        for name in ("num_envs", "unroll_length", "unrolls", "length", "stride", "before", "groups", "batch"):
            value = getattr(self, name)
            check(value >= 1, f"Found {name}={value} of a replay ring; expected at least 1.")
        check(
            self.unroll_length % self.stride == 0,
            f"Sequences start every {self.stride} rows, which does not divide actors.unroll_length="
            f"{self.unroll_length}. Use 1 or the unroll length.",
        )
        for name, value in (("actors.num_envs", self.num_envs), ("replay.batch", self.batch)):
            check(
                value % self.groups == 0,
                f"{name}={value} does not divide into replay.groups={self.groups}. Use a multiple of {self.groups}.",
            )
        needed = -(-(self._starts_taken + self._starts_lost) * self.stride // self.unroll_length)
        check(
            self.most_live >= 1,
            f"The replay ring holds {self.unrolls} unrolls of each environment; sequences of {self.length} rows need "
            f"{needed} or more. Set replay.capacity to at least {needed * self.unroll_length * self.num_envs}.",
        )

    @property
    def rows(self) -> int:
        """Rows of each environment."""
        return self.unrolls * self.unroll_length

    @property
    def starts(self) -> int:
        """Places at which a sequence can start, of each environment."""
        return self.rows // self.stride

    @property
    def group_size(self) -> int:
        """Environments in a group."""
        return self.num_envs // self.groups

    @property
    def draws(self) -> int:
        """Sequences that each group gives to a batch."""
        return self.batch // self.groups

    @property
    def most_live(self) -> int:
        """Live starts of each environment in a full ring."""
        return self.starts - self._starts_taken - self._starts_lost + 1

    @property
    def _starts_taken(self) -> int:
        """Starts that a sequence reaches over."""
        return -(-self.length // self.stride)

    @property
    def _starts_lost(self) -> int:
        """Starts after the oldest row for which a row before them is overwritten, by the bootstrap row at least."""
        return -(-(self.before + 1) // self.stride)

    @property
    def unbarred(self) -> int:
        """`SequenceRing.fit_unrolls` at its largest: no rollout in the ring is barred."""
        return 2 * self.unrolls

    def first_unbarred(self, inserted: jax.Array, fit_unrolls: jax.Array) -> jax.Array:
        """Returns the first start, [] int32, all of whose rows came after the newest rollout that is barred.

        Args:
            inserted: [] int32; `SequenceRing.inserted`.
            fit_unrolls: [] int32; `SequenceRing.fit_unrolls`.
        """
        return -(-((inserted - fit_unrolls) * self.unroll_length + self.before) // self.stride)

    def live(self, inserted: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the oldest and the newest live start, both [] int32; the newest is smaller if there is none.

        Args:
            inserted: [] int32; `SequenceRing.inserted`.
        """
        written = inserted * (self.unroll_length // self.stride)
        oldest = jnp.maximum(-(-self.before // self.stride), written - self.starts + self._starts_lost)
        return oldest, written - self._starts_taken

    def num_live(self, inserted: jax.Array) -> jax.Array:
        """Returns the number of live starts of each environment, [] int32. Nothing can be drawn while it is 0."""
        oldest, newest = self.live(inserted)
        return jnp.maximum(newest - oldest + 1, 0)

    def unrolls_until_drawn(self, min_steps: int) -> int:
        """Returns how many insertions it takes until there is a live start among `min_steps` env steps of the job."""
        return max(-(-min_steps // (self.num_envs * self.unroll_length)), self.unrolls_until_live())

    def unrolls_until_live(self) -> int:
        """Returns how many insertions it takes until there is a live start."""
        first = -(-self.before // self.stride)
        return math.ceil((first + self._starts_taken) * self.stride / self.unroll_length)
