"""Module paths: podrl's folders `configs/`, `tools/` and `tests/` do not hide a user's modules of the same names.

Python searches the program's folder and those that a program adds. For `tools/*.py` these are podrl's own folders,
and they come first even where a user has a module `evaluate` or a package `configs`.
"""

from collections.abc import Iterable, Iterator
import contextlib
import os
from pathlib import Path
import sys
from types import ModuleType

from podrl.config.programs import ROOT, is_clone

_CONFIGS = ROOT / "configs"
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
        _add_folder(os.getcwd())
    for folder in filter(None, os.environ.get(_CONFIG_FOLDERS, "").split(os.pathsep)):
        _add_folder(folder)


def _add_folder(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(len(sys.path) - (sys.path[-1:] == [str(ROOT)]), folder)


def _remember_config_folder(file: Path) -> None:
    """Makes modules beside a config file importable, here and in the processes that this one starts."""
    before = filter(None, os.environ.get(_CONFIG_FOLDERS, "").split(os.pathsep))
    os.environ[_CONFIG_FOLDERS] = os.pathsep.join(dict.fromkeys([*before, str(file.resolve().parent)]))


def folders_of(package: str) -> list[str]:
    """Returns the folders of that name on Python's path, in its order.

    A user's folder without `__init__.py` would not be found beside podrl's, which has one.
    """
    folders = (Path(entry or os.getcwd()).resolve() / package for entry in sys.path)
    return list(dict.fromkeys(str(folder) for folder in folders if folder.is_dir()))


@contextlib.contextmanager
def configs_for(file: Path) -> Iterator[None]:
    """Sets up the module paths in which a config file runs.

    In podrl's own config files `configs` is podrl's package; in a user's it is the user's, if there is one. podrl's
    package does not stay imported, so that it does not take the place of a user's later. The folder of a user's file
    stays on Python's path, with the modules that the config names, also in the processes that this one starts.
    """
    before = _imported()
    is_own = file.resolve().parent == _CONFIGS
    if is_own:
        sys.path.insert(0, str(ROOT))
        _forget(name for name in before if not _is_own(name))
    else:
        _remember_config_folder(file)
    add_working_folder()
    try:
        yield
    finally:
        if is_own:
            sys.path.remove(str(ROOT))
        parent_goes = "configs" in sys.modules and "configs" not in before and _is_own("configs")
        _forget(name for name in _imported() if name not in before and (parent_goes or _is_own(name)))
        sys.modules.update(before)


def explain_import(error: BaseException) -> str:
    """Says whose `configs` was imported if that explains a failed import; empty otherwise."""
    package = sys.modules.get("configs")
    if not isinstance(error, ImportError) or (error.name or "").partition(".")[0] != "configs" or package is None:
        return ""
    folder = os.path.dirname(package.__file__ or "") or ", ".join(package.__path__)
    return "" if _is_own("configs") else f". Here configs is the package in {folder}, and not podrl's own"


def _imported() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "configs"}


def _is_own(name: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and Path(file).resolve().parent == _CONFIGS


def _forget(names: Iterable[str]) -> None:
    for name in list(names):
        del sys.modules[name]
