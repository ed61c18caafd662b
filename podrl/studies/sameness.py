"""Whether a folder's study is the one that a command asks for, and if not, in what they differ."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from podrl.agents.parts.loading import load_agent
from podrl.config.config import check
from podrl.config.config_dict import differences, with_defaults
from podrl.mistakes import shorten
from podrl.studies.grid import SPLIT

_GRID = ("machines", "axes", "scaling", "seeds")


def check_same(path: epath.Path, before: Mapping[str, Any], now: Mapping[str, Any], *, accept_changes: bool) -> None:
    """Raises ConfigError if a folder's study is another than the one of the manifest that the command would write.

    The grid may be another where `accept_changes` says so.
    """
    grid = _changes(_grid_values(before["definition"]), _grid_values(now["definition"]))
    rest = _other_changes(before, now, same_grid=not grid)
    more = "" if accept_changes or not grid else " (--accept_changes is for the grid only)"
    check(
        not rest,
        f"--workdir={path} holds another study: {_list(rest if accept_changes else rest | grid)}. Give the values that "
        f"it has, or choose another --workdir{more}.",
    )
    check(
        not grid or accept_changes,
        f"--workdir={path} holds a study of another grid: {_list(grid)}. Add --accept_changes to continue in it with "
        "the grid asked for, which keeps the runs that both have; or choose another --workdir.",
    )


def _list(changes: Mapping[str, tuple[str, str]]) -> str:
    return shorten([f"{name}: found {found}, asked for {asked}" for name, (found, asked) in changes.items()])


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What differs in the grid: values of the folder and of the command, by flag."""
    pairs = {name: (before.get(name, "none"), now.get(name, "none")) for name in {**before, **now}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _grid_values(definition: Mapping[str, Any]) -> dict[str, str]:
    """Values on each axis of the grid, as they are typed, by flag."""
    values = {}
    for axis in definition["axes"]:
        name = "--split" if tuple(axis["keys"]) == SPLIT else f"--axis {':'.join(axis['keys'])}"
        values[name] = ",".join(map(":".join, axis["values"]))
    machines = definition["machines"]
    sizes = [f"{each['processes']}x{each['devices_per_process']}" for each in machines]
    if types := [each["slice_type"] for each in machines if each["slice_type"]]:
        values["--slices"] = ",".join(f"{kind}={size}" for kind, size in zip(types, sizes, strict=True))
    else:
        values["--processes x --devices_per_process"] = ",".join(sizes)
    return values | {f"--{name}": ",".join(map(str, definition[name])) for name in ("scaling", "seeds")}


def _other_changes(before: Mapping[str, Any], now: Mapping[str, Any], *, same_grid: bool) -> dict[str, tuple[str, str]]:
    """What differs beside the grid, by flag; of the config's keys, what they came to."""
    changes = {}
    for key, pair in differences(before["definition"], now["definition"]).items():
        section, _, name = key.partition(".")
        if section not in _GRID:
            flags = {"overrides": f"--config.{name}", "flags": f"--{name}", "place": "--launch"}
            left_out = "the config file's" if section == "overrides" else "none"
            found, asked = (left_out if value in ("not there", "None") else value for value in pair)
            changes[flags.get(section, f"--{section}")] = (found, asked)
    if same_grid:  # Else the first point, whose config is kept, may be another.
        agent = load_agent(now["config"]["agent"]["name"]).AgentConfig
        configs = differences(with_defaults(before["config"], agent), with_defaults(now["config"], agent))
        changes |= {f"--config.{key}": pair for key, pair in configs.items()}
    return changes
