"""Which unrolls are under way in groups of environments, which are whole, and which of them an update learns from.

Groups finish their unrolls at different times. An update takes as many unrolls as there are groups, in the order in
which they were completed, so a fast group may give two and a slow one none. `actors.max_lag` holds for every row: an
unroll whose first row was made with the parameters of update v must be learned from by update v + max_lag. Therefore

- unrolls that would be too old for the next update go first, and an update waits for those that are under way;
- a group begins an unroll only if there will be a place for it in time among those that are under way or whole.
  Otherwise it waits for newer parameters, or for the next update.

A place in the batch goes to the group that it had before, if that has a further unroll. Then the batch continues the
one before it there, which a replay of sequences relies on; other places are *cut*.
"""

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass(kw_only=True)
class GroupUnroll:
    """An unroll of a group.

    Attributes:
        group: the group's number.
        number: the group's unrolls before it.
        buffer: where it is written; no other unroll is, until it is taken.
        version: the parameters that made its first row.
        nonfinite: the first value in it that is not finite, in words, and its row; empty if all are.
    """

    group: int
    number: int
    buffer: int
    version: int
    nonfinite: tuple[str, int] = ("", 0)


@dataclasses.dataclass(frozen=True)
class Placed:
    """An unroll in a batch.

    Attributes:
        unroll: the unroll.
        is_cut: whether it does not continue the unroll that had the same place in the batch before.
    """

    unroll: GroupUnroll
    is_cut: bool


class UnrollQueue:
    """The unrolls of an actor's groups. Updates are numbered as rollouts are, see `podrl.experience.schedule`."""

    def __init__(self, num_groups: int, *, max_lag: int):
        """Starts without unrolls, and with two buffers for each group.

        Args:
            num_groups: groups, and unrolls in a batch.
            max_lag: updates after which an unroll must have been learned from.
        """
        self._num_groups, self._max_lag = num_groups, max_lag
        self._free = list(reversed(range(num_buffers(num_groups))))
        self._under_way: dict[int, GroupUnroll] = {}
        self._whole: list[GroupUnroll] = []
        self._begun = [0] * num_groups
        self._places = [(group, -1) for group in range(num_groups)]  # The newest unroll of each: group and number.

    def begin(self, group: int, version: int, update: int) -> GroupUnroll | None:
        """Begins an unroll of a group that has none under way; returns None if it has to wait.

        Args:
            group: the group's number.
            version: the parameters that would make its first row.
            update: the next update that takes a batch.
        """
        own = self._last_update(version)
        pending = [self._last_update(unroll.version) for unroll in (*self._under_way.values(), *self._whole)]
        has_place = all(  # There is none before this update: the parameters are too old.
            sum(last <= until for last in pending) < self._num_groups * (until - update + 1)
            for until in range(own, update + self._max_lag + 1)
        )
        if not has_place or not self._free:
            return None
        unroll = GroupUnroll(group=group, number=self._begun[group], buffer=self._free.pop(), version=version)
        self._under_way[group] = unroll
        self._begun[group] += 1
        return unroll

    def finish(self, group: int) -> None:
        """Notes that a group's unroll is whole."""
        self._whole.append(self._under_way.pop(group))

    def drop(self, group: int) -> None:
        """Forgets the unroll of a group that was lost, if it has one under way; those that are whole remain."""
        if (unroll := self._under_way.pop(group, None)) is not None:
            self._free.append(unroll.buffer)

    def is_complete(self, update: int) -> bool:
        """Returns whether an update can take its batch."""
        waits = any(self._last_update(unroll.version) <= update for unroll in self._under_way.values())
        return len(self._whole) >= self._num_groups and not waits

    def take(self) -> list[Placed]:
        """Removes a batch, and returns an unroll for each place; their buffers are free for what is begun after it."""
        by_age = sorted(self._whole, key=lambda unroll: unroll.version)  # Stable: else in the order of completion.
        taken, self._whole = by_age[: self._num_groups], by_age[self._num_groups :]
        self._free += [unroll.buffer for unroll in taken]
        placed = self._place(taken)
        self._places = [(each.unroll.group, each.unroll.number) for each in placed]
        return placed

    def _place(self, taken: Sequence[GroupUnroll]) -> list[Placed]:
        following = {(unroll.group, unroll.number): unroll for unroll in taken}
        continued = [following.pop((group, number + 1), None) for group, number in self._places]
        others = iter(following.values())
        return [Placed(next(others), True) if unroll is None else Placed(unroll, False) for unroll in continued]

    def _last_update(self, version: int) -> int:
        """Returns the last update that may learn from an unroll whose first row these parameters made."""
        return version + self._max_lag


def num_buffers(num_groups: int) -> int:
    """Returns how many unrolls of an actor's groups may be under way or whole at once."""
    return 2 * num_groups
