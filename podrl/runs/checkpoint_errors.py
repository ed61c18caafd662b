"""Why a checkpoint cannot be used: it is damaged, or it cannot be read at the moment.

The two must not be confused. A damaged checkpoint is passed over for an older one. One that a disk, a network or a
permission keeps from being read may be whole: then the run stops with that reason, and nothing is changed.
"""

from collections.abc import Iterator
import contextlib
import errno
import os
import re

import jax

from podrl.config.config import ConfigError

# What the system says of a path when something is missing from a checkpoint, or is of another kind. All else that it
# says is about the system: no permission, no descriptors, a stale handle, an error of the device.
_OF_THE_CHECKPOINT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
_OF_THE_STORE = re.compile(
    "(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|ABORTED|CANCELLED)(: | )"
)
_CLIENTS = ("aiohttp", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs", "urllib3")  # Of object stores.


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read: one clear line, with the library's own error as its cause."""


class DamagedError(CheckpointError):
    """What was read is not what was saved."""


class DeletedError(CheckpointError):
    """Its run deleted it while it was read."""


class UnreadableError(CheckpointError):
    """The system did not let it be read; it may be whole."""


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Says of whatever a library raises in the block whether it means damage.

    Args:
        name: of what is read, as in `Checkpoint 8 in runs/a/checkpoints`.

    Raises:
        DamagedError: if what is there cannot be what was saved.
        UnreadableError: if the system refused.
        ConfigError: as it was raised; as is JaxRuntimeError, which is about a device.
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


def find_system_reason(error: BaseException) -> str:
    """What keeps a file from being read, in the system's words; empty if the error is about what the file holds."""
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
    """Why, in one line: the system's words where tensorstore gives the number of its error, such as 28 for no room."""
    if (number := _tensorstore_errno(error)) is not None:
        return os.strerror(number)
    first = str(error).partition("\n")[0].partition(" See full TensorStore details")[0]
    return first.rstrip(".") or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it was raised from, or while handling."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _tensorstore_errno(error: BaseException) -> int | None:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else None
