"""Runs that tests of several files look at."""

import pytest

from podrl import train
from tests.loops.seeds import seeds_config


@pytest.fixture(scope="module")
def straight_seeds(tmp_path_factory):
    """The folder of a run of several seeds that was not stopped, and its outcome."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, train.train(seeds_config(), workdir=str(folder))
