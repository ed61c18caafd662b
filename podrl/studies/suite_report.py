"""The report of a suite: its numbers, figures, tables, and one HTML file that needs nothing beside it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from absl import logging
import numpy as np

from podrl.evaluation.suites import scale_sources
from podrl.mistakes import shorten
from podrl.runtime.tables import encode_table
from podrl.studies.conclusions import with_interval
from podrl.studies.conduct import REPORT, tell_end
from podrl.studies.folder import WORDS, Folder
from podrl.studies.grid import Manner
from podrl.studies.page import define_terms, embed, fill_page, tabulate, wrap_each
from podrl.studies.suite_figures import draw_suite
from podrl.studies.suite_scores import SuiteScores, check_comparable, find_scales, read_suite
from podrl.studies.suite_statistics import AGGREGATES, estimate_over_games
from podrl.studies.suite_tables import Standing, compare_suites, make_aggregate_table, make_score_table
from podrl.studies.summary import Estimate

_FEW_SEEDS = 5
_CAPTIONS = {
    "aggregates": "Statistics over all games. Strokes are estimates, bars 95 % intervals. The interquartile mean (IQM) "
    "is the mean of the middle half of all runs; the optimality gap is how far runs are below 1 on average.",
    "profile": "Performance profiles: the share of runs whose score is higher than the one on the axis, the mean over "
    "games. Bands are 95 % intervals; published scores are dashed. The higher curve is the better.",
    "games": "Each game. Dots are seeds, strokes their means; 0 is random play, 1 the reference.",
}
_FOUND = Template("""<h2>Over all games</h2>
<div class="wide">$aggregates</div>
$figures
<h2>Each game</h2>
<div class="wide">$games</div>
<p class="note">Returns: mean (lowest to highest seed). Every run is a row of $runs, every statistic one of $table.</p>
<h2>How scores are made</h2>
<dl>$protocol</dl>
<h2>How to read this</h2>
<ul>$caveats</ul>
<h2>Published scores and scales</h2>
<dl>$sources</dl>""")


def report_suite(
    folder: Folder, manner: Manner, *, compared: Sequence[str] = (), prepare: Callable[[Folder], None]
) -> int:
    """Writes tables, figures and the report of what there is so far, beside the suites in the folders `compared`.

    `prepare` writes scales of a user's own into the folder, once nothing is left to refuse.

    Returns:
        The exit code: 1 if a run is not complete.

    Raises:
        ConfigError: If a folder is not that of a suite, or its scores cannot be compared.
    """
    suite = read_suite(folder, manner)
    others = [read_suite(Folder(path, flag="--compare"), manner) for path in compared]
    for path, other in zip(compared, others, strict=True):
        check_comparable(suite, other, path)
    prepare(folder)
    standing = compare_suites([suite, *others], find_scales(folder, suite.games))
    tables = {
        f"scores.{manner.table}": make_score_table(standing),
        f"aggregates.{manner.table}": make_aggregate_table(standing),
    }
    for name, rows in tables.items():
        (folder.path / name).write_bytes(encode_table(rows, manner.table))
    figures = draw_suite(standing.contenders, standing.scale)
    (folder.path / "figures").mkdir(exist_ok=True)
    for name, image in figures.items():
        (folder.path / "figures" / f"{name}.png").write_bytes(image)
    page = _make_page(folder.read_manifest(), standing, figures, list(tables))
    (folder.path / REPORT).write_text(page)
    for line in _answer(standing):
        logging.info("%s", line)
    return tell_end(folder, suite.records)


def _make_page(
    manifest: Mapping[str, Any], standing: Standing, figures: Mapping[str, bytes], files: Sequence[str]
) -> str:
    suite, starts, definition = standing.suites[0], manifest["starts"], manifest["definition"]
    words = [record.status.word for record in suite.records]
    counts = ", ".join(f"{words.count(word)} {word}" for word in WORDS if word in words)
    several = " of several seeds each" if definition["together"] else ""
    facts = {
        "config": f"{definition['config']}: {manifest['config']['agent']['name']}",
        "each run": ", ".join(f"{count:,} {what}" for what, count in suite.budget.items()),
        "seeds": ", ".join(map(str, definition["seeds"])),
    }
    sources = {each.name: f"{each.protocol}. {each.source}" for each in standing.baselines}
    names = {scale.name for scale in standing.scales.values()}
    sources |= {f"scale: {name}": text for name, text in scale_sources().items() if name in names}
    found = _FOUND.substitute(
        aggregates=tabulate(_aggregate_cells(standing)),
        figures="".join(embed(name, image, _CAPTIONS[name]) for name, image in figures.items()),
        games=tabulate([_game_cells(standing, game) for game in suite.games]),
        runs=escape(files[0]),
        table=escape(files[1]),
        protocol=define_terms(_describe_protocols(suite)),
        caveats=wrap_each("li", _caveats(standing)),
        sources=define_terms(sources),
    )
    return fill_page(
        manifest,
        suite.records,
        title=f"{suite.name} on {len(suite.games)} games",
        subtitle=f"{len(words)} runs{several}: {counts}. Begun {starts[0]['started']}.",
        answer=_answer(standing),
        found=found,
        facts=facts,
    )


def _answer(standing: Standing) -> list[str]:
    if not standing.games:
        return [
            "No game has both a score and a scale, so there are no statistics. Give --scales FILE for your own games."
        ]
    first = standing.contenders[0]
    found = {name: estimate_over_games(first.games, statistic) for name, statistic in AGGREGATES.items()}
    listed = ", ".join(f"{name} {with_interval(estimate, digits=2)}" for name, estimate in found.items())
    told = [f"{first.name} over {len(standing.games)} games: {listed}; {standing.scale}."]
    for name, estimate in standing.improvement.items():
        chance = with_interval(estimate, percent=True)
        told.append(f"A run of {first.name} is better than one of {name} with a probability of {chance}.")
    return told


def _aggregate_cells(standing: Standing) -> list[dict[str, str]]:
    cells: dict[str, dict[str, str]] = {}
    for row in make_aggregate_table(standing):
        estimate = Estimate(mean=row["value"], low=row["low"], high=row["high"])
        mark = " (published)" if row["kind"] == "published" else ""
        own = cells.setdefault(row["name"], {"": f"{row['name']}{mark}"})
        own[row["statistic"]] = with_interval(estimate, digits=2)
    columns = dict.fromkeys(column for row in cells.values() for column in row)
    return [{column: row.get(column, "") for column in columns} for row in cells.values()]


def _game_cells(standing: Standing, game: str) -> dict[str, str]:
    scale, cells = standing.scales.get(game), {"game": game}
    for suite in standing.suites:
        scores = suite.scores.get(game, ())
        cells[suite.name] = _spread(scores)
        cells[f"{suite.name}, normalised"] = (
            _number(scale.normalise(float(np.mean(scores)))) if scale and scores else ""
        )
    for each in standing.baselines:
        cells[each.name] = _number(np.mean(each.scores[game])) if game in each.scores else ""
    random, reference = ("", "") if scale is None else (_number(scale.random), _number(scale.reference))
    return cells | {"random": random, "reference": reference}


def _spread(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    spread = f" ({_number(min(scores))} to {_number(max(scores))})" if len(scores) > 1 else ""
    return f"{_number(np.mean(scores))}{spread}"


def _number(value: Any) -> str:
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"


def _describe_protocols(suite: SuiteScores) -> dict[str, str]:
    """Facts that all games share, and for others the values by game."""
    names = dict.fromkeys(name for facts in suite.protocols.values() for name in facts)
    found = {}
    for name in names:
        values = {game: str(facts.get(name, "-")) for game, facts in suite.protocols.items()}
        distinct = set(values.values())
        listed = "; ".join(f"{game}: {value}" for game, value in values.items())
        found[name.replace("_", " ")] = distinct.pop() if len(distinct) == 1 else listed
    return found


def _caveats(standing: Standing) -> Iterable[str]:
    suite, most = standing.suites[0], max(map(len, standing.suites[0].scores.values()), default=0)
    yield (
        "Intervals are 95 % stratified bootstrap intervals: seeds are drawn anew within each game (Agarwal et al. "
        "2021, arXiv:2108.13264)."
    )
    if most < 2:
        yield "There is one run of each game, so nothing says how far another would differ: no intervals."
    elif most < _FEW_SEEDS:
        yield f"There are up to {most} seeds: intervals are narrower than they should be. Give {_FEW_SEEDS} or more."
    left = [game for game in suite.games if game not in standing.games]
    if left:
        yield f"Not among the statistics, for lack of a scale or of a complete run: {shorten(left)}."
    if any(each.budget != suite.budget for each in standing.suites):
        listed = "; ".join(f"{each.name}: {each.budget['env steps']:,} env steps" for each in standing.suites)
        yield f"The suites trained for different lengths: {listed}."
    if standing.baselines:
        yield (
            "Published scores were made by their authors' protocols, which differ from this one where said below; a "
            "single mean over seeds counts as one run, so it has no interval and its IQM is that of means."
        )
