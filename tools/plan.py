"""Says what a config needs and how fast it will be on chips that nobody has booked. See `--help`."""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import math
import os
from pathlib import Path
import sys
from typing import Any

# Configs import `configs.common`, wherever the command is run from.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import logging
import ml_collections

from podrl.config.commandline import Parser
from podrl.config.config import check
from podrl.config.paths import absolute_path
from podrl.config.ranges import check_flag
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.machine import keep_freed_memory, suit_xla_to_cpu
from podrl.runtime.tool import check_known, check_writable, load_overridden, run_tool
from podrl.telemetry.tables import make_console

USAGE = """%(prog)s --config configs/impala_atari.py --topology v5e:2x4 [--topology v5e:16x16 ...] [--config.x.y=...]
       %(prog)s --config configs/impala_atari.py --topology h100:2x8 --price 2.5
       %(prog)s --config configs/impala_catch.py --topology this

Compiles the config's own acting step and update for a TPU slice, without a TPU, and says whether it fits, what binds,
how fast it will be and how it scales. GPUs are counted and not compiled. `this` predicts this machine from its own
yardsticks, and `--check` runs the config to compare. Nothing is trained or saved. See docs/scaling.md."""
_OF_SLICES = ("env_steps_per_vcpu", "vcpus", "achieved", "dispatch_ms", "price")  # This machine is measured.
_ACHIEVED, _DISPATCH_MS = 0.6, 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What the user asked for.

    Attributes:
        config: the config file's, with overrides applied.
        arguments: that name it on the command line.
        topologies: names of slices, or `this`.
        env_steps_per_vcpu: of environments on one hardware thread of a host; None to measure here.
        vcpus: of a host that step environments; None for nine in ten.
        achieved: share of the peaks that programs reach.
        dispatch_ms: of one acting call's round trip.
        price: of a chip for an hour; None to leave it out.
        check: whether to run what was predicted for this machine.
        json: where the plans go; None for nowhere.
    """

    config: ml_collections.ConfigDict
    arguments: tuple[str, ...]
    topologies: tuple[str, ...]
    env_steps_per_vcpu: float | None
    vcpus: float | None
    achieved: float
    dispatch_ms: float
    price: float | None
    check: bool
    json: Path | None


def parse(argv: Sequence[str]) -> Command:
    """Parses the command line; prints help and exits if asked to.

    Raises:
        ConfigError: with one clear line.
    """
    parser = Parser(prog="plan", usage=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a file of configs/; --config.x.y=... changes a key")
    parser.add_argument("--topology", action="append", required=True, help="v5e:16x16, v5p:4x4x4, h100:2x8, this, ...")
    parser.add_argument("--env_steps_per_vcpu", type=float, help="default: measured here, times 0.6")
    parser.add_argument("--vcpus", type=float, help="of a host, that step environments; default: nine in ten")
    parser.add_argument("--achieved", type=float, help=f"share of the peaks that programs reach ({_ACHIEVED})")
    parser.add_argument("--dispatch_ms", type=float, help=f"round trip of an acting call ({_DISPATCH_MS})")
    parser.add_argument("--price", type=float, help="of one chip for one hour, in any currency")
    parser.add_argument("--check", action="store_true", help="with `this`: run it, and show the prediction's error")
    parser.add_argument("--json", type=absolute_path, help="where to write the plans as JSON")
    flags, rest = parser.parse_known_args(list(argv[1:]))
    check_known(rest, "--config.")
    for name in ("env_steps_per_vcpu", "vcpus", "price"):
        value = getattr(flags, name)
        check(value is None or value > 0, f"--{name}={value} must be positive.")
        check_flag(name, value, 0, 1e9)
    achieved = _ACHIEVED if flags.achieved is None else flags.achieved
    dispatch_ms = _DISPATCH_MS if flags.dispatch_ms is None else flags.dispatch_ms
    check(0 < achieved <= 1, f"--achieved={achieved} must lie in (0, 1].")
    check_flag("dispatch_ms", dispatch_ms, 0, 1e6)
    for name in _OF_SLICES:
        check(
            getattr(flags, name) is None or not all(map(_is_here, flags.topology)),
            f"--{name} is for slices, and --topology this is this machine, which is measured. Drop --{name}, or add a "
            "slice, such as --topology v5e:2x4.",
        )
    check_writable("--json", flags.json)
    check(
        not flags.check or all(map(_is_here, flags.topology)),
        "--check runs on this machine. Use it with --topology this.",
    )
    return Command(
        config=load_overridden(flags.config, rest),
        arguments=(f"--config={flags.config}", *rest),
        topologies=tuple(flags.topology),
        env_steps_per_vcpu=flags.env_steps_per_vcpu,
        vcpus=flags.vcpus,
        achieved=achieved,
        dispatch_ms=dispatch_ms,
        price=flags.price,
        check=flags.check,
        json=flags.json,
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
    from podrl.performance.planning.local import parse_local
    from podrl.telemetry.display import configure_logging

    configure_logging(process_index=0)
    if here:  # As a run does.
        keep_freed_memory()
        suit_xla_to_cpu(os.environ)
    if command.price is not None and here:
        logging.info("--price is of the slices' chips; this machine is predicted without one.")
    jobs = [parse_local(name) for name in here]
    gpus = [slice_.chips_per_host for slice_ in slices if slice_.chip.platform == "gpu"]
    jax.config.update("jax_num_cpu_devices", max([1, *gpus, *(devices for _, devices in jobs)]))
    config = resolve(command.config)
    found: list[dict[str, Any]] = []
    try:
        if slices:
            plan_slices(command, config, slices, found.append)
        if jobs:
            predict_here(command, config, jobs, found.append)
    finally:  # What came before a mistake took its time, too.
        if command.json is not None and found:
            command.json.write_text(json.dumps(found, indent=2) + "\n")
            if len(found) < len(command.topologies):
                logging.info("%s has %d of %d plans.", command.json, len(found), len(command.topologies))


def plan_slices(command: Command, config: Any, slices: Sequence[Any], keep: Callable[[dict[str, Any]], None]) -> None:
    """Plans for chips that are not here; prints each, and keeps it as JSON has it."""
    from podrl.performance.planning import report
    from podrl.performance.planning.environments import VCPU_SHARE, env_steps_per_core
    from podrl.performance.planning.plans import Assumptions, make_plan

    rate, source = command.env_steps_per_vcpu, "given"
    if rate is None and config.topology.placement != "anakin":
        logging.info("Measuring the environments on this machine.")
        here = env_steps_per_core(config)
        rate, source = VCPU_SHARE * here, f"{VCPU_SHARE} of the {here:,.0f} measured on each core here"
    assumptions = Assumptions(
        env_steps_per_vcpu_s=rate or math.inf,
        env_source=source,
        vcpus=command.vcpus,
        achieved=command.achieved,
        dispatch_s=command.dispatch_ms / 1e3,
    )
    console = make_console()
    plans = []
    for slice_ in slices:
        doing = "Compiling, for some minutes," if slice_.chip.platform == "tpu" else "Counting"
        logging.info("%s for %s.", doing, slice_.name)
        plans.append(make_plan(config, slice_, assumptions))
        keep(report.to_json(plans[-1], command.price))
        report.show_plan(console, plans[-1], command.price)
        console.print()
    if len(plans) > 1:
        report.show_summary(console, plans)


def predict_here(
    command: Command, config: Any, jobs: Sequence[tuple[int, int]], keep: Callable[[dict[str, Any]], None]
) -> None:
    """Predicts jobs on this machine, and with `--check` runs them; prints all, and keeps each as JSON has it."""
    from podrl.experience.schedule import warm_up_updates
    from podrl.performance.benchmark.jobs import time_job
    from podrl.performance.planning import local, report
    from podrl.performance.planning.yardsticks import make_yardsticks

    load_average = os.getloadavg()[0]
    logging.info("Measuring this machine%s.", f", and running {config.name}, in turns" if command.check else "")
    yardsticks: Any = None if command.check else make_yardsticks([processes for processes, _ in jobs])()
    found = []
    for processes, devices in jobs:
        row: dict[str, Any] = {"config": config.name, "processes": processes, "devices": devices}
        if command.check:
            job = functools.partial(time_job, command.arguments, processes, devices, warm_up=warm_up_updates(config))
            yardsticks, prediction, measured = local.check_prediction(config, processes, devices, job)
            row |= measured
        else:
            prediction = local.predict_local(config, yardsticks, processes=processes, devices=devices)
        row |= {"core_s": dict(prediction.core_s), "predicted": prediction.env_steps_per_s}
        found.append(row)
        keep(row)
    report.show_local(make_console(), found, yardsticks, load_average)


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code: 0 done, 1 a job failed, 2 a mistake in the command or config."""
    return run_tool("plan", lambda: run(parse(argv)), failures=(RuntimeError,))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
