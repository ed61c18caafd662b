"""The command line: flags, and the config file with its overrides. Imports no JAX, so that mistakes show at once."""

import argparse
import ast
from collections.abc import Iterable
import dataclasses
import importlib.util
import math
from pathlib import Path
import sys
from typing import NoReturn

from absl import flags
import ml_collections
from ml_collections import config_flags

from podrl.config import ConfigError, check, did_you_mean
from podrl.paths import absolute_workdir

USAGE = """Train an agent:

  python tools/tpu_launch.py --config configs/impala_atari.py

Any value of the config can be overridden:

  --config.env.id=Pong-v5 --config.agent.learning_rate=3e-4 --config.total_env_steps=1e6

With --config, --help lists them.

Flags:
"""
KEYS = """
Values of {path}, each to be overridden by --config.KEY=VALUE; podrl/config.py and podrl/agents/ say what they mean:

"""
HELP = ("-h", "--h", "-help", "--help")


class Parser(argparse.ArgumentParser):
    """Of a tool's own flags; complains with a `ConfigError`."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError, one line."""
        raise ConfigError(f"{message[:1].upper()}{message[1:]}. See --help.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What the user asked for.

    Attributes:
        config: the config file's `get_config()`, with overrides applied.
        workdir: where the run goes, from the root; None for `runs/<config>-<time>`.
        argv: the command as typed, for the manifest.
        profile: whether to trace a few updates.
        accept_changes: whether to go on with a run of another config.
        start_anew: whether to delete what the run in the folder has, and to begin at update 0.
        coordinator: 'host:port' where the processes of the job meet; None leaves it to the platform.
        process_count: of the job; None leaves it to the platform.
        process_index: of this process; None leaves it to the platform.
        join_timeout_s: how long the processes wait for each other at the start.
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
    join_timeout_s: float = 300.0


def parse(argv: list[str], *, more_help: str = "", more_flags: Iterable[str] = ()) -> CommandLine:
    """Parses `argv`, whose first entry is the program's name.

    Args:
        argv: the command as typed, without what others have taken off it.
        more_help: on the flags that others take.
        more_flags: their names, to suggest when one is misspelt.

    Raises:
        ConfigError: on a missing or broken config file, an unknown flag or key, or a value of the wrong type.
        SystemExit: with code 0 after showing `--help`.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "Config file, such as configs/impala_atari.py.", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of a new run, or of one to go on with.",
        flag_values=values,
    )
    flags.DEFINE_bool("smoke", False, "Shrink the config so that it ends in seconds.", flag_values=values)
    flags.DEFINE_bool("profile", False, "Trace a few updates into WORKDIR/profile.", flag_values=values)
    flags.DEFINE_bool("accept_changes", False, "Go on in WORKDIR though its config differs.", flag_values=values)
    flags.DEFINE_bool(
        "start_anew", False, "Delete the rows and checkpoints of the run in WORKDIR, and begin.", flag_values=values
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT where the processes of one job meet: an address of process 0's host. SLURM, Open MPI and TPU pods "
        "need no such flags.",
        flag_values=values,
    )
    flags.DEFINE_integer("process_count", None, "Processes in the job.", flag_values=values)
    flags.DEFINE_integer("process_index", None, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_float("join_timeout_s", 300.0, "How long they wait for each other at the start.", flag_values=values)
    overrides = [arg for arg in argv[1:] if _is_override(arg)]
    _parse_flags(values, [arg for arg in argv if arg not in (*overrides, *HELP)], more_flags)
    if any(arg in HELP for arg in argv[1:]):
        sys.stdout.write(USAGE + values.module_help(__name__).partition(":")[2] + "\n" + more_help.rstrip() + "\n")
        if values.config is not None:
            config = override(load_config(values.config), overrides)
            sys.stdout.write(KEYS.format(path=values.config) + _listing(config))
        raise SystemExit(0)
    check(values.config is not None, "No config given. Add --config configs/impala_atari.py, or another file.")
    check(values.join_timeout_s > 0, f"--join_timeout_s={values.join_timeout_s:g} must be above 0.")
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
        coordinator=values.coordinator,
        process_count=values.process_count,
        process_index=values.process_index,
        join_timeout_s=values.join_timeout_s,
    )


def load_config(path: str) -> ml_collections.ConfigDict:
    """What `get_config()` in the file at `path` returns.

    Raises:
        ConfigError: if there is no such file, or it fails; names the line.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        nearby = _config_files(file.parent)
        listing = f" In that folder: {', '.join(nearby)}." if nearby else ""
        if file.is_dir():
            inside = ", ".join(_config_files(file))
            raise ConfigError(f"--config={path} is a folder. Give a file{f' in it: {inside}' if inside else ''}.")
        raise ConfigError(f"Config file {path} does not exist{did_you_mean(path, nearby)}{listing}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    check(spec is not None and spec.loader is not None, f"Config file {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        config = module.get_config()
    except SyntaxError as error:
        raise ConfigError(f"Config file {error.filename}, line {error.lineno}: {error.msg}.") from None
    except Exception as error:
        raise ConfigError(f"Config file {path} failed: {type(error).__name__}: {_one_line(error)}") from error
    check(isinstance(config, ml_collections.ConfigDict), f"get_config() in {path} must return a ConfigDict.")
    return config


def _config_files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.py") if path.stem not in ("common", "__init__"))


def override(config: ml_collections.ConfigDict, arguments: list[str]) -> ml_collections.ConfigDict:
    """Applies arguments such as `--config.env.id=Pong-v5`; returns a new ConfigDict.

    Raises:
        ConfigError: on a key that the config does not have, or a value that its type does not take.
    """
    config = ml_collections.ConfigDict(config)
    for argument in arguments:
        _admit_option(config, argument)
        _check_key(config, argument)
    arguments = [_checked_number(config, argument) for argument in arguments]
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["", *arguments])
    _parse_flags(values, ["", *arguments])
    return values["config"].value


def _admit_option(config: ml_collections.ConfigDict, argument: str) -> None:
    """Makes room for an environment option that the config does not list: the environment's source knows its own."""
    key, _, value = argument.lstrip("-").removeprefix("config.").partition("=")
    section, _, name = key.rpartition(".")
    if section == "env.options" and name not in config.get("env", {}).get("options", {name: None}):
        try:
            config.env.options[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            config.env.options[name] = value


def _check_key(config: ml_collections.ConfigDict, argument: str) -> None:
    """Raises ConfigError unless the key exists; suggests the nearest, or the one of that name in another section."""
    name, has_value, _ = argument.lstrip("-").partition("=")
    key = name.removeprefix("config.")
    known = _keys(config)
    same_name = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = f"; did you mean {same_name[0]!r}?" if same_name else did_you_mean(key, known)
    check(key in known, f"Unknown config key {key!r}{hint}")
    check(bool(has_value), f"Config key {key!r} needs a value: --config.{key}=VALUE.")
    section = isinstance(_get(config, key), ml_collections.ConfigDict)
    check(not section, f"Config key {key!r} is a section; set a key in it: --config.{key}.KEY=VALUE.")


def _checked_number(config: ml_collections.ConfigDict, argument: str) -> str:
    """The argument, with a whole number for a key that takes one: 1e6 is one.

    Raises:
        ConfigError: if the key takes a number and the value is none.
    """
    name, _, value = argument.partition("=")
    key = name.lstrip("-").removeprefix("config.")
    expected = type(_get(config, key))
    if expected not in (int, float):
        return argument
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    check(math.isfinite(number), f"{key}={value!r} is not a number.")
    if expected is float:
        return argument
    check(number.is_integer(), f"{key}={value!r} is not a whole number.")
    return f"{name}={int(value) if _is_digits(value) else int(number)}"


def _is_digits(value: str) -> bool:
    """Whether Python reads it as a whole number, of any size."""
    return value.strip().lstrip("+-").replace("_", "").isdigit()


def _listing(config: ml_collections.ConfigDict) -> str:
    """A line for each value of a config."""
    keys = [key for key in _keys(config) if not isinstance(_get(config, key), ml_collections.ConfigDict)]
    return "".join(f"  {key} = {_get(config, key)!r}\n" for key in keys)


def _keys(config: ml_collections.ConfigDict) -> list[str]:
    """All dotted keys, sections included."""
    keys = []
    for name, value in config.items():
        keys.append(name)
        if isinstance(value, ml_collections.ConfigDict):
            keys += [f"{name}.{inner}" for inner in _keys(value)]
    return keys


def _get(config: ml_collections.ConfigDict, key: str) -> object:
    for part in key.split("."):
        config = config[part]
    return config


def _parse_flags(values: flags.FlagValues, argv: list[str], more_flags: Iterable[str] = ()) -> None:
    """Lets absl parse, and turns its complaints into one line each."""
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
