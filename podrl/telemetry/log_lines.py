"""How log lines look, and which lines of libraries are left out."""

import functools
import importlib.util
import logging
import os
import sys
import warnings

from absl import flags
from absl import logging as absl_logging

# Libraries whose log lines below ERROR do not concern podrl's users; some of them log as absl does.
QUIET_LIBRARIES = ("orbax", "etils", "flax", "tensorstore", "tensorboardX")
# Modules that log an exception, from up to four threads, and raise it as well: the caller reports it in one line.
RAISING_MODULES = (
    "orbax/checkpoint/checkpoint_manager.py",
    "orbax/checkpoint/_src/checkpointers/async_checkpointer.py",
    "orbax/checkpoint/_src/futures/future.py",
)


def configure_logging(process_index: int) -> None:
    """Sets up short log lines, `[p0 12:00:01] text`, and silences libraries.

    Libraries log from WARNING up, those in `QUIET_LIBRARIES` from ERROR up, except the exceptions of `RAISING_MODULES`.
    Python warnings outside of podrl, and all warnings of resources left open, are hidden unless the user asked for them
    (`python -W`).
    """
    if not flags.FLAGS.is_parsed():  # podrl has a flag parser of its own; absl would complain that it parsed no flags.
        flags.FLAGS.mark_as_parsed()
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.INFO)
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(_Formatter(f"[p{process_index} %(asctime)s] %(message)s", datefmt="%H:%M:%S"))
    if _is_wanted not in handler.filters:
        handler.addFilter(_is_wanted)
    for library in ("jax", "tensorflow", "h5py", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module=r"podrl(\.|$)")
        # Resources that an interrupt left open are closed at exit; a warning would not help the user.
        warnings.filterwarnings("ignore", category=ResourceWarning)


class _Formatter(logging.Formatter):
    """Names every level except INFO."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Returns the prefix and the message."""
        if record.levelno != logging.INFO:
            record.message = f"{record.levelname}: {record.message}"
        return super().formatMessage(record)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Drops what quiet libraries log below ERROR, and exceptions that are raised too."""
    if record.levelno >= logging.ERROR:
        return not (record.exc_info and record.pathname.startswith(_installed(RAISING_MODULES)))
    library = record.name.partition(".")[0]
    return not (library in QUIET_LIBRARIES or record.pathname.startswith(_installed(QUIET_LIBRARIES)))


@functools.cache
def _installed(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Returns paths of libraries' folders and files: through absl all log alike, and only their file identifies them.

    A name in a path alone is not enough: podrl may be in a user's folder of that name.
    """
    found = []
    for path in paths:
        library, _, rest = path.partition("/")
        spec = importlib.util.find_spec(library)
        for folder in spec.submodule_search_locations or () if spec else ():
            found.append(os.path.join(folder, rest))
    return tuple(found)
