"""Restarts a run after failures, as long as it makes progress."""

from collections.abc import Callable
import time

from absl import logging

from podrl.launch.job_end import JobEnd
from podrl.launch.signals import StopSignals
from podrl.runtime.stop_signals import INTERRUPTED, PREEMPTED
from podrl.runtime.waiting import Patience
from podrl.runtime.watchdog import STALLED

_LONGEST_PAUSE_S = 60.0
_POLL_S = 0.1


def run_with_restarts(
    attempt: Callable[[], JobEnd],
    stop: StopSignals,
    *,
    max_restarts: int,
    pause_s: float,
    newest_update: Callable[[], int],
    after_preemption: bool = False,
) -> JobEnd:
    """Runs `attempt` until it finishes, is stopped by the user, or cannot succeed.

    It is repeated after exit codes 1 and 124 and after death by a signal, unless it got no further than the failure
    before: what fails twice at one update will fail a third time. Which row or checkpoint is the last one written there
    may vary.

    Args:
        attempt: runs the job once.
        stop: catches the launcher's signals.
        max_restarts: largest number of restarts.
        pause_s: seconds before the first restart; doubled for each further one, up to a minute.
        newest_update: returns how far the run got, from its folder.
        after_preemption: whether to restart after exit code 75 too, which is no failure and does not count.
    """
    failed_at, restarts, starts = None, 0, 0
    while True:
        ending = attempt()
        starts += 1
        preempted = after_preemption and ending.code == PREEMPTED
        failed = _is_failure(ending.code) and max_restarts > 0
        if stop.first is not None or not (preempted or failed):
            return ending
        update = newest_update()
        if failed and failed_at is not None and update <= failed_at:
            text = "%s, at update %d, no further than before (%d): not started again."
            logging.error(text, ending.text, update, failed_at)
            return ending
        if failed and restarts == max_restarts:
            logging.error("%s, at update %d: not started again after %d restart(s).", ending.text, update, restarts)
            return ending
        failed_at = update if failed else None
        restarts += failed
        wait_s = pauses_s(pause_s, starts)[-1]
        which = f"restart {restarts} of {max_restarts}" if failed else "it resumes"
        logging.warning("%s, at update %d: %s in %.3g s.", ending.text, update, which, wait_s)
        patience = Patience(wait_s)
        while patience.left_s():
            time.sleep(min(_POLL_S, wait_s))
            if stop.exit_code is not None:
                return JobEnd(code=stop.exit_code, text=ending.text)


def pauses_s(first_s: float, count: int) -> list[float]:
    """Returns the seconds before each of `count` restarts: doubled every time, up to a minute."""
    return [min(first_s * 2 ** min(restart, 30), _LONGEST_PAUSE_S) for restart in range(count)]


def _is_failure(code: int) -> bool:
    return code in (1, STALLED) or (code > 128 and code != INTERRUPTED)
