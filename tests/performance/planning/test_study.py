"""One job on ever more hosts."""

import numpy as np
import pytest

from podrl.performance.planning.distributions import HostWork
from podrl.performance.planning.simulation import simulate
from podrl.performance.planning.study import OVERLAPPED, SLOW, SYNCHRONOUS, run_study
from podrl.performance.planning.system import HostLoad, Interconnect, System


@pytest.fixture
def system():
    works = {
        "env": HostWork.of(np.random.default_rng(1).gamma(2.0, 2e-3, 5000), 0.6),
        "act": HostWork.of(1e-3, 0.9),
        "update": HostWork.of(6e-2, 1.5),
    }
    return System(host=HostLoad(threads=2, pools=2, envs_per_pool=8, unroll_length=20, **works), cores=2.0)


def test_hosts_are_compared_with_the_fewest_and_with_variants_of_themselves(system):
    report = run_study(
        system, [1, 9], interconnect=Interconnect(), gradient_bytes=0, unroll_lengths=[20], updates=20, seeds=2
    )
    rates = sorted(simulate(system, updates=20, seed=seed).env_steps_per_second for seed in range(2))
    one, nine = report["rows"]
    assert (one["env_steps_per_second"]["min"], one["env_steps_per_second"]["max"]) == tuple(rates)
    assert one["of_first"] == 1 > nine["of_first"]
    assert report["variants"][9].keys() == {SLOW, SYNCHRONOUS}
    assert report["variants"][9][SLOW]["median"] < 1
    assert report["unrolls"][0]["few"]["env_steps_per_second"] == one["env_steps_per_second"]


def test_what_is_synchronous_is_compared_with_what_overlaps(system):
    synchronous = System(host=system.host, max_lag=0)
    report = run_study(synchronous, [2], interconnect=Interconnect(), gradient_bytes=0, updates=10, seeds=1)
    assert report["variants"][2][OVERLAPPED]["median"] > 1
