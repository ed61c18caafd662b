"""Atari games whose screens differ between EnvPool and ALE."""

from collections.abc import Mapping
from typing import Any

# Screens of more than 210 rows: EnvPool shows the first 210, ALE's own preprocessing all.
TALL_GAMES = (
    *("Adventure", "AirRaid", "Carnival", "JourneyEscape", "KeystoneKapers", "KingKong", "Klax", "LaserGates"),
    *("MrDo", "Pacman", "Pooyan", "SirLancelot", "SpaceWar"),
)
_SOURCES = {"envpool", "ale"}


def describe_other_screen(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns a warning if the agent's game looks different in its new source; otherwise an empty text.

    Args:
        before: section `env` of the config with which the agent was trained.
        now: section `env` of the config with which it continues.
    """
    sources, game = (before.get("source"), now.get("source")), str(now.get("id")).partition("-v")[0]
    if set(sources) != _SOURCES or before.get("id") != now.get("id") or game not in TALL_GAMES:
        return ""
    return (
        f"The agent was trained on {now['id']} of env.source={sources[0]!r} and sees another screen with "
        f"env.source={sources[1]!r}: of this game's rows EnvPool shows the first 210, and ALE all."
    )
