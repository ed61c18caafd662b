"""Code that commands share: how they end, and checks of their flags. Imports no JAX."""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
from pathlib import Path
import select
import signal
import sys
import threading
from typing import TypeVar

import ml_collections

from podrl.config import commandline, programs
from podrl.config.config import ConfigError, check
from podrl.config.user_modules import add_working_folder, give_way
from podrl.runtime.container_limits import explain_limit
from podrl.runtime.process_exit import contained
from podrl.runtime.signal_handlers import KeptHandlers
from podrl.runtime.stop_signals import INTERRUPTED

_Flags = TypeVar("_Flags")


def run_tool(
    name: str,
    run: Callable[[], int | None],
    *,
    failures: tuple[type[Exception], ...] = (),
    farewell: str = "",
) -> int:
    """Runs a command to its end and reports a failure in one line.

    Args:
        name: the tool's name, with which that line begins.
        run: does everything, the parsing of the command line included; may return an exit code.
        failures: errors that are also reported in one line, although they are no mistake of the user's.
        farewell: message after Ctrl-C; none by default.

    Returns:
        The exit code: what `run` returned, or 0; 2 after a mistake in the command or config, also if another error was
        raised from it; 1 after one of `failures`, or at a limit of threads; 130 after Ctrl-C. 0 too if the reader of
        its output, such as `head`, has read enough.
    """
    give_way()
    add_working_folder()
    try:
        with _printed_to_the_end():
            return run() or 0
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 0
    except KeyboardInterrupt:
        if limit := explain_limit():
            sys.stderr.write(f"{name}: error: {limit}\n")
            return 1
        if farewell:
            sys.stderr.write(f"{name}: {farewell}\n")
        return INTERRUPTED
    except Exception as error:
        mistake = next((each for each in (error, error.__cause__) if isinstance(each, ConfigError)), None)
        limit = explain_limit(error) or (explain_limit() if mistake is None else None)
        if mistake is None and limit is None and not isinstance(error, failures):
            raise
        sys.stderr.write(f"{name}: error: {mistake or limit or error}\n")
        return 1 if mistake is None else 2


@contextlib.contextmanager
def _printed_to_the_end() -> Iterator[None]:
    """Writes at the end what is still buffered, so that an error of that comes here and not at the process's exit."""
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def _reader_is_gone() -> bool:
    """Returns whether stdout has no reader any more; what is printed from then on is lost in silence."""
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def contain(run: Callable[[_Flags], None], flags: _Flags) -> None:
    """Runs code that calls environments, and keeps them from ending the process and from taking Ctrl-C.

    Raises:
        RuntimeError: if an environment tries to end the process.
    """
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(KeptHandlers({signal.SIGINT: signal.getsignal(signal.SIGINT)}))
        stack.enter_context(contained(by_ctrl_c=True))
        run(flags)


def refuse_module(module: str, instead: str) -> int:
    """Says what to run instead of `python -m podrl.<module>`, which is a part of the library; returns exit code 2.

    Args:
        module: the module's dotted name.
        instead: a command of podrl's, and its arguments.
    """
    command, _, arguments = instead.partition(" ")
    call = f"{programs.typed_command(command)} {arguments}"
    sys.stderr.write(f"podrl: error: python -m {module} is no command. Run: {call}\n")
    return 2


def load_overridden(path: str, overrides: Sequence[str], *, smoke: bool = False) -> ml_collections.ConfigDict:
    """Returns the config of a file with overrides such as `--config.env.id=Pong-v5`, shrunk if `smoke` is set.

    Raises:
        ConfigError: on a missing or broken file, an unknown key, or a value that its type does not take.
    """
    config = commandline.override(commandline.load_config(path), list(overrides))
    config.smoke = config.smoke or smoke
    return config


def check_known(arguments: Sequence[str], *prefixes: str) -> None:
    """Raises `ConfigError` unless all arguments that no flag took begin with one of the prefixes."""
    for argument in arguments:
        check(argument.startswith(prefixes), f"Unknown argument {argument!r}. See --help.")


def parse_with_overrides(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses a command line, and returns its flags and the overrides of a config, `--config.KEY=VALUE`.

    Args:
        parser: knows the flags.
        argv: the command line, with the program's name in front.

    Raises:
        ConfigError: on an unknown argument, or an override without a value.
    """
    flags, rest = parser.parse_known_args(argv[1:])
    check_known(rest, "--config.")
    for argument in rest:
        check("=" in argument, f"{argument} needs a value: {argument}=VALUE.")
    return flags, rest


def split_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Returns overrides as texts by keys."""
    return dict(argument.removeprefix("--config.").split("=", 1) for argument in arguments)


def check_writable(flag: str, path: Path | None) -> None:
    """Raises `ConfigError` unless a file can be written at `path`; None passes."""
    if path is None:
        return
    check(path.parent.is_dir(), f"{flag}={path}: there is no such folder.")
    check(not path.is_dir(), f"{flag}={path} is a folder. Name a file in it.")
    target = path if path.exists() else path.parent
    check(os.access(target, os.W_OK), f"{flag}={path} cannot be written: no permission.")


@contextlib.contextmanager
def reading_file(flag: str, path: Path, command: str) -> Iterator[None]:
    """Raises `ConfigError` unless the file of a flag is there and is what a command writes; the code within reads it.

    Args:
        flag: the flag's name.
        path: the file.
        command: the command, up to the file's name.
    """
    check(path.is_file(), f"{flag}={path}: there is no such file. Make one with {command}={path}.")
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{flag}={path}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{flag}={path} is not what {command} writes ({found}). Make it anew.") from None


def parse_numbers(flag: str, text: str | None, *, least: int = 1, distinct: bool = False) -> tuple[int, ...]:
    """Returns whole numbers written as `1,2,4`; no numbers for None.

    Raises:
        ConfigError: if the text is anything else, a number is too small, or a number that must be distinct repeats.
    """
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    check(
        all(part.isdecimal() and part.isascii() and int(part) >= least for part in parts)
        and (not distinct or len(set(parts)) == len(parts)),
        f"{flag}={text} must be {'different ' if distinct else ''}whole numbers of at least {least}, such as 1,2,4.",
    )
    return tuple(map(int, parts))
