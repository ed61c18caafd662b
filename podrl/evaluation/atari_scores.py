"""Scores of random play and of a human tester on Atari's 57 games, which make scores of different games comparable.

The table and its source are in `atari_scores.json`.
"""

from collections.abc import Mapping
import functools
import importlib.resources
import json
import re


def human_normalised(env_id: str, score: float) -> float | None:
    """Returns a score between 0 for uniformly random play and 1 for the human tester; None for other environments.

    Args:
        env_id: an environment's id, such as `MontezumaRevenge-v5` or `ALE/Pong-v5`.
        score: the return of a whole game, not clipped.

    Source: Mnih et al. 2015, Nature 518.
    """
    match = re.fullmatch(r"(?:ALE/)?(\w+)-v5", env_id)
    game = _games().get(match[1]) if match else None
    return (score - game["random"]) / (game["human"] - game["random"]) if game else None


@functools.cache
def _games() -> Mapping[str, Mapping[str, float]]:
    """Returns the `random` and `human` scores by the game's name in EnvPool."""
    table = importlib.resources.files("podrl.evaluation").joinpath("atari_scores.json").read_text()
    return json.loads(table)["games"]
