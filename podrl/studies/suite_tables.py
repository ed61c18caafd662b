"""What a suite's report shows: normalised scores of suites and publications side by side, as records and as tables."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from podrl.evaluation.suites import Baseline, Scale, find_baselines
from podrl.studies.suite_figures import Contender
from podrl.studies.suite_scores import SuiteScores, game_of, seeds_of
from podrl.studies.suite_statistics import AGGREGATES, estimate_over_games, probability_of_improvement
from podrl.studies.summary import Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """All that a report shows: this suite first, then those it is compared with, then published scores."""

    suites: Sequence[SuiteScores]
    baselines: Sequence[Baseline]
    scales: Mapping[str, Scale]
    games: Sequence[str]  # with a scale and a complete run in every suite
    contenders: Sequence[Contender]
    improvement: Mapping[str, Estimate]  # how likely this suite's runs are to beat another's, by its name

    @property
    def scale(self) -> str:
        """What a score says."""
        names = dict.fromkeys(self.scales[game].name for game in self.games)
        return f"0 is random play, 1 is {' or '.join(names)}"


def compare_suites(suites: Sequence[SuiteScores], scales: Mapping[str, Scale]) -> Standing:
    """Normalises the scores of suites by these scales, on the games that all suites have, with those published."""
    names = [
        f"{suite.name} ({number})" if _is_twice(suites, suite) else suite.name
        for number, suite in enumerate(suites, start=1)
    ]
    suites = [dataclasses.replace(suite, name=name) for suite, name in zip(suites, names, strict=True)]
    games = [game for game in suites[0].games if game in scales and all(game in each.scores for each in suites)]
    baselines = find_baselines(games) if games else []
    given = [(each.name, each.scores, False) for each in suites] + [(b.name, b.scores, True) for b in baselines]
    contenders = [
        Contender(
            name=name,
            scores={game: np.array([scales[game].normalise(x) for x in scores[game]]) for game in games},
            is_published=is_published,
        )
        for name, scores, is_published in given
    ]
    improvement = {each.name: _improvement(contenders[0], each) for each in contenders[1 : len(suites)] if games}
    return Standing(
        suites=suites,
        baselines=baselines,
        scales=scales,
        games=games,
        contenders=contenders,
        improvement=improvement,
    )


def _is_twice(suites: Sequence[SuiteScores], suite: SuiteScores) -> bool:
    return [each.name for each in suites].count(suite.name) > 1


def _improvement(mine: Contender, other: Contender) -> Estimate:
    count = len(mine.games)
    both = [*mine.games, *other.games]
    return estimate_over_games(both, lambda games: probability_of_improvement(games[:count], games[count:]))


def make_score_table(standing: Standing) -> list[dict[str, Any]]:
    """A row for each game and seed of all suites, also without a score."""
    rows = []
    for suite in standing.suites:
        for record in suite.records:
            game, found = game_of(record.trial), dict(seeds_of(record))
            for seed in record.trial.seeds:
                scale, own = standing.scales.get(game), found.get(seed, {})
                normalised = scale.normalise(own["score"]) if scale and own else None
                row = {"suite": suite.name, "game": game, "seed": seed, "status": record.status.word}
                values = {name: own.get(name) for name in ("score", "env_steps", "frames")}
                text = record.status.facts.get("text")
                rows.append({**row, **values, "normalised": normalised, "message": text, "folder": record.folder})
    return rows


def make_aggregate_table(standing: Standing) -> list[dict[str, Any]]:
    """A row for each suite or publication and each statistic."""
    rows = []
    for each in standing.contenders if standing.games else ():
        found = {name: estimate_over_games(each.games, statistic) for name, statistic in AGGREGATES.items()}
        if each.name in standing.improvement:
            found[f"probability that {standing.contenders[0].name} is better"] = standing.improvement[each.name]
        kind = "published" if each.is_published else "suite"
        for name, estimate in found.items():
            row = {"name": each.name, "kind": kind, "games": len(standing.games), "statistic": name}
            rows.append({**row, "value": estimate.mean, "low": estimate.low, "high": estimate.high})
    return rows
