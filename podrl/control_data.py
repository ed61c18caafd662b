"""Data sets of one run that learned to control a robot, for offline learning.

`random` plays every action alike, `expert` is the best of the run's checkpoints, and `medium` the one whose return is
closest to a third of the way between them. `mixed` has 10 % expert steps, and the rest is random and medium alike.
`replay` is what the run's replay holds.

Source: Fu et al. 2020, D4RL, arXiv:2004.07219, section 4 (random, medium, replay, expert).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
import jax

from podrl.config.config import check
from podrl.data.data_set import open_data
from podrl.envs.opening import make_pool
from podrl.envs.source import Pool
from podrl.evaluation.episodes import numbers_of_evaluation
from podrl.evaluation.play import make_player
from podrl.evaluation.reference import Reference, write_reference
from podrl.recording import RANDOM, Part, record_mixture, record_replay
from podrl.runs import inspection
from podrl.runs.checkpoint_arrays import whole_steps
from podrl.runs.checkpoint_replay import has_replay
from podrl.runtime.machine import available_cores
from podrl.saved_run import limited_protocol, open_run

MEDIUM_AT = 1 / 3  # Share of the way from random to expert.
EXPERT_SHARE = 0.1  # Share of the steps of `mixed`.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlPlan:
    """How much is played.

    Attributes:
        steps: Steps of each set, at least; `replay` has what there is.
        seed: Seed of the first set; others have the numbers behind it.
        num_envs: Environments that are played at once.
        episodes: Greedy episodes by which checkpoints are compared.
        max_episode_steps: Time limit where the environment has none; 0 for none.
    """

    steps: int
    seed: int
    num_envs: int
    episodes: int
    max_episode_steps: int = 0


class SetSummary(NamedTuple):
    """A set that was made: its name, episodes and steps, the mean return of whole episodes, and the normalised one."""

    name: str
    policy: str
    episodes: int
    steps: int
    mean_return: float
    normalised: float


def make_control_data(workdir: str, folder: Path, plan: ControlPlan, command: str) -> list[SetSummary]:
    """Writes the sets of a run into folders of their own in `folder`, and `reference.json` beside them.

    Repeated after it was cut short, it keeps what was written.

    Args:
        workdir: The run's folder.
        folder: Where the sets go.
        plan: How much is played.
        command: The command, for the reference.

    Raises:
        ConfigError: If the run's checkpoints do not differ enough, or a folder does not fit.
        CheckpointError: If a checkpoint is damaged.
        DataError: If a data set is.
    """
    run = inspection.find_run(workdir)
    updates = whole_steps(run)
    check(
        len(updates) > 1,
        f"--workdir={workdir} has {len(updates)} checkpoint(s); `medium` and `expert` are two of them. Train with "
        "--config.checkpoint.keep_every=N, or a larger checkpoint.keep.",
    )
    folder.mkdir(parents=True, exist_ok=True)
    random = Part(RANDOM, None, 1.0)
    _record(workdir, folder / "random", [random], plan, 0)
    scores = {update: greedy_return(workdir, update, plan) for update in updates}
    reference = Reference(
        env_id=open_data(folder / "random").spec.env.id,
        random=_mean_return(folder / "random"),
        expert=max(scores.values()),
    )
    medium, expert = choose(scores, reference.random)
    _write_once(folder / "reference.json", reference, {"checkpoints": [medium, expert], "from": command})
    for update, score in scores.items():
        which = {medium: ", medium", expert: ", expert"}.get(update, "")
        logging.info("Update %s: greedy return %.2f%s", f"{update:,}", score, which)
    _record(workdir, folder / "medium", [Part(workdir, medium, 1.0)], plan, 1)
    _record(workdir, folder / "expert", [Part(workdir, expert, 1.0)], plan, 2)
    low = (1 - EXPERT_SHARE) / 2
    mixed = [Part(RANDOM, None, low), Part(workdir, medium, low), Part(workdir, expert, EXPERT_SHARE)]
    _record(workdir, folder / "mixed", mixed, plan, 3)
    names = {"random": RANDOM, "medium": f"@{medium}", "expert": f"@{expert}", "mixed": "random, medium, expert"}
    if any(has_replay(run, update) for update in whole_steps(run)):  # A run in progress has others by now.
        record_replay(workdir, folder / "replay")
        names["replay"] = "all until its newest checkpoint"
    return [_summarise(folder / name, policy, reference) for name, policy in names.items()]


def _write_once(path: Path, reference: Reference, facts: Mapping[str, Any]) -> None:
    """Writes the reference, which another one must not have been: a run that has trained on has another expert."""
    if path.exists():
        before = json.loads(path.read_text()).get("checkpoints")
        check(
            before == facts["checkpoints"],
            f"{path.parent} has medium and expert sets of checkpoints {before}; these are now {facts['checkpoints']}. "
            "Name another folder.",
        )
    write_reference(path, reference, facts)


def choose(scores: Mapping[int, float], random: float) -> tuple[int, int]:
    """Returns the updates of the medium and of the expert checkpoint, given the return of each.

    Raises:
        ConfigError: If no checkpoint is better than random play, or one is both.
    """
    expert = max(scores, key=lambda update: (scores[update], update))
    check(
        scores[expert] > random,
        f"The best checkpoint returns {scores[expert]:.2f}, and random play {random:.2f}. Train longer.",
    )
    wanted = random + MEDIUM_AT * (scores[expert] - random)
    medium = min(scores, key=lambda update: (abs(scores[update] - wanted), update))
    check(
        medium != expert,
        f"No checkpoint is closer to a third of the expert's return than the expert, of update {expert}. Keep "
        "checkpoints of an earlier time: --config.checkpoint.keep_every=N.",
    )
    return medium, expert


def greedy_return(workdir: str, update: int, plan: ControlPlan) -> float:
    """Plays greedy episodes with a checkpoint, as tools/evaluate.py does, and returns their mean return."""
    device = jax.local_devices()[0]
    saved = open_run(workdir, update, device)
    (number,) = numbers_of_evaluation(saved.config, 1, beside_run=True)
    protocol = limited_protocol(saved, plan.max_episode_steps, number)

    def open_pool(seeds: Sequence[int]) -> Pool:
        numbers = numbers_of_evaluation(saved.config, len(seeds), beside_run=True)
        return make_pool(saved.source, protocol.env, seeds=seeds, env_numbers=numbers, num_threads=available_cores())

    player = make_player(
        saved.agent, saved.spec, policy="greedy", episodes=plan.episodes, device=device, make_pool=open_pool
    )
    return float(player.play(saved.params, plan.seed).returns.mean())


def _record(workdir: str, folder: Path, parts: Sequence[Part], plan: ControlPlan, number: int) -> None:
    """Records one set, with a seed of its own: none has episodes of another."""
    record_mixture(
        parts,
        workdir,
        folder,
        steps=plan.steps,
        seed=plan.seed + number,
        num_envs=plan.num_envs,
        max_episode_steps=plan.max_episode_steps,
    )


def _mean_return(folder: Path) -> float:
    facts = open_data(folder).facts
    return float(facts.episode_return[facts.is_whole].mean())


def _summarise(folder: Path, policy: str, reference: Reference) -> SetSummary:
    facts = open_data(folder).facts
    mean = _mean_return(folder)
    return SetSummary(
        name=folder.name,
        policy=policy,
        episodes=len(facts.length),
        steps=int(facts.length.sum()),
        mean_return=mean,
        normalised=reference.normalise(mean),
    )
