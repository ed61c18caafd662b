"""How a job ended: which of its processes' exit codes says most about it."""

import dataclasses
import signal

from podrl.config.config import MISTAKE
from podrl.runtime.stop_signals import INTERRUPTED, PREEMPTED
from podrl.runtime.watchdog import STALLED

_TELLING = (MISTAKE, STALLED, 1)  # For members that fail at the same time; killed ones come before all of these.


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobEnd:
    """The end of a job: the most informative exit code, and in words which member it came from."""

    code: int
    text: str


def kind_of_end(code: int) -> int:
    """Returns 0 for a failure, 1 for a member that was told to stop, 2 for one that finished."""
    return 2 if code == 0 else 1 if code in (PREEMPTED, INTERRUPTED) else 0


def rank_of_end(code: int) -> tuple[int, int]:
    """Orders the exit codes of members that ended at the same time, the most informative first."""
    return kind_of_end(code), -1 if code < 0 else _TELLING.index(code) if code in _TELLING else len(_TELLING)


def describe_end(name: str, code: int) -> str:
    """Returns how a member ended, in words."""
    return f"{name} was killed by {signal.Signals(-code).name}" if code < 0 else f"{name} ended with exit code {code}"
