"""Where the file of a config is: podrl's own are known by name, and a user's by path."""

import difflib
from pathlib import Path

from podrl.config.user_modules import CONFIGS
from podrl.mistakes import ConfigError, did_you_mean


def is_own_config(path: str) -> bool:
    """Whether `--config=path` names one of podrl's own configs."""
    return path in {each.stem for each in _config_files(CONFIGS)}


def find_example(agent: str) -> str | None:
    """Returns the name of one of podrl's own configs of an agent; None if none is named after it."""
    own = sorted(each.stem for each in _config_files(CONFIGS))
    found = [name for name in (agent, f"{agent}_catch", *own) if name in own and f"{name}_".startswith(f"{agent}_")]
    return found[0] if found else None


def find_config(path: str) -> Path:
    """Returns a config's file: the one at `path`, or podrl's own of that name.

    Raises:
        ConfigError: if there is none; the message suggests others.
    """
    file, own = Path(path).expanduser(), {each.stem: each for each in _config_files(CONFIGS)}
    if path in own:  # It has no suffix, so a user's Python file has another name.
        return own[path]
    if file.is_file():
        return file
    nearby = list(map(str, _config_files(file.parent)))
    listing = f" In that folder: {', '.join(nearby)}." if nearby else ""
    if file.is_dir():
        inside = ", ".join(map(str, _config_files(file)))
        raise ConfigError(f"--config={path} is a folder. Give a file{f' in it: {inside}' if inside else ''}.")
    place = "" if file.is_absolute() else f" in {Path.cwd()}"
    if file.stem in own and file.suffix == ".py":
        raise ConfigError(f"Config file {path} does not exist{place}. podrl's own is --config={file.stem}.")
    if file.name == path and not file.suffix:
        close = difflib.get_close_matches(path, [*own, *nearby], n=3)
        meant = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        raise ConfigError(f"There is no config {path!r}, neither a file{place} nor one of podrl's own{meant}")
    raise ConfigError(f"Config file {path} does not exist{place}{did_you_mean(path, nearby)}{listing}")


def _config_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if path.stem not in ("common", "__init__"))
