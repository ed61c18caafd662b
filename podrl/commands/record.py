"""Records episodes of saved policies as a data set. See `--help`."""

import argparse
import math
import os
import re

from absl import logging

from podrl.config import programs
from podrl.config.commandline import Parser
from podrl.config.config import check
from podrl.config.extras import install_command
from podrl.config.paths import absolute, absolute_path
from podrl.config.ranges import check_flag
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.machine import jax_plugins, skip_absent_tpu
from podrl.runtime.tool import contain, run_tool
from podrl.runtime.xla_flags import require_determinism, suit_xla_to_cpu

USAGE = f"""%(prog)s --workdir RUN --steps N --out FOLDER [--mixture random:0.5,runs/a:0.4,runs/b@600:0.1] [--seed 1]
                 [--envs 16] [--max_episode_steps N]
       %(prog)s --workdir RUN --from_replay --out FOLDER
       %(prog)s --import FILE --out FOLDER [--env_id ID]

Plays whole episodes with the agent of a run, which acts as in training, and writes them as a data set: at least N
steps, by the environment's own protocol, as {programs.program_of("evaluate")} plays. --mixture names the policies and
their shares of the steps: random takes every action alike, RUN@UPDATE is the agent of an earlier checkpoint. The
environment is that of --workdir, else that of the first run named. The same command writes the same bytes. Repeat it
after it was cut short: it keeps what was written, and ends with the same bytes. Another command appends to the same
FOLDER.

--from_replay writes what is in the newest replay that a run has kept instead: parts of episodes too.
--import reads an HDF5 file in the layout of Minari or D4RL; needs {install_command("data")}."""
RANDOM = "random"


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name; `parts` are those of the mixture.

    Raises:
        ConfigError: On an unknown flag or a value that cannot work.
        SystemExit: With code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--workdir", type=absolute, metavar="RUN", help="folder of a run")
    parser.add_argument("--steps", type=int, help="steps to record")
    parser.add_argument("--out", type=absolute_path, required=True, metavar="FOLDER", help="folder of the data set")
    parser.add_argument("--mixture", help="policies and their shares (the newest of --workdir)")
    parser.add_argument("--seed", type=int, default=1, help="seed of environments and policies (1)")
    parser.add_argument("--envs", type=int, default=16, help="environments that are played at once (16)")
    parser.add_argument("--max_episode_steps", type=int, default=0, help="limit where the environment has none")
    parser.add_argument("--from_replay", action="store_true", help="write the replay of --workdir")
    parser.add_argument("--import", dest="file", type=absolute_path, metavar="FILE", help="HDF5 file to import")
    parser.add_argument("--env_id", default="", help="id of its environment (what the file says, or its name)")
    flags = parser.parse_args(argv[1:])
    if flags.file is not None:
        others = flags.workdir or flags.mixture or flags.steps or flags.from_replay
        check(not others, "--import plays no run. Leave the other flags out.")
        return flags
    check(not flags.env_id, "--env_id is for --import. A run says what it plays.")
    if flags.from_replay:
        check(bool(flags.workdir), "No run given. Add --workdir RUN, whose replay is to be written.")
        check(not (flags.mixture or flags.steps), "--from_replay plays nothing. Leave --mixture and --steps out.")
        return flags
    check(flags.steps is not None, "No length given. Add --steps N.")
    check_flag("steps", flags.steps, 1, 2**31)
    check_flag("seed", flags.seed, 0, 2**31, open=True)
    check_flag("envs", flags.envs, 1, 1024)
    check_flag("max_episode_steps", flags.max_episode_steps, 0, 2**31, open=True)
    check(bool(flags.workdir or flags.mixture), "No run given. Add --workdir RUN, or --mixture.")
    flags.parts = _parse_mixture(flags.mixture) if flags.mixture else [(flags.workdir, None, 1.0)]
    runs = [name for name, *_ in flags.parts if name != RANDOM]
    check(bool(flags.workdir or runs), "--mixture names no run. Add --workdir RUN, whose environment is played.")
    flags.workdir = flags.workdir or runs[0]
    return flags


def _parse_mixture(text: str) -> list[tuple[str, int | None, float]]:
    """Returns `random` or a run's folder, the update of its checkpoint or None, and the share of each part."""
    parts: list[tuple[str, int | None, float]] = []
    for each in text.split(","):
        found = re.fullmatch(r"(.+?)(?:@(\d+))?:(\d*\.?\d+)", each.strip())
        check(found is not None, f"--mixture: {each!r} is not POLICY:SHARE, such as random:0.5 or runs/a@600:0.5.")
        run, update, share = found.groups() if found else ("", None, "0")
        check(run != RANDOM or update is None, f"--mixture: {each!r} has no checkpoints. Write random:{share}.")
        check(float(share) > 0, f"--mixture: the share of {each!r} must be above 0.")
        parts.append((run if run == RANDOM else absolute(run), int(update) if update else None, float(share)))
    total = sum(part[-1] for part in parts)
    check(math.isclose(total, 1.0, abs_tol=1e-6), f"--mixture={text}: the shares sum to {total:g}, not to 1.")
    return parts


def run(flags: argparse.Namespace) -> None:
    """Plays the episodes, or reads them, and writes the data set."""
    check_jax_settings(os.environ, jax_plugins())
    skip_absent_tpu(os.environ, jax_plugins())
    suit_xla_to_cpu(os.environ, jax_plugins())
    require_determinism(os.environ, jax_plugins())
    from podrl.recording import Part, record_mixture  # Late, so that mistakes above are reported at once.
    from podrl.telemetry.log_lines import configure_logging

    configure_logging(process_index=0)
    if flags.file is not None:
        from podrl.data.hdf5 import import_hdf5

        episodes = import_hdf5(flags.file, flags.out, env_id=flags.env_id)
        logging.info("%s has %s episodes.", flags.out, f"{episodes:,}")
        return
    if flags.from_replay:
        from podrl.recording import record_replay

        record_replay(flags.workdir, flags.out)
        return
    record_mixture(
        [Part(*part) for part in flags.parts],
        flags.workdir,
        flags.out,
        steps=flags.steps,
        seed=flags.seed,
        num_envs=flags.envs,
        max_episode_steps=flags.max_episode_steps,
    )


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 0 done, 1 damaged files, 2 a mistake in the command."""
    return run_tool("record", lambda: contain(run, parse(argv)), failures=(RuntimeError,))
