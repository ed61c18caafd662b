"""Scores of a suite's runs: read from what each run left, with the protocol by which they were made."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
from typing import Any

from podrl.config.config import check
from podrl.evaluation.evaluator import ROW_KEY
from podrl.evaluation.suites import Scale, find_scale, read_scales
from podrl.mistakes import shorten
from podrl.runs.records import Rows
from podrl.studies.conduct import read_points
from podrl.studies.execution import order
from podrl.studies.folder import Folder
from podrl.studies.grid import Manner, Trial
from podrl.studies.suite_protocol import describe_apart
from podrl.studies.summary import RunRecord

SCORES = ("evaluation", "training")
SCALES = "scales.json"  # A user's own, beside the manifest.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteScores:
    """What a suite came to so far."""

    name: str  # of its config
    records: Sequence[RunRecord]  # all runs, complete or not
    scores: Mapping[str, Sequence[float]]  # returns by game, one for each seed that is complete
    protocols: Mapping[str, Mapping[str, Any]]  # how they were made, by game
    budget: Mapping[str, int]  # env steps and frames of a run

    @property
    def games(self) -> list[str]:
        """All games, in the order of the command."""
        return list(dict.fromkeys(game_of(record.trial) for record in self.records))


def game_of(trial: Trial) -> str:
    """The id of the environment that a run plays."""
    return str(trial.point.config.env.id)


def score_run(folder: Folder, trial: Trial) -> dict[str, Any]:
    """The scores of a run, by seed, and their protocol.

    Raises:
        RuntimeError: If it left no score: no episode has ended.
    """
    definition = folder.read_definition()
    by_evaluation = definition.score != "training"
    scores = {}
    for seed in trial.seeds:
        own = folder.run_folder(trial) / (f"seed-{seed}" if trial.num_seeds > 1 else "")
        row = _last_row(Rows(own / "metrics.jsonl"), ROW_KEY if by_evaluation else "episode/return")
        if row is None or (by_evaluation and row["learner_steps"] < trial.point.config.num_updates):
            what = "no evaluation of its last update" if by_evaluation else "no episode that has ended"
            raise RuntimeError(f"it left {what}, and so no score of seed {seed}. See docs/suites.md.")
        score = row[ROW_KEY] if by_evaluation else row["episode/return"]
        scores[str(seed)] = {"score": score} | {name: row[name] for name in ("env_steps", "frames")}
    (protocol,) = describe_apart([trial.point.config], str(definition.score))
    return {"scores": scores, "protocol": protocol}


def _last_row(rows: Rows, name: str) -> Mapping[str, Any] | None:
    found = None
    for row in rows.fields(name, "learner_steps", "env_steps", "frames"):
        found = row if row.get(name) is not None else found
    return found


def read_suite(folder: Folder, manner: Manner) -> SuiteScores:
    """What a suite's folder has so far.

    Raises:
        ConfigError: If the folder is not that of a suite.
    """
    definition = folder.read_definition()
    check(
        definition.score is not None, f"{folder.flag}={folder.path} is the folder of a scaling study, not of a suite."
    )
    games = [game for (game,) in definition.axes[0].values]
    trials = order(read_points(folder, manner), definition)
    trials.sort(key=lambda trial: (games.index(game_of(trial)), trial.seed))
    records = [RunRecord(trial=each, status=folder.status(each), folder=folder.run_path(each)) for each in trials]
    scores: dict[str, list[float]] = {}
    protocols: dict[str, dict[str, Any]] = {}
    for record in records:
        for _, found in seeds_of(record):
            scores.setdefault(game_of(record.trial), []).append(found["score"])
            protocols[game_of(record.trial)] = record.status.facts["protocol"]
    left = {game_of(each.trial): each.trial.point.config for each in records if game_of(each.trial) not in protocols}
    protocols |= zip(left, describe_apart(list(left.values()), str(definition.score)), strict=True)
    config = records[0].trial.point.config
    steps = config.num_updates * config.env_steps_per_update
    return SuiteScores(
        name=config.name, records=records, scores=scores, protocols=protocols, budget={"env steps": steps}
    )


def seeds_of(record: RunRecord) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Seeds of a complete run, each with its score, env steps and frames; none of another."""
    for seed, found in record.status.facts.get("scores", {}).items():
        yield int(seed), found


def find_scales(folder: Folder, games: Sequence[str]) -> dict[str, Scale]:
    """The scales of the games that have one: the user's own of this folder, then those that podrl has."""
    own = read_scales(folder.path / SCALES) if (folder.path / SCALES).exists() else {}
    known = {game: own.get(game) or find_scale(game) for game in games}
    return {game: scale for game, scale in known.items() if scale is not None}


def check_comparable(suite: SuiteScores, other: SuiteScores, path: Any) -> None:
    """Raises ConfigError unless two suites share games, and play them by the same protocol."""
    shared = [game for game in suite.games if game in other.protocols]
    check(
        bool(shared), f"--compare={path} has none of these games, but {shorten(other.games)}. Compare the same games."
    )
    for game in shared:
        mine, theirs = suite.protocols[game], other.protocols[game]
        names = [name for name in {**mine, **theirs} if _plain(mine.get(name)) != _plain(theirs.get(name))]
        differ = [f"{name}: here {mine.get(name)}, there {theirs.get(name)}" for name in names]
        check(
            not differ,
            f"--compare={path} was scored by another protocol than --workdir, on {game}: {shorten(differ)}. Run both "
            "suites by the same protocol.",
        )


def _plain(value: Any) -> Any:
    """A value as JSON keeps it."""
    return json.loads(json.dumps(value))
