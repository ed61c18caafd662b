"""EnvPool's refusals as one clear line each."""

from collections.abc import Iterator
import contextlib
import threading
import warnings

from podrl.config.config import ConfigError, EnvConfig

# How to install system libraries that EnvPool may miss.
_REMEDIES = {"Qt 5": " On Debian and Ubuntu: apt-get install libqt5gui5."}

# `warnings.catch_warnings` changes global state, and actor threads make pools at the same time.
_warnings_lock = threading.Lock()


@contextlib.contextmanager
def refusals_as_config_errors(config: EnvConfig) -> Iterator[None]:
    """Turns EnvPool's errors in making an environment into `ConfigError`, and silences Gymnasium's warnings.

    EnvPool raises `ImportError`, with a hint, for a missing system library, and the others for options that it refuses.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        try:
            yield
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            options = f" with env.options={dict(config.options)}" if config.options else ""
            reason = str(error).partition("\n")[0]
            remedy = next((what for library, what in _REMEDIES.items() if library in reason), "")
            raise ConfigError(f"EnvPool cannot make env.id={config.id!r}{options}: {reason}{remedy}") from error
