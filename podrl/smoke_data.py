"""The data set of a run's smoke form: a few episodes of random actions, where the config names none that is there."""

from collections.abc import Callable, Sequence
import dataclasses
import os
from pathlib import Path
import tempfile

from absl import logging

from podrl.config.config import Config, check
from podrl.config.config_dict import to_plain
from podrl.config.env_numbers import with_number
from podrl.data.manifest import DATA_MANIFEST, DataSpec, hash_text
from podrl.data.playing import play_whole_episodes, uniform_policy
from podrl.data.writer import DataWriter
from podrl.envs.loading import load_environment
from podrl.envs.opening import make_pool
from podrl.envs.source import Pool, evaluation_protocol
from podrl.evaluation.endless import EndlessGuard
from podrl.evaluation.episodes import numbers_of_evaluation
from podrl.recording import RANDOM
from podrl.runtime.job.agreement import from_first
from podrl.runtime.job.job import Job
from podrl.runtime.ledger import Ledger
from podrl.runtime.watchdog import Watchdog, Watched

SUFFIX = "-smoke-data"  # Behind the run's folder.
_NUM_ENVS = 4


def with_smoke_data(
    config: Config, workdir: str, job: Job, *, steps: int = 2000, on_stall: Callable[[], None] = lambda: None
) -> Config:
    """Returns a smoke run's config with a data set, which the first process records if there is none.

    Other configs are returned as they are.

    Args:
        config: The run's config.
        workdir: The run's folder, beside which the data set is; a temporary folder has that of one in an object store.
        job: All processes.
        steps: Env steps to record, at least.
        on_stall: Called before a process ends whose environment stands still for `watchdog_s`.

    Raises:
        ConfigError: If the environment does not fit, or cannot be played.
        DataError: If the data set is there and damaged.
    """
    if not (config.smoke and config.is_offline):
        return config

    def record() -> str:
        path = config.data.path
        if path and (Path(path) / DATA_MANIFEST).exists():
            return path
        if path:
            logging.warning("--smoke: data.path=%s is no data set; random actions take its place.", path)
        folder = _folder(workdir, job)
        logging.info("--smoke: records %s steps of random actions in %s.", f"{steps:,}", folder)
        ledger = Ledger("smoke data", ("env",))
        doing = f"the main thread records steps of {config.env.id} in {folder}"
        with Watchdog(config.watchdog_s, on_stall=on_stall) as watchdog:
            watchdog.watch(Watched(ledger=ledger, doing=lambda: doing, is_alive=lambda: True))
            _record(config, folder, steps, ledger)
        return str(folder)

    path = from_first(job, "smoke data", record, config.watchdog_s)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=path))


def _folder(workdir: str, job: Job) -> Path:
    """Returns where the data set is: beside the run's folder, or on this machine if that is in an object store."""
    if "://" not in workdir:
        return Path(f"{workdir}{SUFFIX}").absolute()
    check(
        job.process_count == 1,
        f"--smoke with --workdir={workdir}: the data set that it records would not be on all hosts. Set data.path to "
        "one that they have, or use a workdir on a file system that they share.",
    )
    return Path(tempfile.gettempdir(), f"podrl-{os.getuid()}-{hash_text(workdir.encode())}{SUFFIX}")


def _record(config: Config, folder: Path, steps: int, ledger: Ledger) -> None:
    (number,) = numbers_of_evaluation(config, 1, beside_run=True)
    config, source, _ = load_environment(config, number)
    protocol = evaluation_protocol(source, config.env, env_number=number)
    spec = source.make_spec(with_number(protocol.env, number))

    def open_pool(seeds: Sequence[int]) -> Pool:
        numbers = range(number, number + len(seeds))
        return make_pool(source, protocol.env, seeds=seeds, env_numbers=numbers, num_threads=1)

    def beat(episodes: int, step: int) -> None:
        with ledger.spend("env"):  # Shows the watchdog that there is progress.
            pass

    with DataWriter(folder, DataSpec(env=spec, settings=to_plain(dataclasses.asdict(protocol.env)))) as writer:
        if writer.begin({"policy": RANDOM, "steps": steps, "seed": config.seed}) is None:
            return  # It is there already.
        play_whole_episodes(
            uniform_policy(spec),
            open_pool,
            num_envs=_NUM_ENVS,
            steps=steps,
            seed=config.seed,
            stream=0,
            emit=writer.add,
            show_progress=EndlessGuard(protocol, beat),
        )
        writer.end()
