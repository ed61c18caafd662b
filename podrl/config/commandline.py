"""The command line: flags, and the config file with its overrides. Imports no JAX, so mistakes show at once."""

import argparse
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import importlib.util
import shutil
import sys
from typing import Any, NoReturn

from absl import flags
import ml_collections

from podrl.config import programs, user_modules
from podrl.config.config import ConfigError, check, did_you_mean
from podrl.config.config_files import find_config
from podrl.config.key_facts import describe_values
from podrl.config.overrides import list_values, override
from podrl.config.paths import absolute_workdir
from podrl.config.ranges import LONGEST_S, check_flag

USAGE = f"""Train an agent:

  {programs.typed_command("train")} --config impala_atari

Any value of the config can be overridden:

  --config.env.id=Pong-v5 --config.agent.optimizer.learning_rate=3e-4 --config.total_env_steps=1e6

With --config, --help lists them.

Flags:
"""
KEYS = """
Values of {path}, each to be overridden by --config.KEY=VALUE:

"""
_WIDEST_HELP = 120  # Columns.
HELP = ("-h", "--h", "-help", "--help")


class Parser(argparse.ArgumentParser):
    """Parser of a tool's own flags; raises `ConfigError` where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        """Raises `ConfigError` with a message of one line."""
        raise ConfigError(f"{message[:1].upper()}{message[1:]}. See --help.")

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Adds an argument as argparse does, except that a `ConfigError` raised by its `type` keeps its message."""
        read = settings.get("type")
        return super().add_argument(*names, **settings | ({} if read is None else {"type": _keep_message(read)}))


def _keep_message(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wraps `read` so that argparse reports its `ConfigError`; of other errors it would print the value alone."""

    @functools.wraps(read)
    def reading(value: str) -> Any:
        try:
            return read(value)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None

    return reading


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandLine:
    """A parsed command line.

    Attributes:
        config: the config file's `get_config()`, with overrides applied.
        workdir: absolute path of the run's folder; None for `runs/<config>-<environment>-<time>`.
        argv: the command as typed, for the manifest.
        profile: whether to trace a few updates.
        accept_changes: whether to resume a run although its config differs.
        init_from: absolute path of another run's folder, with whose weights a new run begins; None for random ones.
        start_anew: whether to delete the rows and checkpoints of the run in the folder and begin at update 0.
        coordinator: 'host:port' where the processes of the job meet; None leaves it to the platform.
        process_count: number of processes in the job; None leaves it to the platform.
        process_index: this process's index; None leaves it to the platform.
        alone: whether this is the only process, whatever the platform says.
        join_timeout_s: seconds that the processes wait for each other at the start.
    """

    config: ml_collections.ConfigDict
    workdir: str | None
    argv: tuple[str, ...]
    profile: bool
    accept_changes: bool
    coordinator: str | None = None
    process_count: int | None = None
    process_index: int | None = None
    start_anew: bool = False
    init_from: str | None = None
    alone: bool = False
    join_timeout_s: float = 300.0


def parse_command_line(
    argv: list[str],
    *,
    more_help: str = "",
    more_flags: Iterable[str] = (),
    agent_defaults: Callable[[str], Mapping[str, Any]] = lambda name: {},
    agent_type: Callable[[str], type | None] = lambda name: None,
) -> CommandLine:
    """Parses `argv`, whose first entry is the program's name.

    Args:
        argv: the command as typed, without the flags that other parsers have already taken.
        more_help: help text for the flags that other parsers take.
        more_flags: names of those flags, to suggest when one is misspelt.
        agent_defaults: returns an agent's defaults by its name, for `--help`; called there only, as it may import JAX.
        agent_type: returns the dataclass of an agent's section by its name; the same.

    Raises:
        ConfigError: on a missing or broken config file, an unknown flag or key, or a value of the wrong type. What the
            agent alone knows is checked by `podrl.assembly.resolve`.
        SystemExit: with code 0 after showing `--help`.
    """
    values = _define_flags()
    overrides = [arg for arg in argv[1:] if _is_override(arg)]
    _parse_flags(values, [arg for arg in argv if arg not in (*overrides, *HELP)], more_flags)
    if any(arg in HELP for arg in argv[1:]):
        sys.stdout.write(USAGE + values.module_help(__name__).partition(":")[2] + "\n" + more_help.rstrip() + "\n")
        if values.config is not None:
            config = override(load_config(values.config), overrides)
            listed, name = list_values(config, agent_defaults), str(config.get("agent", {}).get("name"))
            width = min(shutil.get_terminal_size().columns, _WIDEST_HELP)
            sys.stdout.write(KEYS.format(path=values.config) + describe_values(listed, agent_type(name), width))
        raise SystemExit(0)
    check(values.config is not None, "No config given. Add --config impala_atari, or a file of your own.")
    check(values.init_from != "", "--init_from= is empty. Name the folder of a run, or leave it out.")
    check_flag("join_timeout_s", values.join_timeout_s, 0.001, LONGEST_S)
    config = override(load_config(values.config), overrides)
    if values.smoke:
        config.smoke = True
    return CommandLine(
        config=config,
        workdir=absolute_workdir(values.workdir) if values.workdir else None,
        argv=tuple(argv),
        profile=values.profile,
        accept_changes=values.accept_changes,
        start_anew=values.start_anew,
        init_from=absolute_workdir(values.init_from) if values.init_from else None,
        coordinator=values.coordinator,
        process_count=values.process_count,
        process_index=values.process_index,
        alone=values.alone,
        join_timeout_s=values.join_timeout_s,
    )


def _define_flags() -> flags.FlagValues:
    """Returns podrl's own flags, not yet parsed."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "config", None, "Config: the name of one of podrl's own, such as impala_atari, or a file.", flag_values=values
    )
    flags.DEFINE_string("workdir", None, "Folder of a new run, or of one to resume.", flag_values=values)
    flags.DEFINE_bool("smoke", False, "Shrink the config so that it ends in seconds.", flag_values=values)
    flags.DEFINE_bool("profile", False, "Trace a few updates into WORKDIR/profile.", flag_values=values)
    flags.DEFINE_bool("accept_changes", False, "Resume in WORKDIR although its config differs.", flag_values=values)
    flags.DEFINE_bool(
        "start_anew", False, "Delete the rows and checkpoints of the run in WORKDIR, and begin.", flag_values=values
    )
    flags.DEFINE_string("init_from", None, "Begin with the weights of the run in this folder.", flag_values=values)
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT where the processes of one job meet: an address of process 0's host. SLURM, Open MPI and TPU pods "
        "need no such flags.",
        flag_values=values,
    )
    flags.DEFINE_integer("process_count", None, "Processes in the job.", flag_values=values)
    flags.DEFINE_integer("process_index", None, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_bool("alone", False, "One process, whatever the scheduler's variables say.", flag_values=values)
    flags.DEFINE_float("join_timeout_s", 300.0, "How long they wait for each other at the start.", flag_values=values)
    return values


def load_config(path: str) -> ml_collections.ConfigDict:
    """Runs a config file and returns the result of its `get_config()`.

    Args:
        path: the file, or the name of one of podrl's own configs, such as `impala_atari`.

    Raises:
        ConfigError: if there is no such file, or it fails; the message names the line.
    """
    file = find_config(path)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    check(spec is not None and spec.loader is not None, f"Config file {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    try:
        with user_modules.configs_importable(file):
            spec.loader.exec_module(module)  # type: ignore[union-attr]
            config = module.get_config()
    except SyntaxError as error:
        raise ConfigError(f"Config file {error.filename}, line {error.lineno}: {error.msg}.") from None
    except (Exception, SystemExit) as error:
        whose = user_modules.explain_import(error)
        raise ConfigError(f"Config file {path} failed: {type(error).__name__}: {_one_line(error)}{whose}") from error
    check(isinstance(config, ml_collections.ConfigDict), f"get_config() in {path} must return a ConfigDict.")
    return config


def _parse_flags(values: flags.FlagValues, argv: list[str], more_flags: Iterable[str] = ()) -> None:
    """Parses flags with absl and turns its errors into one line each."""
    try:
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        hint = did_you_mean(error.flagname, [*values, *more_flags])
        raise ConfigError(f"Unknown flag --{error.flagname}{hint} See --help.") from None
    except (flags.Error, TypeError, ValueError) as error:
        raise ConfigError(_one_line(error)) from None
    check(not rest, f"Unexpected argument {rest[0] if rest else ''!r}. Write options as --name=value; see --help.")


def _is_override(argument: str) -> bool:
    return argument.lstrip("-").startswith("config.") and argument.startswith("-")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
