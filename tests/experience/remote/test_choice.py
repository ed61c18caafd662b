"""Which process of a job a worker serves."""

import pytest

from podrl.config.config import ConfigError
from podrl.experience.remote.choice import choose_learner


@pytest.mark.parametrize("variable", ["SLURM_PROCID", "JOB_COMPLETION_INDEX"])
def test_workers_of_a_scheduler_take_turns(variable):
    found = [choose_learner("a:1,b:2", {variable: str(number)}) for number in range(4)]
    assert found == ["a:1", "b:2", "a:1", "b:2"]


def test_a_single_address_needs_no_number():
    assert choose_learner("a:1", {"SLURM_PROCID": "3"}) == choose_learner("a:1", {}) == "a:1"


def test_several_addresses_do():
    with pytest.raises(ConfigError, match=r"names 2 processes, and neither SLURM_PROCID nor JOB_COMPLETION_INDEX"):
        choose_learner("a:1,b:2", {})
