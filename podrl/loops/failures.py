"""What is said when a run fails, and its exit code."""

from absl import logging

from podrl.config.config import MISTAKE
from podrl.runs.folder_guard import FolderLostError
from podrl.runtime.container_limits import explain_limit
from podrl.runtime.devices import is_of_the_runtime
from podrl.runtime.interruption import leave
from podrl.runtime.job.job import Job
from podrl.runtime.watchdog import STALLED


def tell_of_failure(error: Exception, job: Job) -> int:
    """Logs why the run failed, tells the other processes, and returns the exit code.

    Where the error only follows from the loss of another process, that is logged, and this process ends here.
    """
    lost = job.explain_loss() if is_of_the_runtime(error) else None
    if lost:
        logging.error("%s", lost)
        leave(job.exit_code)
    code = _failure_code(error)
    limit = explain_limit(error)
    said = limit or str(error) or type(error).__name__
    logging.error("The run failed: %s", said)
    if limit is None and code != MISTAKE:
        logging.error("Details:", exc_info=error.__cause__ or error)
    job.fail(said, code)
    return code


def _failure_code(error: Exception) -> int:
    if isinstance(error, FolderLostError):  # A restart would begin anew at the old place.
        return MISTAKE
    return STALLED if isinstance(error.__cause__ or error, TimeoutError) else 1
