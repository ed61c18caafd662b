"""Atari games that EnvPool and ALE show differently."""

from collections.abc import Mapping
from typing import Any

# Their screens have more than 210 rows, of which EnvPool shows the first 210 and ALE's own preprocessing all.
TALL_GAMES = (
    *("Adventure", "AirRaid", "Carnival", "JourneyEscape", "KeystoneKapers", "KingKong", "Klax", "LaserGates"),
    *("MrDo", "Pacman", "Pooyan", "SirLancelot", "SpaceWar"),
)
_SOURCES = {"envpool", "ale"}


def describe_other_screen(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """A warning for an agent that meets its game in the other of the two sources; empty if it sees what it saw.

    Args:
        before: the section `env` of the config with which it was trained.
        now: of the one with which it goes on.
    """
    sources, game = (before.get("source"), now.get("source")), str(now.get("id")).partition("-v")[0]
    if set(sources) != _SOURCES or before.get("id") != now.get("id") or game not in TALL_GAMES:
        return ""
    return (
        f"The agent was trained on {now['id']} of env.source={sources[0]!r} and sees another screen with "
        f"env.source={sources[1]!r}: of this game's rows EnvPool shows the first 210, and ALE all."
    )
