"""Why a checkpoint cannot be used: it is damaged, or it cannot be read at the moment.

The two must not be confused. A damaged checkpoint is skipped for an older one. A checkpoint that a disk, a network or a
permission keeps from being read may be intact: then the run stops with that reason, and nothing is changed.
"""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import os
import re

from etils import epath
import jax

from podrl.config.config import ConfigError

# The system's errors for a part of a checkpoint that is missing, or of another kind. All other errors are about the
# system: no permission, no descriptors, a stale handle, an error of the device.
_OF_THE_CHECKPOINT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
_OF_THE_STORE = re.compile(
    "(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|ABORTED|CANCELLED)(: | )"
)
_CLIENTS = ("aiohttp", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs", "urllib3")  # Object stores.


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read: one clear line, with the library's own error as its cause."""


class DamagedError(CheckpointError):
    """The data that were read are not those that were saved."""


class DeletedError(CheckpointError):
    """Its run deleted the checkpoint while it was read."""


class UnreadableError(CheckpointError):
    """The system did not let the checkpoint be read; it may be intact."""


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns errors that a library raises in the block into damage, or into a failure to read.

    Args:
        name: name of what is read, such as `Checkpoint 8 in runs/a/checkpoints`.

    Raises:
        DamagedError: if the data cannot be those that were saved.
        UnreadableError: if the system refused to read them.
        ConfigError: unchanged; so is JaxRuntimeError, which is about a device.
    """
    try:
        yield
    except (ConfigError, CheckpointError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if reason := find_system_reason(error):
            raise UnreadableError(
                f"{name} cannot be read: {reason}. Nothing was changed: fix this and repeat the command to resume."
            ) from error
        raise DamagedError(f"{name} is damaged: {explain_damage(error)}.") from error


def failed_save(step: int | None, path: epath.Path, error: Exception, whole: Sequence[int]) -> CheckpointError:
    """Makes the error for a save that failed.

    Args:
        step: step of the checkpoint.
        path: where it was to lie.
        error: the library's error.
        whole: steps of the complete checkpoints, oldest first.
    """
    left = f"It does not count; the newest whole one is of update {whole[-1]}." if whole else "There is no other."
    return CheckpointError(
        f"The checkpoint of update {step} could not be saved as {path}: {explain_damage(error)}. {left}"
    )


def find_system_reason(error: BaseException) -> str:
    """Returns the system's reason why a file cannot be read; empty if the error is about the file's content."""
    for each in _chain(error):
        number = each.errno if isinstance(each, OSError) else _tensorstore_errno(each)
        if number is not None and number not in _OF_THE_CHECKPOINT:
            return os.strerror(number)
        if isinstance(each, MemoryError):
            return "not enough memory"
        of_a_client = type(each).__module__.partition(".")[0] in _CLIENTS
        if of_a_client or isinstance(each, TimeoutError) or _OF_THE_STORE.match(str(each)):
            return explain_damage(each)
    return ""


def explain_damage(error: BaseException) -> str:
    """Returns the reason in one line, in the system's words if tensorstore gives an error number (28: no space)."""
    if (number := _tensorstore_errno(error)) is not None:
        return os.strerror(number)
    first = str(error).partition("\n")[0].partition(" See full TensorStore details")[0]
    return first.rstrip(".") or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and those that it was raised from, or while handling."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _tensorstore_errno(error: BaseException) -> int | None:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else None
