"""One job on ever more hosts."""

import numpy as np
import pytest

from podrl.performance.planning.distributions import Durations
from podrl.performance.planning.simulation import simulate
from podrl.performance.planning.study import run_study
from podrl.performance.planning.system import HostLoad, HostWork, Interconnect, System


@pytest.fixture
def system():
    """A host that has fewer cores than it wants, where the grains differ by some percent."""
    steps = Durations.of(np.random.default_rng(1).gamma(2.0, 2e-3, 5000))
    works = {
        "env": HostWork(seconds=steps, cores=0.6),
        "act": HostWork.constant(1e-3, 0.9),
        "update": HostWork.constant(6e-2, 1.5),
    }
    return System(host=HostLoad(threads=2, pools=2, envs_per_pool=8, unroll_length=20, **works), cores=2.0)


@pytest.mark.parametrize(("hosts", "grain", "other"), [([1, 9], "unroll", "step"), ([1, 2], "step", "unroll")])
def test_hosts_are_compared_at_one_grain(system, hosts, grain, other):
    report = run_study(
        system, hosts, interconnect=Interconnect(), gradient_bytes=0, unroll_lengths=[20], updates=20, seeds=1
    )
    assert report["grain"] == grain
    rates = {name: simulate(system, updates=20, seed=0, grain=name).env_steps_per_second for name in (grain, other)}
    assert rates[grain] != pytest.approx(rates[other], rel=1e-3)  # Else this would show nothing.
    for alone in (report["rows"][0], report["unrolls"][0]["few"]):
        assert alone["env_steps_per_second"]["median"] == rates[grain]
    assert report["rows"][1]["of_first"] < 1
