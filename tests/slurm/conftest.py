"""A SLURM cluster for the tests of this folder, where there can be one."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, why_not


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two idle nodes, new for each test; it takes a few seconds."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Cluster() as running:
        yield running
