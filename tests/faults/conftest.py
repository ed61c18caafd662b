"""Runs that nothing disturbs, for comparison, and one that was killed: made once."""

from pathlib import Path
import shutil
import signal

import pytest

from tests.faults import commands
from tests.processes import checkpoints, launch, num_rows, signalled


@pytest.fixture(scope="session")
def straight_catch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _straight(tmp_path_factory, commands.CATCH)


@pytest.fixture(scope="session")
def straight_scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _straight(tmp_path_factory, commands.SCRIPTED)


@pytest.fixture(scope="session")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed after its second checkpoint; to be copied."""
    workdir = tmp_path_factory.mktemp("killed") / "run"

    def saved_two() -> bool:
        return len(checkpoints(workdir)) == 2 and num_rows(workdir) > checkpoints(workdir)[-1]

    signalled(signal.SIGKILL, *commands.CATCH, workdir=workdir, when=saved_two)
    return workdir


@pytest.fixture
def unfinished(killed_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(killed_run, tmp_path / "run"))


def _straight(tmp_path_factory: pytest.TempPathFactory, arguments: tuple[object, ...]) -> Path:
    """The folder of the finished run of these arguments."""
    workdir = tmp_path_factory.mktemp("straight")
    result = launch(*arguments, "--workdir", workdir, cwd=workdir)
    assert result.returncode == 0, result.stderr
    return workdir
