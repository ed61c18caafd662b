"""Says what a config needs and how fast it will be on chips that are not booked. See `--help`."""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import math
import os
from pathlib import Path
from typing import Any

from absl import logging
import ml_collections

from podrl.config import programs
from podrl.config.commandline import Parser
from podrl.config.config import check
from podrl.config.paths import absolute_path
from podrl.config.ranges import check_flag
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.tables import make_console, print_lines
from podrl.runtime.tool import check_known, check_writable, load_overridden, run_tool

USAGE = f"""%(prog)s --config impala_atari --topology v5e:2x4 [--topology v5e:16x16 ...] [--config.x.y=...]
       %(prog)s --config impala_atari --topology h100:2x8 --price 2.5
       %(prog)s --config impala_catch --topology this [--check]
       %(prog)s --config impala_catch --measured FILE [--topology ...]

Compiles the config's own acting step and update for a TPU slice, without a TPU, and says whether it fits, what binds,
how fast it will be and how it scales. GPUs are counted and not compiled. `this` measures the run's stages on this
machine and predicts the run from them, and `--check` runs the config to compare. `--measured` takes the stages from
what {programs.program_of("benchmark")} --json wrote, here or on another machine. Nothing is trained or saved. See
docs/howto/plan.md."""
_ASSUMED = {"achieved": 0.6, "dispatch_ms": 0.3, "wire_ms": 0.3}
_OF_SLICES = ("env_steps_per_vcpu", "vcpus", "env_workers", "price", *_ASSUMED)  # This machine is measured.
_AS_GIVEN = ("measured", "env_steps_per_vcpu", "vcpus", "env_workers", "price", "check", "json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What the user asked for."""

    config: ml_collections.ConfigDict  # the config file's, with overrides applied
    arguments: tuple[str, ...]  # that name it on the command line
    topologies: tuple[str, ...]  # names of slices, or `this`
    measured: Path | None  # the benchmark's report; None to measure here
    env_steps_per_vcpu: float | None  # of environments on one hardware thread of a host; None to measure here
    vcpus: float | None  # of a host, or of one of `env_workers`, that step environments; None for nine in ten
    env_workers: int | None  # hosts of environment workers beside each host; None where it steps environments itself
    wire_ms: float  # of a round trip to them
    achieved: float  # share of the peaks that programs reach
    dispatch_ms: float  # of one acting call's round trip
    price: float | None  # of a chip for an hour; None to leave it out
    check: bool  # whether to run what was predicted for this machine
    json: Path | None  # where the plans go; None for nowhere


def parse(argv: Sequence[str]) -> Command:
    """Parses the command line; prints help and exits if asked to.

    Raises:
        ConfigError: with one clear line.
    """
    parser = Parser(prog=argv[0], usage=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="config, by name or file; --config.x.y=... changes a key")
    parser.add_argument("--topology", action="append", default=[], help="v5e:16x16, v5p:4x4x4, h100:2x8, this, ...")
    parser.add_argument("--measured", type=absolute_path, metavar="FILE", help="what the benchmark wrote (--json)")
    parser.add_argument("--env_steps_per_vcpu", type=float, help="default: that of a core here, or of --measured's")
    parser.add_argument("--vcpus", type=float, help="of a host, that step environments; default: nine in ten")
    parser.add_argument("--env_workers", type=int, help="hosts beside each host, whose --vcpus step environments")
    parser.add_argument("--wire_ms", type=float, help=f"round trip to environment workers ({_ASSUMED['wire_ms']})")
    parser.add_argument("--achieved", type=float, help=f"share of peaks that programs reach ({_ASSUMED['achieved']})")
    parser.add_argument("--dispatch_ms", type=float, help=f"round trip of an acting call ({_ASSUMED['dispatch_ms']})")
    parser.add_argument("--price", type=float, help="of one chip for one hour, in any currency")
    parser.add_argument("--check", action="store_true", help="with `this`: run it, and show the prediction's error")
    parser.add_argument("--json", type=absolute_path, help="where to write the plans as JSON")
    flags, rest = parser.parse_known_args(list(argv[1:]))
    check_known(rest, "--config.")
    check(bool(flags.topology or flags.measured), "Give a --topology, such as v5e:2x4 or this, or --measured FILE.")
    for name in ("env_steps_per_vcpu", "vcpus", "price"):
        value = getattr(flags, name)
        check(value is None or value > 0, f"--{name}={value} must be positive.")
        check_flag(name, value, 0, 1e9)
    for name, least in (("env_workers", 1), ("dispatch_ms", 0), ("wire_ms", 0)):
        check_flag(name, getattr(flags, name), least, 1e6)
    given = {name: getattr(flags, name) for name in _ASSUMED if getattr(flags, name) is not None}
    check(0 < given.get("achieved", 1) <= 1, f"--achieved={flags.achieved} must lie in (0, 1].")
    check(flags.wire_ms is None or flags.env_workers is not None, "--wire_ms is of --env_workers, which is not given.")
    _check_together(flags)
    return Command(
        config=load_overridden(flags.config, rest),
        arguments=(f"--config={flags.config}", *rest),
        topologies=tuple(flags.topology),
        **_ASSUMED | given,
        **{name: getattr(flags, name) for name in _AS_GIVEN},
    )


def _check_together(flags: argparse.Namespace) -> None:
    """Raises `ConfigError` if one flag rules out another."""
    for name in _OF_SLICES:
        check(
            getattr(flags, name) is None or not all(map(_is_here, flags.topology)),
            f"--{name} is for slices, and --topology this is this machine, which is measured. Drop --{name}, or add a "
            "slice, such as --topology v5e:2x4.",
        )
    check_writable("--json", flags.json)
    check(
        not flags.check or (all(map(_is_here, flags.topology)) and not flags.measured),
        "--check runs on this machine. Use it with --topology this, and without --measured.",
    )
    check(
        not flags.measured or not any(map(_is_here, flags.topology)),
        "--measured has the stages that --topology this would measure. Leave out one of the two.",
    )


def _is_here(topology: str) -> bool:
    """Whether it is this machine and not a slice."""
    return topology.partition(":")[0] == "this"


def run(command: Command) -> None:
    """Plans, prints and writes."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # No device of this machine is used, whatever it has.
    check_jax_settings(os.environ, ())
    from podrl.performance.planning.slices import check_libtpu, parse_slice  # Imports JAX.

    here = [name for name in command.topologies if _is_here(name)]
    slices = [parse_slice(name) for name in command.topologies if not _is_here(name)]
    for slice_ in slices:
        check_libtpu(slice_)
    import jax

    from podrl.assembly import resolve
    from podrl.performance.planning.measured import parse_local, read_benchmark
    from podrl.telemetry.log_lines import configure_logging

    configure_logging(process_index=0)
    if command.price is not None and here:
        logging.info("--price is of the slices' chips; this machine is predicted without one.")
    jobs = [parse_local(name) for name in here]
    gpus = [slice_.chips_per_host for slice_ in slices if slice_.chip.platform == "gpu"]
    jax.config.update("jax_num_cpu_devices", max([1, *gpus]))
    config = resolve(command.config)
    config.check_makes_experience(programs.program_of("plan"))
    benchmark = None if command.measured is None else read_benchmark(command.measured, config)
    found: list[dict[str, Any]] = []
    try:
        if slices:
            plan_slices(command, config, slices, benchmark, found.append)
        if jobs:
            predict_here(command, config, jobs, found.append)
        elif benchmark is not None:
            show_benchmark(config, benchmark, found.append)
    finally:  # What came before a mistake took its time, too.
        if command.json is not None and found:
            command.json.write_text(json.dumps(found, indent=2) + "\n")
            if len(found) < len(command.topologies):
                logging.info("%s has %d of %d plans.", command.json, len(found), len(command.topologies))


def plan_slices(
    command: Command, config: Any, slices: Sequence[Any], benchmark: Any, keep: Callable[[dict[str, Any]], None]
) -> None:
    """Plans for chips that are not here; prints each, and keeps it as JSON has it."""
    from podrl.performance.planning import report
    from podrl.performance.planning.measured import env_steps_per_core
    from podrl.performance.planning.model import Assumptions
    from podrl.performance.planning.plans import make_plan, plan_to_json

    check(
        command.env_workers is None or config.topology.placement != "anakin",
        "--env_workers is for environments on the host; this config's are inside the compiled program.",
    )
    rate, source = command.env_steps_per_vcpu, "given"
    if rate is None and config.topology.placement != "anakin":
        if benchmark is not None:
            rate, source = 1 / benchmark[0].costs["env"].core_s, f"a core's in {command.measured}"
        else:
            logging.info("Measuring the environments on this machine.")
            rate, source = env_steps_per_core(config), "measured on each core here; give --env_steps_per_vcpu"
    assumptions = Assumptions(
        env_steps_per_vcpu_s=rate or math.inf,
        env_source=source,
        vcpus=command.vcpus,
        env_workers=command.env_workers or 0,
        wire_s=command.wire_ms / 1e3,
        achieved=command.achieved,
        dispatch_s=command.dispatch_ms / 1e3,
    )
    console = make_console()
    plans = []
    for slice_ in slices:
        doing = "Compiling, for some minutes," if slice_.chip.platform == "tpu" else "Counting"
        logging.info("%s for %s.", doing, slice_.name)
        plans.append(make_plan(config, slice_, assumptions))
        keep(plan_to_json(plans[-1], command.price))
        report.show_plan(console, plans[-1], command.price)
        console.print()
    if len(plans) > 1:
        report.show_summary(console, plans)


def predict_here(
    command: Command, config: Any, jobs: Sequence[tuple[int, int]], keep: Callable[[dict[str, Any]], None]
) -> None:
    """Predicts jobs on this machine, and with `--check` runs them; prints all, and keeps each as JSON has it."""
    from podrl.learning.replay import uncounted_updates
    from podrl.performance.benchmark.jobs import time_job
    from podrl.performance.planning import measured, report
    from podrl.runtime.machine import available_cores

    load_average = os.getloadavg()[0]
    logging.info("Measuring the stages here%s.", f", and running {config.name}, in turns" if command.check else "")
    found = []
    for processes, devices in jobs:
        if command.check:
            job = functools.partial(time_job, command.arguments, processes, devices, warm_up=uncounted_updates(config))
            row = measured.check_here(config, processes, devices, job)
        else:
            row = measured.predict_here(config, processes, devices)
        row = {"run": f"{config.name}, {processes} x {devices}", "processes": processes, "devices": devices, **row}
        found.append(row)
        keep(row)
    report.show_measured(make_console(), found, available_cores(), load_average)


def show_benchmark(config: Any, benchmark: Any, keep: Callable[[dict[str, Any]], None]) -> None:
    """Predicts the run of a benchmark's report, from its stages; prints that, and keeps it as JSON has it."""
    from podrl.performance.planning import measured, report

    stages, found = benchmark
    row = {"run": config.name, **measured.predict_benchmark(stages, found)}
    keep(row)
    machine = found["machine"]
    print_lines(console := make_console(), [f"Measured on {machine['device_kind']}, {machine['cores']} core(s)."])
    report.show_measured(console, [row], machine["cores"], machine["load_average"])


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code: 0 done, 1 a job failed, 2 a mistake in the command or config."""
    return run_tool("plan", lambda: run(parse(argv)), failures=(RuntimeError,))
