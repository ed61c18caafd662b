"""Measures how fast a config runs here, stage by stage and end to end. See `--help`."""

import argparse
from collections.abc import Iterator, Mapping
import dataclasses
import json
from pathlib import Path
import sys
from typing import Any, NoReturn

# Configs import `configs.common`, wherever the command is run from.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import logging
import ml_collections
from rich import box
from rich.console import Console
from rich.table import Table

from podrl import commandline
from podrl.config import ConfigError, check

USAGE = """%(prog)s --config configs/impala_atari.py [--config.x.y=...] [--repeats 3] [--seconds 5] [--json FILE]

Measures environments, acting, learning and the whole run of a config, in env steps (the agent's decisions) and frames
(the emulator's) per second, and in core-seconds per step. Nothing is trained or saved."""
INTERRUPTED = 130
_PLAIN_WIDTH = 160  # columns; wide enough that no row of the table breaks
STAGES = {
    "env": "environments",
    "act": "acting",
    "transfer": "transfer",
    "learn": "learning",
    "end_to_end": "end to end",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What the user asked for.

    Attributes:
        config: the config file's, with overrides applied.
        repeats: of every stage.
        seconds: of each stage in each repeat.
        json: where the report goes; None for nowhere.
    """

    config: ml_collections.ConfigDict
    repeats: int
    seconds: float
    json: Path | None


class _Parser(argparse.ArgumentParser):
    """Complains with a `ConfigError`."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]}. See --help.")


def parse(argv: list[str]) -> Command:
    """Parses `argv`, whose first entry is the program's name.

    Raises:
        ConfigError: on a missing or broken config file, an unknown flag or key, or a value out of range.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = _Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--smoke", action="store_true", help="shrink the config as tools/tpu_launch.py --smoke does")
    parser.add_argument("--repeats", type=int, default=3, help="of every stage, interleaved (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each stage in each repeat, about (5)")
    parser.add_argument("--json", type=Path, help="also write the whole report there")
    flags, rest = parser.parse_known_args(argv[1:])
    for argument in rest:
        check(argument.startswith("--config."), f"Unknown argument {argument!r}. See --help.")
    check(flags.repeats >= 1, f"--repeats={flags.repeats} must be at least 1.")
    check(flags.seconds > 0, f"--seconds={flags.seconds} must be positive.")
    check(flags.json is None or flags.json.parent.is_dir(), f"--json={flags.json}: there is no such folder.")
    config = commandline.override(commandline.load_config(flags.config), rest)
    config.smoke = config.smoke or flags.smoke
    return Command(config=config, repeats=flags.repeats, seconds=flags.seconds, json=flags.json)


def show(console: Console, report: Mapping[str, Any]) -> None:
    """Prints a report for people."""
    config, layout = report["config"], report["layout"]
    console.print(f"{config['name']} on {config['env']['id']}, {report['topology']}", style="bold", soft_wrap=True)
    console.print(
        f"environments: {config['actors']['num_envs']}; actor threads: {layout['num_actors']}; pools per thread: "
        f"{layout['pools_per_actor']}; environments per pool: {layout['envs_per_pool']}; C++ threads per pool: "
        f"{layout['env_threads']}; unroll length: {config['actors']['unroll_length']} env steps; frames per env step: "
        f"{report['frames_per_step']}",
        soft_wrap=True,
    )
    console.print(make_table(report, plain=not console.is_terminal))
    for line in conclusions(report):
        console.print(line, soft_wrap=True)


def make_table(report: Mapping[str, Any], *, plain: bool) -> Table:
    """A row per stage, with median, min and max over the repeats; `plain` is Markdown, one line per row."""
    table = Table(box=box.MARKDOWN if plain else box.SIMPLE_HEAD)
    table.add_column("stage")
    for heading in ("env steps/s", "frames/s", "core-us/step", "cores"):
        table.add_column(heading, justify="right", no_wrap=True)
    between = " " if plain else "\n"
    for name, stage in report["stages"].items():
        steps, cost = stage["env_steps_per_second"], stage["core_seconds_per_env_step"]
        table.add_row(
            STAGES[name],
            _rate(steps, between),
            _rate(stage["frames_per_second"], between),
            f"{_micro(cost['median'])}{between}({_micro(cost['min'])} to {_micro(cost['max'])})",
            f"{cost['median'] * steps['median']:.2f}",
            style="bold" if name == "end_to_end" else None,
        )
    return table


def conclusions(report: Mapping[str, Any]) -> Iterator[str]:
    """What the table means, and what it was measured on: one line each."""
    shares, memory, machine = report["end_to_end"], report["peak_memory_bytes"], report["machine"]
    slowest = STAGES[shares["slowest_stage"]]
    yield f"End to end is {_percent(shares['of_slowest_stage'])} of the slowest stage alone: {slowest}."
    if shares["of_core_bound"] is not None:
        yield (
            f"End to end is {_percent(shares['of_core_bound'])} of the core bound: at "
            f"{_rate(shares['core_bound_env_steps_per_second'], ' ')} env steps/s the stages' core-seconds fill the "
            f"{machine['cores']} cores that they share."
        )
    device = "" if memory["device"] is None else f", {_gibibytes(memory['device'])} on the fullest device"
    yield f"Compile time: {report['compile_s']:.1f} s. Peak memory of a run: {_gibibytes(memory['process'])}{device}."
    yield (
        f"Machine: {machine['device_kind']} devices: {machine['devices']}; cores: {machine['cores']}; load average "
        f"before the start: {machine['load_average']:.1f}; float32 matmul, n={machine['matmul_n']}: "
        f"{_rate(machine['matmul_gflops'], ' ')} GFLOP/s."
    )
    yield (
        f"Median (min to max) of {report['repeats']} repeats of {report['seconds']:g} s, interleaved. Core-us: CPU "
        "microseconds of all threads. Cores: how many were busy. End to end: without warm-up, files and checkpoints."
    )


def _rate(rate: Mapping[str, float], between: str) -> str:
    from podrl.panel import compact  # Imports JAX.

    return f"{rate['median']:,.0f}{between}({compact(rate['min'])} to {compact(rate['max'])})"


def _micro(seconds: float) -> str:
    """Microseconds, to about three digits."""
    return f"{seconds * 1e6:,.1f}" if seconds < 100e-6 else f"{seconds * 1e6:,.0f}"


def _percent(share: Mapping[str, float]) -> str:
    return f"{share['median']:.0%} ({share['min']:.0%} to {share['max']:.0%})"


def _gibibytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"


def run(command: Command) -> None:
    """Measures, prints and writes."""
    from podrl import benchmark  # Imports JAX, which a mistake before need not wait for.
    from podrl.display import configure_logging
    from podrl.train import resolve

    configure_logging(process_index=0)
    config = resolve(command.config)
    report = benchmark.measure(
        config,
        repeats=command.repeats,
        seconds=command.seconds,
        show_phase=lambda text: logging.info("%s", text),
    )
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    show(Console(highlight=False, markup=False, width=width), report)
    if command.json is not None:
        command.json.write_text(json.dumps(report, indent=2) + "\n")


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 0 done, 2 a mistake in the command or config."""
    try:
        run(parse(argv))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        mistake = error.__cause__ if isinstance(error.__cause__, ConfigError) else error
        if not isinstance(mistake, ConfigError):
            raise
        sys.stderr.write(f"benchmark: error: {mistake}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
