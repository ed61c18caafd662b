"""Makes data sets for offline learning of one run: random, medium, expert, mixed and replay. See `--help`."""

import argparse
import os
import shlex

from podrl.config import programs
from podrl.config.commandline import Parser
from podrl.config.paths import absolute, absolute_path
from podrl.config.ranges import check_flag
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.machine import jax_plugins, skip_absent_tpu
from podrl.runtime.tool import contain, run_tool
from podrl.runtime.xla_flags import require_determinism, suit_xla_to_cpu

USAGE = f"""%(prog)s --workdir RUN --out FOLDER [--steps 200000] [--seed 1] [--envs 16] [--episodes 20]
                             [--max_episode_steps N]

RUN is the folder of a run that kept several checkpoints, such as one of the config sac_hopper with
--config.checkpoint.keep_every=1000. Plays greedy episodes with each of them, and writes into FOLDER:

  random, medium, expert   sets of one policy each: medium returns about a third of what the best checkpoint does
  mixed                    45%% random, 45%% medium and 10%% expert, by steps
  replay                   what is in the replay of the run's newest checkpoint that has one
  reference.json           the returns of random and expert, for {programs.program_of("evaluate")} --reference

Repeat a command that was cut short: it keeps what was written."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name.

    Raises:
        ConfigError: On an unknown flag or a value that cannot work.
        SystemExit: With code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--workdir", type=absolute, required=True, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=absolute_path, required=True, metavar="FOLDER", help="folder of the sets")
    parser.add_argument("--steps", type=int, default=200_000, help="steps of each set (200000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of environments and policies (1)")
    parser.add_argument("--envs", type=int, default=16, help="environments that are played at once (16)")
    parser.add_argument("--episodes", type=int, default=20, help="greedy episodes of each checkpoint (20)")
    parser.add_argument("--max_episode_steps", type=int, default=0, help="limit where the environment has none")
    flags = parser.parse_args(argv[1:])
    check_flag("steps", flags.steps, 10, 2**31)
    check_flag("seed", flags.seed, 0, 2**31 - 4, open=True)
    check_flag("envs", flags.envs, 1, 1024)
    check_flag("episodes", flags.episodes, 1, 10**6)
    check_flag("max_episode_steps", flags.max_episode_steps, 0, 2**31, open=True)
    flags.command = f"{argv[0]} {shlex.join(argv[1:])}"
    return flags


def run(flags: argparse.Namespace) -> None:
    """Plays, writes the sets, and prints a table of them."""
    check_jax_settings(os.environ, jax_plugins())
    skip_absent_tpu(os.environ, jax_plugins())
    suit_xla_to_cpu(os.environ, jax_plugins())
    require_determinism(os.environ, jax_plugins())
    from podrl.control_data import ControlPlan, make_control_data
    from podrl.runtime.tables import make_console, make_table  # Late, so that mistakes above are reported at once.
    from podrl.telemetry.log_lines import configure_logging

    configure_logging(process_index=0)
    plan = ControlPlan(
        steps=flags.steps,
        seed=flags.seed,
        num_envs=flags.envs,
        episodes=flags.episodes,
        max_episode_steps=flags.max_episode_steps,
    )
    made = make_control_data(flags.workdir, flags.out, plan, flags.command)
    console = make_console()
    headings = ("set", "who acted", "episodes", "steps", "return, mean", "normalised")
    table = make_table(headings, plain=not console.is_terminal, texts=("set", "who acted"))
    for each in made:
        counts = (f"{each.episodes:,}", f"{each.steps:,}", f"{each.mean_return:,.2f}", f"{each.normalised:.1%}")
        table.add_row(each.name, each.policy, *counts)
    console.print(table)


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 0 done, 1 damaged files, 2 a mistake in the command."""
    return run_tool("make_control_data", lambda: contain(run, parse(argv)), failures=(RuntimeError,))
