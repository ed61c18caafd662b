"""Says what a config needs and how fast it will be on chips that nobody has booked. See `--help`."""

import argparse
from collections.abc import Sequence
import dataclasses
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

from podrl import commandline
from podrl.config import ConfigError, check
from podrl.console import make_console
from podrl.interruption import INTERRUPTED

USAGE = """%(prog)s --config configs/impala_atari.py --topology v5e:2x4 [--topology v5e:16x16 ...] [--config.x.y=...]
       %(prog)s --config configs/impala_atari.py --topology h100:2x8 --price 2.5
       %(prog)s --config configs/impala_catch.py --topology this

Compiles the config's own acting step and update for a TPU slice, without a TPU, and says whether it fits, what binds,
how fast it will be and how it scales. GPUs are counted and not compiled. `this` predicts this machine from its own
yardsticks, and `--check` runs the config to compare. Nothing is trained or saved. See docs/scaling.md."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What the user asked for.

    Attributes:
        config: the config file's, with overrides applied.
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
    parser = commandline.Parser(
        prog="plan", usage=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="a file of configs/; --config.x.y=... changes a key")
    parser.add_argument("--topology", action="append", required=True, help="v5e:16x16, v5p:4x4x4, h100:2x8, this, ...")
    parser.add_argument("--env_steps_per_vcpu", type=float, help="default: measured here, times 0.6")
    parser.add_argument("--vcpus", type=float, help="of a host, that step environments; default: nine in ten")
    parser.add_argument("--achieved", type=float, default=0.6, help="share of the peaks that programs reach (0.6)")
    parser.add_argument("--dispatch_ms", type=float, default=0.3, help="round trip of an acting call (0.3)")
    parser.add_argument("--price", type=float, help="of one chip for one hour, in any currency")
    parser.add_argument("--check", action="store_true", help="with `this`: run it, and show the prediction's error")
    parser.add_argument("--json", type=Path, help="where to write the plans as JSON")
    flags, rest = parser.parse_known_args(list(argv[1:]))
    for argument in rest:
        check(argument.startswith("--config."), f"Unknown argument {argument!r}. See --help.")
    for name in ("env_steps_per_vcpu", "vcpus", "price"):
        value = getattr(flags, name)
        check(value is None or value > 0, f"--{name}={value} must be positive.")
    check(0 < flags.achieved <= 1, f"--achieved={flags.achieved} must lie in (0, 1].")
    check(flags.dispatch_ms >= 0, f"--dispatch_ms={flags.dispatch_ms} must be at least 0.")
    check(flags.json is None or flags.json.parent.is_dir(), f"--json={flags.json}: there is no such folder.")
    check(flags.json is None or not flags.json.is_dir(), f"--json={flags.json} is a folder. Name a file in it.")
    check(
        not flags.check or all(name.startswith("this") for name in flags.topology),
        "--check runs on this machine. Use it with --topology this.",
    )
    return Command(
        config=commandline.override(commandline.load_config(flags.config), rest),
        topologies=tuple(flags.topology),
        env_steps_per_vcpu=flags.env_steps_per_vcpu,
        vcpus=flags.vcpus,
        achieved=flags.achieved,
        dispatch_ms=flags.dispatch_ms,
        price=flags.price,
        check=flags.check,
        json=flags.json,
    )


def run(command: Command) -> None:
    """Plans, prints and writes."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # No device of this machine is used, whatever it has.
    from podrl.planning.slices import check_libtpu, parse_slice  # Imports JAX.

    here = [name for name in command.topologies if name.partition(":")[0] == "this"]
    slices = [parse_slice(name) for name in command.topologies if name not in here]
    for slice_ in slices:
        check_libtpu(slice_)
    import jax

    from podrl.assembly import resolve
    from podrl.display import configure_logging
    from podrl.planning.local import parse_local

    configure_logging(process_index=0)
    jobs = [parse_local(name) for name in here]
    check(
        not command.check or all(job == (1, 1) for job in jobs),
        "--check runs one process with one device. Use --topology this.",
    )
    gpus = [slice_.chips_per_host for slice_ in slices if slice_.chip.platform == "gpu"]
    jax.config.update("jax_num_cpu_devices", max([1, *gpus, *(devices for _, devices in jobs)]))
    config = resolve(command.config)
    found = [plan_slices(command, config, slices)] if slices else []
    if jobs:
        found.append(predict_here(command, config, jobs))
    if command.json is not None:
        command.json.write_text(json.dumps([plan for plans in found for plan in plans], indent=2) + "\n")


def plan_slices(command: Command, config: Any, slices: Sequence[Any]) -> list[dict[str, Any]]:
    """Plans for chips that are not here; prints, and returns them as JSON has them."""
    from podrl.planning import report
    from podrl.planning.environments import VCPU_SHARE, env_steps_per_core
    from podrl.planning.plans import Assumptions, make_plan

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
        logging.info("%s for %s.", "Compiling" if slice_.chip.platform == "tpu" else "Counting", slice_.name)
        plans.append(make_plan(config, slice_, assumptions))
        report.show(console, plans[-1], command.price)
        console.print()
    if len(plans) > 1:
        report.show_summary(console, plans)
    return [report.to_json(plan, command.price) for plan in plans]


def predict_here(command: Command, config: Any, jobs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Predicts jobs on this machine, and with `--check` runs them; prints, and returns what JSON has."""
    from podrl.planning import local, report

    logging.info("Measuring this machine.")
    yardsticks = local.measure_yardsticks()
    found = []
    for processes, devices in jobs:
        prediction = local.predict_local(config, yardsticks, processes=processes, devices=devices)
        row: dict[str, Any] = {"config": config.name, "processes": processes, "devices": devices}
        row |= {"core_s": dict(prediction.core_s), "predicted": prediction.env_steps_per_s}
        if command.check:
            logging.info("Running %s.", config.name)
            row |= local.compare(prediction, config)
        found.append(row)
    report.show_local(make_console(), found, yardsticks)
    return found


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 0 done, 2 a mistake in the command or config."""
    try:
        run(parse(argv))
    except KeyboardInterrupt:
        return INTERRUPTED
    except ConfigError as error:
        sys.stderr.write(f"plan: error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
