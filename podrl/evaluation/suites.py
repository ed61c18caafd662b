"""Suites of games, the scales that make returns of different games comparable, and published scores.

A scale puts a return between 0, uniformly random play, and 1, a reference: a human tester for Atari, the highest
possible return for DM Control and MiniGrid, an agent for MinAtar. The data name their sources: `atari_scores.json`,
`suites.json` and `baselines.json`.
"""

from collections.abc import Mapping
import dataclasses
import difflib
import functools
import importlib.resources
import json
import math
from pathlib import Path
import re
from typing import Any

from podrl.config.config import ConfigError, check, did_you_mean

_ATARI_ID = re.compile(r"(?:ALE/)?(\w+)-v5")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """What returns of a game are measured by."""

    random: float  # mean return of uniformly random play, which scores 0
    reference: float  # return that scores 1
    name: str  # what the reference is, such as `the human tester`

    def normalise(self, score: float) -> float:
        """Returns (score - random) / (reference - random)."""
        return (score - self.random) / (self.reference - self.random)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """Scores that were published."""

    name: str  # of the agent
    protocol: str  # how they were made
    source: str  # where they are from
    scores: Mapping[str, tuple[float, ...]]  # by game: of each seed, or one mean over seeds


def suite_games(text: str) -> list[str]:
    """The environments that `--games` names: suites and ids, separated by commas.

    Raises:
        ConfigError: If a name is almost that of a suite, or a game comes twice. Ids are left to the source.
    """
    suites = _read("suites.json")["suites"]
    games: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        check(
            name in suites or not difflib.get_close_matches(name, suites, n=1),
            f"--games: {name!r} is no suite{did_you_mean(name, suites)} Suites: {', '.join(suites)}; or ids of "
            "environments, separated by commas.",
        )
        games += suites[name]["games"] if name in suites else [name]
    check(bool(games), f"--games={text} names no game. Suites: {', '.join(suites)}.")
    twice = sorted({game for game in games if games.count(game) > 1})
    check(not twice, f"--games={text} has {', '.join(twice)} twice. Give each game once.")
    return games


def find_scale(env_id: str) -> Scale | None:
    """The scale of a game of the suites; None for other environments."""
    if match := _ATARI_ID.fullmatch(env_id):
        game = _read("atari_scores.json")["games"].get(match[1])
        return Scale(random=game["random"], reference=game["human"], name="the human tester") if game else None
    for suite in _read("suites.json")["suites"].values():
        random = suite.get("random", {}).get(env_id)
        if random is not None:
            reference = suite["reference"]
            value = reference["scores"].get(env_id) if "scores" in reference else reference["score"]
            return None if value is None else Scale(random=random, reference=value, name=reference["name"])
    return None


def scale_sources() -> dict[str, str]:
    """Where the scales are from, by the name of the reference."""
    suites = _read("suites.json")["suites"].values()
    found = {suite["reference"]["name"]: suite["reference"]["source"] for suite in suites if "reference" in suite}
    return {"the human tester": _read("atari_scores.json")["source"], **found}


def read_scales(path: Path) -> dict[str, Scale]:
    """Scales of a user's own games: JSON with `random`, `reference` and, if it has one, a `name` for each id.

    Raises:
        ConfigError: If the file is anything else; the message names it.
    """
    expected = 'expected JSON such as {"Catch-v0": {"random": -0.6, "reference": 1.0}}'
    try:
        games = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--scales={path} cannot be read ({error}); {expected}.") from None
    check(isinstance(games, dict), f"--scales={path} is no dictionary of scales; {expected}.")
    return {game: _read_scale(path, game, values, expected) for game, values in games.items()}


def _read_scale(path: Path, game: str, values: Any, expected: str) -> Scale:
    fields = values if isinstance(values, dict) else {}
    random, reference = fields.get("random"), fields.get("reference")
    is_whole = all(isinstance(number, int | float) and math.isfinite(number) for number in (random, reference))
    check(is_whole, f"--scales={path}: {game} is no scale; {expected}.")
    check(random != reference, f"--scales={path}: random and reference of {game} are the same, {random}.")
    name = str(fields.get("name", "reference"))
    return Scale(random=float(fields["random"]), reference=float(fields["reference"]), name=name)


def find_baselines(games: list[str]) -> list[Baseline]:
    """The published scores that there are of all these games, without those of others."""
    names = {game: match[1] if (match := _ATARI_ID.fullmatch(game)) else game for game in games}
    found = []
    for each in _read("baselines.json")["baselines"]:
        if all(name in each["scores"] for name in names.values()):
            scores = {game: tuple(each["scores"][name]) for game, name in names.items()}
            found.append(Baseline(**{**each, "scores": scores}))
    return found


@functools.cache
def _read(name: str) -> Any:
    return json.loads(importlib.resources.files("podrl.evaluation").joinpath(name).read_text())
