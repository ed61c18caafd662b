"""Plays episodes with the agent of a run and reports its scores. See `--help`."""

import argparse
import functools
import json
import os
import time
from typing import TYPE_CHECKING

from absl import logging

from podrl.config.commandline import Parser
from podrl.config.env_numbers import with_number
from podrl.config.paths import absolute, absolute_path
from podrl.config.ranges import LONGEST_S, check_flag
from podrl.runtime.jax_settings import check_jax_settings
from podrl.runtime.machine import available_cores, jax_plugins, skip_absent_tpu
from podrl.runtime.tables import make_console
from podrl.runtime.tool import check_writable, contain, run_tool
from podrl.runtime.xla_flags import suit_xla_to_cpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jax

    from podrl.envs.source import EvaluationProtocol, Pool
    from podrl.evaluation.episodes import Episodes
    from podrl.evaluation.film import Film
    from podrl.saved_run import SavedRun

USAGE = """%(prog)s --workdir RUN [--step N] [--episodes 100] [--policy both|greedy|sampled] [--seed 1]
                   [--max_episode_steps N] [--video FILE.gif|FILE.mp4] [--video_seconds 60] [--json FILE]
                   [--reference FILE]

RUN is a run's folder; the run may be in progress. Plays by the environment's own protocol: whole episodes, its own
rewards, no setting that changes them for training (env.wrappers stay, env.training_wrappers do not). All
environments play the same number of episodes; the first of each count."""
PROGRESS_S = 10.0


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name.

    Raises:
        ConfigError: on an unknown flag or a value that cannot work.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("--workdir", type=absolute, required=True, metavar="RUN", help="folder of a run")
    parser.add_argument("--step", type=int, help="update whose checkpoint to take (the newest)")
    parser.add_argument("--episodes", type=int, default=100, help="episodes with each policy (100)")
    parser.add_argument("--policy", choices=("both", "greedy", "sampled"), default="both", help="actions (both)")
    parser.add_argument("--seed", type=int, default=1, help="seed of environments and sampling (1)")
    parser.add_argument(
        "--video", type=absolute_path, help="film the first environment, with the first of the policies"
    )
    parser.add_argument("--max_episode_steps", type=int, default=0, help="limit where the environment has none")
    parser.add_argument("--video_seconds", type=float, default=60.0, help="length of the film at most (60)")
    parser.add_argument("--json", type=absolute_path, help="also write the report there, with every episode")
    parser.add_argument("--reference", type=absolute_path, help="returns of random play and an expert, for scores")
    flags = parser.parse_args(argv[1:])
    check_flag("episodes", flags.episodes, 1, 10**6)
    check_flag("max_episode_steps", flags.max_episode_steps, 0, 2**31, open=True)
    check_flag("video_seconds", flags.video_seconds, 0.001, LONGEST_S)
    check_flag("seed", flags.seed, 0, 2**31, open=True)
    for name in ("video", "json"):
        check_writable(f"--{name}", getattr(flags, name))
    return flags


def run(flags: argparse.Namespace) -> None:
    """Plays the episodes, prints the scores and writes the files."""
    check_jax_settings(os.environ, jax_plugins())
    skip_absent_tpu(os.environ, jax_plugins())
    suit_xla_to_cpu(os.environ, jax_plugins())
    import jax  # Late, so that mistakes above are reported at once.

    from podrl.evaluation import report
    from podrl.evaluation.endless import check_ends
    from podrl.evaluation.episodes import numbers_of_evaluation, split_episodes
    from podrl.evaluation.film import Film
    from podrl.evaluation.play import POLICIES, check_same_interface
    from podrl.evaluation.reference import read_reference
    from podrl.runs import inspection
    from podrl.runtime.xla_flags import require_determinism
    from podrl.saved_run import limited_protocol, open_run, read_config
    from podrl.telemetry.log_lines import configure_logging

    configure_logging(process_index=0)
    num_envs, per_env = split_episodes(flags.episodes)
    config = inspection.read_checkpoint(
        inspection.find_run(flags.workdir), flags.step, functools.partial(read_config, flags.workdir)
    )
    if config.determinism == "exact":  # Scores are as reproducible as the run.
        require_determinism(os.environ, jax_plugins())
    reference = read_reference(flags.reference, config.env.id) if flags.reference else None
    device = jax.local_devices()[0]
    saved = open_run(flags.workdir, flags.step, device)
    (number,) = numbers_of_evaluation(saved.config, 1, beside_run=True)
    protocol = limited_protocol(saved, flags.max_episode_steps, number)
    check_same_interface(saved.spec, saved.source.make_spec(with_number(protocol.env, number)), protocol)
    remedy = "Add --max_episode_steps=N to cut episodes off."
    check_ends(saved.source, saved.spec, protocol, seed=flags.seed, remedy=remedy, env_number=number)
    film = None
    if flags.video is not None:
        film = Film(
            flags.video, steps_per_second=protocol.steps_per_second, seconds=flags.video_seconds, episodes=per_env
        )
    policies = list(POLICIES) if flags.policy == "both" else [flags.policy]
    played = {policies[0]: _play(saved, protocol, device, policies[0], flags, film)}
    if film is not None:
        logging.info("%s shows %.0f s of %s play in environment 0.", flags.video, film.write(), policies[0])
    played |= {policy: _play(saved, protocol, device, policy, flags, None) for policy in policies[1:]}
    facts = {"num_envs": num_envs, "seed": flags.seed, "played": played, "reference": reference}
    scores = report.make_score_report(saved.config, saved.counters, protocol, **facts)
    report.show_scores(make_console(), scores)
    if flags.json is not None:
        flags.json.write_text(json.dumps(scores, indent=2) + "\n")


def _play(
    saved: "SavedRun",
    protocol: "EvaluationProtocol",
    device: "jax.Device",
    policy: str,
    flags: argparse.Namespace,
    film: "Film | None",
) -> "Episodes":
    """Plays the episodes of one policy, filmed if there is a film."""
    from podrl.envs.opening import make_picture_pool, make_pool
    from podrl.evaluation.endless import EndlessGuard
    from podrl.evaluation.episodes import numbers_of_evaluation
    from podrl.evaluation.play import make_player

    def open_pool(seeds: "Sequence[int]") -> "Pool":
        numbers = numbers_of_evaluation(saved.config, len(seeds), beside_run=True)
        make = make_pool if film is None else make_picture_pool
        return make(saved.source, protocol.env, seeds=seeds, env_numbers=numbers, num_threads=available_cores())

    player = make_player(
        saved.agent,
        saved.spec,
        policy=policy,
        episodes=flags.episodes,
        device=device,
        make_pool=open_pool,
        info_keys=saved.config.log.info_keys,
    )
    progress = EndlessGuard(protocol, _Progress(policy, player.num_episodes))
    watch = film.watch if film else lambda pool, timestep: None
    return player.play(saved.params, flags.seed, watch=watch, show_progress=progress)


class _Progress:
    """Logs the progress of a long evaluation every few seconds."""

    def __init__(self, policy: str, episodes: int) -> None:
        self._policy, self._episodes = policy, episodes
        self._last_s = time.monotonic()

    def __call__(self, episodes: int, step: int) -> None:
        if time.monotonic() - self._last_s >= PROGRESS_S:
            self._last_s = time.monotonic()
            logging.info("%s: %d of %d episodes, step %s", self._policy, episodes, self._episodes, f"{step:,}")


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 0 done, 1 a damaged checkpoint, 2 a mistake in the command."""
    # RuntimeError includes a checkpoint that cannot be read.
    return run_tool("evaluate", lambda: contain(run, parse(argv)), failures=(RuntimeError,))
