"""Numbers of environments' `info` in a run: pools give them where `log.info_keys` asks for some.

`podrl.envs.workers.info_keys` says which numbers of an episode a key asks for.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, cast

from podrl.envs.source import Pool
from podrl.envs.workers.info import Numbers as Numbers  # Exported for code that passes them on.


class InfoPool(Pool, Protocol):
    """A pool that gives numbers of its environments' `info`.

    Attributes:
        ended_numbers: the numbers of each episode that ended, by termination or truncation, with the newest timestep.
    """

    ended_numbers: Numbers

    def record_info(self, keys: Sequence[str]) -> None:
        """Starts recording what `keys` ask for; called once, before `reset`, or never."""
        ...


def record_info(pool: Pool, keys: Sequence[str], *, always: bool = False) -> Callable[[], Numbers]:
    """Makes a new pool record what `keys` ask for, and returns a function that reads its `ended_numbers`.

    Without keys there are none, unless `always`: then they say which episodes have ended.
    """
    if not (keys or always):
        return lambda: {}
    recorder = cast(InfoPool, pool)
    recorder.record_info(keys)
    return lambda: recorder.ended_numbers
