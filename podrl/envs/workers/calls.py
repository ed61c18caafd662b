"""Calls of a user's environment: errors name it, and its results are checked against Gymnasium's interface.

A crash in C leaves only the stacks that `faulthandler` prints: there, too, each call has its environment's name.
"""

from collections.abc import Callable
import functools
import numbers
import signal
import threading
import types
from typing import Any

from absl import logging
import gymnasium
import numpy as np

from podrl.config.config import ConfigError
from podrl.runtime.process_exit import describe_error

Caller = Callable[..., Any]  # (what, function, *arguments) -> the function's result.

_NO_NUMBERS = tuple("cUSOMm")  # Kinds of NumPy's types.
# Words in the errors of code that works in a process's main thread only.
_MAIN_THREAD_ONLY = ("event loop", "main thread", "MainThread")


class EnvFailure(RuntimeError):
    """An environment failed; the message names it, and the cause is its error."""


class WrongReturn(ValueError):
    """An environment's result violates Gymnasium's interface."""


def named_caller(name: str) -> Caller:
    """Returns a function that calls functions for an environment of this name.

    Errors become `EnvFailure`, also `SystemExit` and its like, and `KeyboardInterrupt` where it cannot be a Ctrl-C; a
    `ConfigError` stays one.
    """
    code = _call.__code__.replace(co_name=name, co_qualname=name)
    return functools.partial(types.FunctionType(code, globals(), name), name)


def _call(name: str, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ConfigError as error:
        if hint := _hint(error):
            raise ConfigError(f"{error}{hint}") from error
        raise
    except WrongReturn as error:
        raise EnvFailure(f"{name}: {error}") from error
    except BaseException as error:  # Includes those that would end the thread or the process without a message.
        if isinstance(error, KeyboardInterrupt) and _may_be_ctrl_c():
            raise
        raise EnvFailure(f"{name} failed in {what}: {describe_error(error)}{_hint(error)}") from error


def _may_be_ctrl_c() -> bool:
    """Returns whether a `KeyboardInterrupt` here may be the user's; a run catches the signal instead."""
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _hint(error: BaseException) -> str:
    """Returns a hint for errors of code that works in a process's main thread only, such as signals and event loops."""
    elsewhere = threading.current_thread() is not threading.main_thread()
    if elsewhere and any(words in str(error) for words in _MAIN_THREAD_ONLY):
        return (
            " It was called in a thread; set env.workers=1 or more, which gives environments processes whose main "
            "thread they have."
        )
    return ""


def call_close(env: gymnasium.Env, name: str) -> None:
    """Closes an environment that is no longer needed; an error in it is logged, as nothing depends on it."""
    try:
        env.close()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever it is, the run continues)
        logging.warning("%s failed in close: %s. The run continues.", name, describe_error(error))


def call_reset(env: gymnasium.Env, **options: Any) -> Any:
    """Returns the first observation of an episode.

    Raises:
        WrongReturn: if `reset` returns anything else.
    """
    opened: Any = env.reset(**options)
    if not (isinstance(opened, tuple) and len(opened) == 2 and isinstance(opened[1], dict)):
        raise WrongReturn(
            f"reset() must return (observation, info), info a dictionary; found {describe_value(opened)}."
        )
    return opened[0]


def call_step(env: gymnasium.Env, action: Any) -> tuple[Any, float, bool, bool, Any]:
    """Returns observation, reward, terminated, truncated and info of a step; info is not checked.

    Raises:
        WrongReturn: if `step` returns anything else.
    """
    stepped: Any = env.step(action)
    if not (isinstance(stepped, tuple) and len(stepped) == 5):
        raise WrongReturn(
            f"step() must return (observation, reward, terminated, truncated, info); found {describe_value(stepped)}."
        )
    observation, reward, terminated, truncated, info = stepped
    number = number_of(reward)
    if number is None:
        raise WrongReturn(f"step() must return a number as reward; found {describe_value(reward)}.")
    ends = [flag if type(flag) is bool else number_of(flag) for flag in (terminated, truncated)]
    if not all(end in (0, 1) for end in ends):
        raise WrongReturn(
            f"step() must return bools as terminated and truncated; found {terminated!r} and {truncated!r}."
        )
    return observation, number, bool(ends[0]), bool(ends[1]), info


def number_of(value: Any) -> float | None:
    """Returns a number of any library, also an array of shape (), as a float; None for anything else."""
    if type(value) is float:
        return value
    if not isinstance(value, numbers.Real | np.bool_):
        kind = getattr(getattr(value, "dtype", None), "kind", "")  # Only types of NumPy and JAX have one.
        if getattr(value, "shape", None) != () or kind in _NO_NUMBERS:
            return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # torch raises the last one for a complex number.
        return None


def describe_value(value: Any) -> str:
    """Returns a value's type, with its shape or number of entries."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"type {type(value).__name__}"


def misfit(space: gymnasium.Space, observation: Any, error: Exception) -> str:
    """Says that an observation does not fit into its space, and why."""
    return (
        f"returned an observation of {describe_value(observation)}, which does not fit into {space}: "
        f"{' '.join(str(error).split())}."
    )
