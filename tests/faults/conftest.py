"""Runs that nothing disturbs, for comparison: made once."""

from pathlib import Path

import pytest

from tests.faults import commands
from tests.processes import launch


@pytest.fixture(scope="session")
def straight_catch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _straight(tmp_path_factory, commands.CATCH)


@pytest.fixture(scope="session")
def straight_scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _straight(tmp_path_factory, commands.SCRIPTED)


def _straight(tmp_path_factory: pytest.TempPathFactory, arguments: tuple[object, ...]) -> Path:
    """The folder of the finished run of these arguments."""
    workdir = tmp_path_factory.mktemp("straight")
    result = launch(*arguments, "--workdir", workdir, cwd=workdir)
    assert result.returncode == 0, result.stderr
    return workdir
