"""Simulates a config's job on more hosts than there are, fed by what one host was measured to do. See `--help`."""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Any

# Configs import `configs.common`, wherever the command is run from.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ml_collections

from podrl.config.commandline import Parser
from podrl.config.config import Config, ConfigError, check
from podrl.config.paths import absolute_path
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.machine import jax_plugins, keep_freed_memory, require_determinism, skip_absent_tpu, suit_xla_to_cpu
from podrl.runtime.tool import check_known, check_writable, load_overridden, parse_numbers, run_tool
from podrl.telemetry.tables import make_console

if TYPE_CHECKING:  # JAX: a mistake before need not wait for it.
    from podrl.performance.planning.measurement import Measurements
    from podrl.performance.planning.system import Interconnect, System

USAGE = """%(prog)s --config configs/impala_atari.py [--config.x.y=...] [--measure] [--json FILE]
       %(prog)s --config configs/impala_atari.py --measurements FILE [--hosts 1,16,256] [--slow_host 2]
       %(prog)s --config configs/impala_atari.py --check 1,2,4

Measures what one host does for a job of this config, on this machine, and simulates jobs of ever more such hosts, each
with the environments of the config: their speed, lag and idle time, what one slow host costs, what longer unrolls and
acting during updates buy. --json keeps all of it; --measurements takes the measured part from there. Durations on other
devices are given as numbers (--act_ms, --update_ms, --transfer_ms), and so is the network. With --check the same is
done for processes on this machine, and held against real jobs."""
_START_S = 1200.0  # Longer than compiling and a few slow updates take.
_DURATIONS = {"act_ms": "act", "update_ms": "update", "transfer_ms": "transfer", "publish_ms": "publish"}
_NOT_OF_REAL_JOBS = (*_DURATIONS, "allreduce_ms", "envs_per_pool", "host_cores", "stragglers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What the user asked for.

    Attributes:
        config: the config file's, with overrides applied.
        arguments: What names it on the command line.
        flags: all others, checked.
        hosts: numbers of hosts to simulate.
        unroll_lengths: Lengths to compare.
        stragglers: (probability, factor) of a pool's step that takes longer.
        check: numbers of processes to run for real; empty for none.
    """

    config: ml_collections.ConfigDict
    arguments: tuple[str, ...]
    flags: argparse.Namespace
    hosts: tuple[int, ...]
    unroll_lengths: tuple[int, ...]
    stragglers: tuple[float, float]
    check: tuple[int, ...]


def parse(argv: list[str]) -> Command:
    """Parses `argv`, whose first entry is the program's name.

    Raises:
        ConfigError: on a missing or broken config file, an unknown flag or key, or a value out of range.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="config file; its environments are those of one host")
    parser.add_argument("--smoke", action="store_true", help="shrink the config as tools/tpu_launch.py --smoke does")
    parser.add_argument("--measure", action="store_true", help="measure one host here (what happens by default)")
    parser.add_argument("--measurements", type=absolute_path, metavar="FILE", help="take them from what --json wrote")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement, about (10)")
    parser.add_argument("--json", type=absolute_path, metavar="FILE", help="also write measurements and report there")
    parser.add_argument("--hosts", default="1,4,16,64,256,1024", help="to simulate (1,4,16,64,256,1024)")
    parser.add_argument("--updates", type=int, default=100, help="of each simulation (100)")
    parser.add_argument("--seeds", type=int, default=3, help="simulations of each case (3)")
    parser.add_argument("--slow_host", type=float, default=1.5, help="how slow the slow host's cores are (1.5)")
    parser.add_argument("--unroll_length", metavar="T,T,...", help="also compare unrolls of these lengths")
    parser.add_argument("--stragglers", metavar="P:FACTOR", help="each pool's step takes FACTOR as long, with chance P")
    parser.add_argument("--host_cores", type=float, help="of a simulated host; inf if they never run short")
    parser.add_argument("--envs_per_pool", type=int, help="of a simulated host, by a scaling law")
    parser.add_argument("--act_ms", type=float, help="a turn of an actor thread, on another device")
    parser.add_argument("--update_ms", type=float, help="an update of one host's share, on another device")
    parser.add_argument("--transfer_ms", type=float, help="a thread's rollouts from actor to learner devices")
    parser.add_argument("--publish_ms", type=float, help="from an update's end until actors have its parameters")
    parser.add_argument("--allreduce_ms", type=float, help="of gradients, whatever the number of hosts above one")
    parser.add_argument("--link_latency_us", type=float, default=10.0, help="of a message between hosts (10)")
    parser.add_argument("--link_gbytes_per_second", type=float, default=10.0, help="of a host, one way (10)")
    parser.add_argument("--check", metavar="N,N,...", help="simulate so many processes here, and run them")
    parser.add_argument("--repeats", type=int, default=3, help="of the real jobs of --check (3)")
    flags, rest = parser.parse_known_args(argv[1:])
    check_known(rest, "--config.")
    _check_ranges(flags)
    return Command(
        config=load_overridden(flags.config, rest, smoke=flags.smoke),
        arguments=(f"--config={flags.config}", *rest, *(["--smoke"] if flags.smoke else [])),
        flags=flags,
        hosts=parse_numbers("--hosts", flags.hosts),
        unroll_lengths=parse_numbers("--unroll_length", flags.unroll_length),
        stragglers=_stragglers(flags.stragglers),
        check=parse_numbers("--check", flags.check),
    )


def _check_ranges(flags: argparse.Namespace) -> None:
    for name, least in (("updates", 1), ("seeds", 1), ("repeats", 1), ("envs_per_pool", 1), ("link_latency_us", 0)):
        value = getattr(flags, name)
        check(value is None or value >= least, f"--{name}={value} must be at least {least}.")
    for name in ("seconds", "slow_host", "host_cores", "link_gbytes_per_second"):
        value = getattr(flags, name)
        check(value is None or value > 0, f"--{name}={value:g} must be positive." if value is not None else "")
    for name in (*_DURATIONS, "allreduce_ms"):
        value = getattr(flags, name)
        check(value is None or value >= 0, f"--{name}={value} must be 0 or more (milliseconds).")
    check_writable("--json", flags.json)
    check(
        not (flags.measure and flags.measurements),
        "--measure measures anew, --measurements takes what was measured before. Leave one of them out.",
    )
    check(
        not (flags.check and flags.smoke),
        "--check runs jobs for --seconds, which --smoke would end before. Leave out --smoke, or --check.",
    )
    check(
        not (flags.check and flags.measurements),
        "--check holds real jobs against what is measured at the same time. Leave out --measurements.",
    )
    for name in _NOT_OF_REAL_JOBS:
        check(
            not flags.check or getattr(flags, name) is None,
            f"--check runs real jobs on this machine, which know nothing of --{name}. Leave out one of the two.",
        )


def _stragglers(text: str | None) -> tuple[float, float]:
    if text is None:
        return 0.0, 1.0
    try:
        probability, factor = map(float, text.split(":"))
    except ValueError:
        raise ConfigError(f"--stragglers={text} must be a probability and a factor, such as 0.01:5.") from None
    check(
        0 <= probability <= 1 and factor >= 1,
        f"--stragglers={text} must be a probability from 0 to 1 and a factor of at least 1, such as 0.01:5.",
    )
    return probability, factor


def run(command: Command) -> None:
    """Measures, simulates, prints and writes."""
    check_jax_settings(os.environ, jax_plugins())
    skip_absent_tpu(os.environ, jax_plugins())
    from podrl.assembly import resolve
    from podrl.performance.planning import simulation_report
    from podrl.performance.planning.study import run_study
    from podrl.telemetry.display import configure_logging

    configure_logging(process_index=0)
    keep_freed_memory()
    suit_xla_to_cpu(os.environ, jax_plugins())
    flags, config = command.flags, resolve(command.config)
    if config.determinism == "exact":
        require_determinism(os.environ, jax_plugins())
    console = make_console()
    if command.check:
        report = {"check": hold_against_jobs(command, config)}
        simulation_report.show_check(console, report["check"])
    else:
        measurements = _measurements(command, config)
        report = {"measurements": measurements.to_json()}
        if flags.json is not None:  # What took long to measure is not lost with what comes.
            flags.json.write_text(json.dumps(report, indent=1) + "\n")
        system = make_system(command, config, measurements)
        report["study"] = run_study(
            system,
            command.hosts,
            interconnect=make_interconnect(flags),
            gradient_bytes=measurements.gradient_bytes,
            slow=flags.slow_host,
            unroll_lengths=command.unroll_lengths,
            updates=flags.updates,
            seeds=flags.seeds,
        )
        shown = dataclasses.replace(measurements, host=system.host)
        simulation_report.show_study(console, report["study"], shown)
    if flags.json is not None:
        flags.json.write_text(json.dumps(report, indent=1) + "\n")


def hold_against_jobs(command: Command, config: Config) -> dict[str, Any]:
    """Holds the simulation against real jobs."""
    from podrl.experience.schedule import warm_up_updates
    from podrl.launch.local import share_of_cores, usable_cores
    from podrl.performance.planning.child import Child
    from podrl.performance.planning.measurement import measure_host
    from podrl.performance.planning.study import check_jobs

    os.environ["JAX_PLATFORMS"] = "cpu"  # Of the real jobs, too.
    with contextlib.ExitStack() as stack:

        @functools.cache
        def child_on(cores: tuple[int, ...]) -> Child:
            return stack.enter_context(Child(cores=cores))

        def measure(count: int) -> tuple["System", "Measurements"]:
            share, seconds = share_of_cores(usable_cores(), 0, count, 1), command.flags.seconds
            measurements = child_on(share).ask(measure_host, config, seconds, limit_s=_START_S + 4 * seconds)
            system = make_system(command, config, measurements)
            return (system if share else dataclasses.replace(system, cores=system.cores / count)), measurements

        return check_jobs(
            command.arguments,
            config.actors.num_envs,
            measure,
            command.check,
            repeats=command.flags.repeats,
            seconds=command.flags.seconds,
            warm_up=warm_up_updates(config),
        )


def make_system(command: Command, config: Config, measurements: "Measurements") -> "System":
    """The job of one host, with what the flags say instead of what was measured."""
    from podrl.experience.schedule import max_lag
    from podrl.performance.planning.distributions import HostWork
    from podrl.performance.planning.system import System

    flags, host = command.flags, measurements.host
    if config.actors.unroll_length != host.unroll_length:
        host = host.with_unroll_length(config.actors.unroll_length)
    cores = flags.host_cores or measurements.cores
    if flags.envs_per_pool or (flags.host_cores and not config.actors.env_threads):
        envs = flags.envs_per_pool or host.envs_per_pool
        threads = config.actors.env_threads or max(1, min(envs, int(min(cores, 1e6)) // host.threads))
        host = host.with_pools(envs, threads_ratio=threads / measurements.env_threads)
    given = {work: getattr(flags, name) for name, work in _DURATIONS.items()}
    replaced: dict[str, Any] = {work: HostWork.of(value / 1e3) for work, value in given.items() if value is not None}
    return System(
        host=dataclasses.replace(host, env=dataclasses.replace(host.env, late=command.stragglers), **replaced),
        cores=cores,
        max_lag=max_lag(config),
        exact=config.determinism == "exact",
        boundary_every=config.checkpoint.every_updates,
        reductions=measurements.reductions,
    )


def make_interconnect(flags: argparse.Namespace) -> "Interconnect":
    """The network between hosts."""
    from podrl.performance.planning.system import Interconnect

    if flags.allreduce_ms is not None:
        return Interconnect(constant_s=flags.allreduce_ms / 1e3)
    return Interconnect(latency_s=flags.link_latency_us / 1e6, bytes_per_second=flags.link_gbytes_per_second * 1e9)


def _measurements(command: Command, config: Config) -> "Measurements":
    from podrl.performance.planning.measurement import Measurements, measure_host

    if command.flags.measurements is None:
        return measure_host(config, command.flags.seconds)
    found = Measurements.read(command.flags.measurements)
    check(
        found.facts["config"] == config.name and found.facts["env"] == config.env.id,
        f"--measurements={command.flags.measurements} is of {found.facts['config']} on {found.facts['env']}, --config "
        f"is {config.name} on {config.env.id}. Measure this one: leave out --measurements.",
    )
    num_envs = found.host.threads * found.host.pools * found.host.envs_per_pool
    check(
        num_envs == config.actors.num_envs,
        f"--measurements={command.flags.measurements} is of {num_envs} environments, actors.num_envs="
        f"{config.actors.num_envs}. Measure this one, or scale that one with --envs_per_pool.",
    )
    return found


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code: 0 done, 1 a job failed, 2 a mistake in the command or config."""
    return run_tool("simulate", lambda: run(parse(argv)), failures=(RuntimeError,))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
