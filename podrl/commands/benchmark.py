"""Measures how fast a config runs here, stage by stage and end to end. See `--help`."""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import ml_collections

from podrl.config import programs
from podrl.config.commandline import Parser
from podrl.config.config import ConfigError, check
from podrl.config.paths import absolute_path
from podrl.config.ranges import LONGEST_S, check_flag
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.machine import jax_plugins, keep_freed_memory, skip_absent_tpu
from podrl.runtime.tables import make_console
from podrl.runtime.tool import check_known, check_writable, contain, load_overridden, run_tool
from podrl.runtime.xla_flags import require_determinism, suit_xla_to_cpu

USAGE = f"""%(prog)s --config impala_atari [--config.x.y=...] [--repeats 3] [--seconds 5] [--json FILE]
       %(prog)s --config impala_atari --memory [--json FILE]
       %(prog)s --config impala_atari --compare impala_atari --other.topology.micro_batches=1

Measures environments, acting, learning and the whole run of a config, in env steps (the agent's decisions) and frames
(the emulator's) per second, and in core-seconds per step. Or, with --compare, the whole runs of two configs in turns:
--config.x.y=... changes both, --other.x.y=... the compared one. With --memory it only compiles, and says what an update
takes on each learner device. Nothing is trained or saved. {programs.program_of("study")} measures jobs of several
processes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What the user asked for.

    Attributes:
        config: the config file's, with overrides applied.
        other: the config to compare with, with its overrides applied; None for none.
        other_file: where it came from.
        repeats: Repeats of every stage, or of the pair.
        seconds: How long each stage or run takes in each repeat.
        memory: only compile, and report the memory of an update.
        json: where the report goes; None for nowhere.
    """

    config: ml_collections.ConfigDict
    other: ml_collections.ConfigDict | None
    other_file: str | None
    repeats: int
    seconds: float
    memory: bool
    json: Path | None


def parse(argv: list[str]) -> Command:
    """Parses `argv`, whose first entry is the program's name.

    Raises:
        ConfigError: on a missing or broken config file, an unknown flag or key, or a value out of range.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="config, by name or file")
    parser.add_argument("--smoke", action="store_true", help="shrink the config as in training")
    parser.add_argument("--repeats", type=int, default=3, help="of every stage, interleaved (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each stage in each repeat, about (5)")
    parser.add_argument("--json", type=absolute_path, help="also write the whole report there")
    parser.add_argument("--compare", metavar="CONFIG", help="measure this config's run and that one's, in turns")
    parser.add_argument("--memory", action="store_true", help="only compile; report what an update takes on a device")
    flags, rest = parser.parse_known_args(argv[1:])
    check_known(rest, "--config.", "--other.")
    shared = [argument for argument in rest if argument.startswith("--config.")]
    others = [argument for argument in rest if argument.startswith("--other.")]
    check_flag("repeats", flags.repeats, 1, 10**6)
    check_flag("seconds", flags.seconds, 0.001, LONGEST_S)
    check(not (flags.memory and flags.compare), "--memory is of one config. Leave out --compare, and run it twice.")
    check_writable("--json", flags.json)
    for argument in others:
        check(flags.compare is not None, f"{argument} changes the compared config. Add --compare CONFIG.")
        check("=" in argument, f"{argument} needs a value: {argument}=VALUE.")
    return Command(
        config=load_overridden(flags.config, shared, smoke=flags.smoke),
        other=None if flags.compare is None else _load_other(flags.compare, shared, others, smoke=flags.smoke),
        other_file=flags.compare,
        repeats=flags.repeats,
        seconds=flags.seconds,
        memory=flags.memory,
        json=flags.json,
    )


def _load_other(path: str, shared: list[str], others: list[str], *, smoke: bool) -> ml_collections.ConfigDict:
    overrides = [f"--config.{argument.removeprefix('--other.')}" for argument in others]
    with _blaming(path):
        return load_overridden(path, [*shared, *overrides], smoke=smoke)


@contextlib.contextmanager
def _blaming(path: str | None) -> Iterator[None]:
    """Says of a mistake that it is in the compared config."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"--compare {path}: {error}") from None


def run(command: Command) -> None:
    """Measures, prints and writes."""
    check_jax_settings(os.environ, jax_plugins())
    skip_absent_tpu(os.environ, jax_plugins())
    from podrl.assembly import resolve
    from podrl.performance.benchmark import (  # JAX: a mistake before need not wait for it.
        instruments,
        measure,
        report,
    )
    from podrl.telemetry.log_lines import configure_logging

    configure_logging(process_index=0)
    keep_freed_memory()
    suit_xla_to_cpu(os.environ, jax_plugins())
    config = resolve(command.config)
    config.check_makes_experience(programs.program_of("benchmark"))
    with _blaming(command.other_file):
        other = resolve(command.other) if command.other is not None else None
        if other is not None:
            other.check_makes_experience(programs.program_of("benchmark"))
    if "exact" in (config.determinism, other and other.determinism):  # XLA's flags are the process's: both get them.
        require_determinism(os.environ, jax_plugins())
    rounds: dict[str, Any] = {"repeats": command.repeats, "seconds": command.seconds}
    console = make_console()
    if command.memory:
        measured = measure.measure_memory(config)
        report.show_memory(console, measured)
    elif other is None:
        measured = measure.measure_run(config, import_s=instruments.process_age_s(), **rounds)
        report.show_benchmark(console, measured)
    else:
        measured = measure.compare_configs(config, other, **rounds)
        report.show_config_comparison(console, measured)
    if command.json is not None:
        command.json.write_text(json.dumps(measured, indent=2) + "\n")


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 0 done, 2 a mistake in the command or config."""
    return run_tool("benchmark", lambda: contain(run, parse(argv)))
