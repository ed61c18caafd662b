"""From saved runs to a data set: plays a mixture of policies and writes whole episodes.

Every part of a mixture is a recording with seeds of its own. What is written depends on the parts, the steps and the
seed alone, so a command that was cut short is repeated: it plays anew and leaves out what is already there.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from pathlib import Path
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from podrl.config.config import check
from podrl.config.config_dict import to_plain
from podrl.config.env_numbers import with_number
from podrl.data.manifest import DataSpec, describe_policy
from podrl.data.playing import FixedPolicy, agent_policy, play_whole_episodes, uniform_policy
from podrl.data.recorded import RecordedEpisode
from podrl.data.writer import DataWriter
from podrl.envs.opening import make_pool
from podrl.envs.source import EvaluationProtocol, Pool
from podrl.evaluation.endless import EndlessGuard, check_ends
from podrl.evaluation.episodes import numbers_of_evaluation
from podrl.evaluation.play import check_same_interface
from podrl.ops.fingerprint import fingerprint, to_hex
from podrl.runs import inspection
from podrl.runs.checkpoint_arrays import whole_steps
from podrl.runs.checkpoint_replay import has_replay
from podrl.runs.replay_export import export_replay
from podrl.runtime.machine import available_cores
from podrl.saved_run import SavedRun, limited_protocol, open_run

RANDOM = "random"
_PROGRESS_S = 10.0


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a mixture.

    Attributes:
        run: A run's folder, or `RANDOM` for uniform actions.
        update: The update of its checkpoint; None for the newest.
        share: Its share of the steps.
    """

    run: str
    update: int | None
    share: float


def record_mixture(
    parts: Sequence[Part],
    workdir: str,
    folder: Path,
    *,
    steps: int,
    seed: int,
    num_envs: int,
    max_episode_steps: int = 0,
) -> None:
    """Plays every part of a mixture and appends its episodes to a data set.

    Args:
        parts: Who acts.
        workdir: The folder of the run whose environment is played.
        folder: The data set's folder.
        steps: Steps of all parts together, at least.
        seed: Seed of environments and policies.
        num_envs: Environments that are played at once; fewer for a part of few steps.
        max_episode_steps: Time limit where the environment has none; 0 for none.

    Raises:
        ConfigError: If a run, the environment or the folder does not fit.
        CheckpointError: If a checkpoint is damaged.
        DataError: If the data set is.
    """
    for part in parts:
        check(
            round(steps * part.share) >= 1,
            f"--steps={steps} leaves no step to {part.run}, whose share is {part.share:g}. Ask for more steps, or give "
            "it a larger share.",
        )
    device = jax.local_devices()[0]
    runs = {(part.run, part.update): open_run(part.run, part.update, device) for part in parts if part.run != RANDOM}
    saved = next((run for (name, _), run in runs.items() if name == workdir), None) or open_run(workdir, None, device)
    (number,) = numbers_of_evaluation(saved.config, 1, beside_run=True)
    protocol = limited_protocol(saved, max_episode_steps, number)
    for (name, _), run in runs.items():
        _check_same_env(name, run, workdir, saved)
    spec = saved.source.make_spec(with_number(protocol.env, number))
    check_same_interface(saved.spec, spec, protocol)
    remedy = "Add --max_episode_steps=N to cut episodes off."
    check_ends(saved.source, saved.spec, protocol, seed=seed, remedy=remedy, env_number=number)
    played = [_policy(part, runs.get((part.run, part.update)), saved, device) for part in parts]
    behaviour = played[0].behaviour if all(each.behaviour == played[0].behaviour for each in played) else ()
    data_spec = DataSpec(env=spec, behaviour=behaviour, settings=to_plain(dataclasses.asdict(protocol.env)))
    with DataWriter(folder, data_spec) as writer:
        for stream, (part, policy) in enumerate(zip(parts, played, strict=True)):
            share = round(steps * part.share)
            facts = {
                **_facts(part, runs.get((part.run, part.update))),
                **{"steps": share, "seed": seed, "stream": stream, "num_envs": min(num_envs, share)},
                "max_episode_steps": protocol.max_episode_steps,
            }
            _record(writer, policy, facts, _opener(saved, protocol), protocol)
        _tell_size(folder, writer)


def record_replay(workdir: str, folder: Path) -> None:
    """Appends what is in the newest replay that a run has kept to a data set.

    Raises:
        ConfigError: If the run has no replay, or the folder does not fit.
        CheckpointError: If the checkpoint is damaged.
        DataError: If the data set is.
    """
    run = inspection.find_run(workdir)
    kept = [step for step in whole_steps(run) if has_replay(run, step)]
    check(bool(kept), f"--from_replay: no checkpoint in {workdir} has a replay. A run with replay keeps its newest.")
    saved = open_run(workdir, kept[-1], jax.local_devices()[0])
    episodes = export_replay(workdir, kept[-1], folder, saved.spec, agent=saved.config.agent.name)
    logging.info("%s has %s episodes, parts included.", folder, f"{episodes:,}")


def _record(
    writer: DataWriter,
    policy: FixedPolicy,
    facts: Mapping[str, Any],
    open_pool: Callable[[Sequence[int]], Pool],
    protocol: EvaluationProtocol,
) -> None:
    """Plays and writes one part, except what is already there."""
    there = writer.begin(facts)
    if there is None:
        logging.info("%s: its episodes are already there.", describe_policy(facts))
        return
    if there:
        logging.info("%s: %s episodes are already there.", describe_policy(facts), f"{there:,}")
    has_behaviour = bool(jax.tree.leaves(writer.manifest.spec.behaviour))

    def emit(episode: RecordedEpisode) -> None:
        writer.add(episode if has_behaviour else dataclasses.replace(episode, behaviour=()))

    play_whole_episodes(
        policy,
        open_pool,
        num_envs=facts["num_envs"],
        steps=facts["steps"],
        seed=facts["seed"],
        stream=facts["stream"],
        emit=emit,
        show_progress=EndlessGuard(protocol, _Progress(facts)),
    )
    writer.end()


class _Progress:
    """Logs the progress of a long recording every few seconds."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts, self._last_s = facts, time.monotonic()

    def __call__(self, episodes: int, step: int) -> None:
        if time.monotonic() - self._last_s >= _PROGRESS_S:
            self._last_s = time.monotonic()
            steps = step * self._facts["num_envs"]
            logging.info("%s: %s episodes, step %s", describe_policy(self._facts), f"{episodes:,}", f"{steps:,}")


def _opener(saved: SavedRun, protocol: EvaluationProtocol) -> Callable[[Sequence[int]], Pool]:
    """Returns what opens environments, given their seeds."""

    def open_pool(seeds: Sequence[int]) -> Pool:
        first = numbers_of_evaluation(saved.config, 1, beside_run=True)[0]
        numbers = range(first, first + len(seeds))
        return make_pool(saved.source, protocol.env, seeds=seeds, env_numbers=numbers, num_threads=available_cores())

    return open_pool


def _policy(part: Part, run: SavedRun | None, saved: SavedRun, device: jax.Device) -> FixedPolicy:
    if run is None:
        return uniform_policy(saved.spec)
    return agent_policy(run.agent, saved.spec, run.params, run.counters.learner_steps, device)


def _facts(part: Part, run: SavedRun | None) -> dict[str, Any]:
    """Returns who acts, without a path of this machine; the parameters tell runs of one name apart."""
    if run is None:
        return {"policy": RANDOM}
    return {
        "policy": "sampled",
        "run": Path(part.run).name,
        "agent": run.config.agent.name,
        "update": run.counters.learner_steps,
        "env_steps": run.counters.env_steps,
        "params": to_hex(np.asarray(fingerprint(run.params))),
    }


def _check_same_env(name: str, run: SavedRun, workdir: str, saved: SavedRun) -> None:
    """Raises `ConfigError` unless both runs are of one environment."""
    env, expected = run.config.env, saved.config.env
    check(
        (env.source, env.id) == (expected.source, expected.id),
        f"{name} plays {env.id} of env.source={env.source}, and {workdir} plays {expected.id} of {expected.source}. A "
        "data set has one environment.",
    )
    check(
        (run.spec.observation, run.spec.actions) == (saved.spec.observation, saved.spec.actions),
        f"{name} observes or acts otherwise than {workdir}: {run.spec.observation} and {run.spec.actions}, against "
        f"{saved.spec.observation} and {saved.spec.actions}. A data set has one environment.",
    )


def _tell_size(folder: Path, writer: DataWriter) -> None:
    shards = writer.manifest.shards
    episodes = sum(shard.episodes for shard in shards)
    steps = sum(shard.rows for shard in shards) - episodes
    logging.info("%s has %s episodes of %s steps in all.", folder, f"{episodes:,}", f"{steps:,}")
