"""The command line of `podrl.commands.simulate`. Imports no JAX, so mistakes show at once."""

import argparse
import dataclasses

import ml_collections

from podrl.config.commandline import Parser
from podrl.config.config import ConfigError, check
from podrl.config.paths import absolute_path
from podrl.config.ranges import LONGEST_S, SIZE, check_flag
from podrl.runtime.tool import check_known, check_writable, load_overridden, parse_numbers

_USAGE = """%(prog)s --config impala_atari [--config.x.y=...] [--measure] [--json FILE]
       %(prog)s --config impala_atari --measurements FILE [--hosts 1,16,256] [--slow_host 2]
       %(prog)s --config impala_atari --check 1,2,4

Measures what one host does for a job of this config, on this machine, and simulates jobs of ever more such hosts, each
with the environments of the config: their speed, lag and idle time, what one slow host costs, what longer unrolls and
acting during updates buy. --json keeps all of it; --measurements takes the measured part from there. Durations on other
devices are given as numbers (--act_ms, --update_ms, --transfer_ms), and so is the network. With --check the same is
done for processes on this machine, and held against real jobs."""
DURATIONS = {"act_ms": "act", "update_ms": "update", "transfer_ms": "transfer", "publish_ms": "publish"}
_NOT_OF_REAL_JOBS = (*DURATIONS, "allreduce_ms", "envs_per_pool", "host_cores", "stragglers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulateCommand:
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


def parse_simulate(argv: list[str]) -> SimulateCommand:
    """Parses `argv`, whose first entry is the program's name.

    Raises:
        ConfigError: on a missing or broken config file, an unknown flag or key, or a value out of range.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=_USAGE, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="config file; its environments are those of one host")
    parser.add_argument("--smoke", action="store_true", help="shrink the config as in training")
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
    return SimulateCommand(
        config=load_overridden(flags.config, rest, smoke=flags.smoke),
        arguments=(f"--config={flags.config}", *rest, *(["--smoke"] if flags.smoke else [])),
        flags=flags,
        hosts=parse_numbers("--hosts", flags.hosts),
        unroll_lengths=parse_numbers("--unroll_length", flags.unroll_length),
        stragglers=_stragglers(flags.stragglers),
        check=parse_numbers("--check", flags.check),
    )


def _check_ranges(flags: argparse.Namespace) -> None:
    for name in ("updates", "seeds", "repeats", "envs_per_pool"):
        check_flag(name, getattr(flags, name), 1, SIZE)
    check_flag("link_latency_us", flags.link_latency_us, 0, 1e6 * LONGEST_S)
    for name in ("seconds", "slow_host", "host_cores", "link_gbytes_per_second"):
        value = getattr(flags, name)
        check(value is None or value > 0, f"--{name}={value} must be positive.")
    for name in (*DURATIONS, "allreduce_ms"):
        value = getattr(flags, name)
        check(value is None or value >= 0, f"--{name}={value} must be 0 or more (milliseconds).")
    check_writable("--json", flags.json)
    measure = "--measure measures anew, --measurements takes what was measured before. Leave one of them out."
    check(not (flags.measure and flags.measurements), measure)
    if flags.check:
        check(not flags.smoke, "--check runs jobs for --seconds, which --smoke would end before. Leave one out.")
        anew = "--check holds real jobs against what is measured at the same time. Leave out --measurements."
        check(not flags.measurements, anew)
        for name in _NOT_OF_REAL_JOBS:
            real = f"--check runs real jobs on this machine, which know nothing of --{name}. Leave out one of the two."
            check(getattr(flags, name) is None, real)


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
