"""Simulates a config's job on more hosts than there are, fed by what one host was measured to do. See `--help`."""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
from typing import TYPE_CHECKING, Any

from podrl.commands._simulate_flags import DURATIONS, SimulateCommand, parse_simulate
from podrl.config import programs
from podrl.config.config import Config, check
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.machine import jax_plugins, keep_freed_memory, skip_absent_tpu
from podrl.runtime.tables import make_console
from podrl.runtime.tool import run_tool
from podrl.runtime.xla_flags import require_determinism, suit_xla_to_cpu

if TYPE_CHECKING:  # JAX: a mistake before need not wait for it.
    from podrl.performance.planning.measurement import Measurements
    from podrl.performance.planning.system import Interconnect, System

_START_S = 1200.0  # Longer than compiling and a few slow updates take.


def run(command: SimulateCommand) -> None:
    """Measures, simulates, prints and writes."""
    check_jax_settings(os.environ, jax_plugins())
    skip_absent_tpu(os.environ, jax_plugins())
    from podrl.assembly import resolve
    from podrl.performance.planning import simulation_report
    from podrl.performance.planning.study import run_study
    from podrl.telemetry.log_lines import configure_logging

    configure_logging(process_index=0)
    keep_freed_memory()
    suit_xla_to_cpu(os.environ, jax_plugins())
    flags, config = command.flags, resolve(command.config)
    config.check_makes_experience(programs.program_of("simulate"))
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


def hold_against_jobs(command: SimulateCommand, config: Config) -> dict[str, Any]:
    """Holds the simulation against real jobs."""
    from podrl.launch.local import share_of_cores, usable_cores
    from podrl.learning.replay import uncounted_updates
    from podrl.performance.planning.measurement import measure_host
    from podrl.performance.planning.study import check_jobs
    from podrl.runtime.child import Child

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
            warm_up=uncounted_updates(config),
        )


def make_system(command: SimulateCommand, config: Config, measurements: "Measurements") -> "System":
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
    given = {work: getattr(flags, name) for name, work in DURATIONS.items()}
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


def _measurements(command: SimulateCommand, config: Config) -> "Measurements":
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
    return run_tool("simulate", lambda: run(parse_simulate(argv)), failures=(RuntimeError,))
