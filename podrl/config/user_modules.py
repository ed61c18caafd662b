"""Module paths: podrl's folders `configs/`, `tools/` and `tests/` do not hide a user's modules of the same names.

Python searches the program's folder and those that a program adds. For `tools/*.py` these are podrl's own folders,
and they come first even where a user has a module `evaluate` or a package `configs`.
"""

from collections.abc import Iterable, Iterator
import contextlib
from importlib.machinery import ModuleSpec, PathFinder
import importlib.util
import os
from pathlib import Path
import sys
from types import ModuleType
from typing import Any

from podrl.config.programs import ROOT, is_clone

# podrl's own configs, the package `podrl.configs`.
CONFIGS = ROOT / ("configs" if is_clone() else "podrl/configs")
_OLD_NAME = "configs"
# Holds folders as PYTHONPATH does, which would hide Python's own modules.
_CONFIG_FOLDERS = "PODRL_CONFIG_FOLDERS"


def give_way() -> None:
    """Moves podrl's own folder to the end of Python's path and removes `tools/` from it.

    Programs that run from a checkout call it once they have imported podrl.
    """
    if not is_clone():  # podrl is installed, beside other packages.
        return
    others = [entry for entry in sys.path if not entry or Path(entry).resolve() not in (ROOT, ROOT / "tools")]
    sys.path[:] = [*others, str(ROOT)]


def add_working_folder() -> None:
    """Adds the working folder to Python's path, behind all other folders except podrl's own.

    Behind it come the folders of the config files that this process, or one that started it, has loaded.
    """
    if "" not in sys.path:
        add_folder(os.getcwd())
    for folder in config_folders():
        add_folder(folder)


def config_folders() -> list[str]:
    """Returns the folders of the config files that this process, or one that started it, has loaded; not podrl's."""
    return list(filter(None, os.environ.get(_CONFIG_FOLDERS, "").split(os.pathsep)))


def add_folder(folder: str) -> None:
    """Adds a folder to Python's path, behind all other folders except podrl's own."""
    if folder not in sys.path:
        sys.path.insert(len(sys.path) - (is_clone() and sys.path[-1:] == [str(ROOT)]), folder)


def _remember_config_folder(file: Path) -> None:
    """Makes modules beside a config file importable, here and in the processes that this one starts."""
    folders = dict.fromkeys([*config_folders(), str(file.resolve().parent)])
    os.environ[_CONFIG_FOLDERS] = os.pathsep.join(folders)


def folders_of(package: str) -> list[str]:
    """Returns the folders of that name on Python's path, in its order.

    A user's folder without `__init__.py` would not be found beside podrl's, which has one.
    """
    folders = (Path(entry or os.getcwd()).resolve() / package for entry in sys.path)
    return list(dict.fromkeys(str(folder) for folder in folders if folder.is_dir()))


@contextlib.contextmanager
def configs_importable(file: Path) -> Iterator[None]:
    """Sets up the module paths in which a config file runs.

    The name `configs` means the user's package of that name, and podrl's own if there is none. podrl's does not stay
    imported, so that it does not take the place of a user's later. The folder of a user's file stays on Python's path,
    with the modules that the config names, also in the processes that this one starts.
    """
    before = _imported()
    if file.resolve().parent != CONFIGS:
        _remember_config_folder(file)
    add_working_folder()
    finder = _ConfigsFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        parent_goes = _OLD_NAME in sys.modules and _OLD_NAME not in before and _is_own(_OLD_NAME)
        _forget(name for name in _imported() if name not in before and (parent_goes or _is_own(name)))
        sys.modules.update(before)


class _ConfigsFinder:
    """Finds `podrl.configs` by its old name, `configs`, where no package of a user's has that."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Returns how to import `configs`; None for all other modules."""
        if name != _OLD_NAME:
            return None
        found = PathFinder.find_spec(name, None)
        # A folder without `__init__.py` is none: podrl's package finds what is in it.
        is_package = found is not None and found.origin is not None
        return found if is_package else importlib.util.spec_from_file_location(name, CONFIGS / "__init__.py")


def explain_import(error: BaseException) -> str:
    """Says whose `configs` was imported if that explains a failed import; empty otherwise."""
    package = sys.modules.get("configs")
    if not isinstance(error, ImportError) or (error.name or "").partition(".")[0] != "configs" or package is None:
        return ""
    folder = os.path.dirname(package.__file__ or "") or ", ".join(package.__path__)
    return "" if _is_own("configs") else f". Here configs is the package in {folder}, and not podrl's own"


def _imported() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == _OLD_NAME}


def _is_own(name: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and Path(file).resolve().parent == CONFIGS


def _forget(names: Iterable[str]) -> None:
    for name in list(names):
        del sys.modules[name]
