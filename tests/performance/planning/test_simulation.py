import dataclasses
import sys

import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.performance.planning.distributions import HostWork
from podrl.performance.planning.simulation import simulate
from podrl.performance.planning.system import HostLoad, Interconnect, System

CONSTANT = HostWork.of


def make_host(**changes) -> HostLoad:
    """Two pools of which one steps while the other is acted for: an unroll takes 2 * 20 * 2 ms and the last step."""
    works = {"env": CONSTANT(1e-3), "act": CONSTANT(2e-3), "update": CONSTANT(50e-3)}
    return HostLoad(**{"threads": 1, "pools": 2, "envs_per_pool": 8, "unroll_length": 20, **works, **changes})


def noisy_host(**changes) -> HostLoad:
    """Steps of a gamma distribution, with stragglers; four ms on average."""
    steps = HostWork.of(np.random.default_rng(1).gamma(2.0, 2e-3, 5000))
    steps = dataclasses.replace(steps, late=(2e-3, 10.0))
    return make_host(**{"env": steps, "act": CONSTANT(1e-3), **changes})


UNROLL_S = 81e-3


@pytest.mark.parametrize(
    ("update_s", "synchronous_s", "overlapped_s"), [(50e-3, UNROLL_S + 50e-3, UNROLL_S), (0.2, UNROLL_S + 0.2, 0.2)]
)
@pytest.mark.parametrize("hosts", [1, 3])
def test_with_constant_times_a_period_is_the_sum_or_the_maximum(update_s, synchronous_s, overlapped_s, hosts):
    host = make_host(update=CONSTANT(update_s))
    synchronous = simulate(System(host=host, hosts=hosts, max_lag=0), updates=10)
    overlapped = simulate(System(host=host, hosts=hosts, max_lag=1), updates=10)
    np.testing.assert_allclose(synchronous.update_s, synchronous_s)
    np.testing.assert_allclose(overlapped.update_s, overlapped_s)
    assert overlapped.env_steps_per_second == pytest.approx(hosts * 2 * 8 * 20 / overlapped_s)
    assert synchronous.learner["wait_rollouts"] == pytest.approx(UNROLL_S / synchronous_s)
    actors = synchronous.actors
    assert actors["wait_params"] + actors["wait_rollouts"] == pytest.approx(update_s / synchronous_s)


def test_all_that_lies_between_two_updates_counts():
    host = make_host(finish=CONSTANT(3e-3), transfer=CONSTANT(5e-3), publish=CONSTANT(7e-3))
    case = System(host=host, hosts=2, max_lag=0, allreduce_s=11e-3, reductions=4)
    outcome = simulate(case, updates=5)
    # Each pool's rollout is closed after its last step; the first while the second's runs.
    unroll_s = 80e-3 + 2 * 3e-3
    np.testing.assert_allclose(outcome.update_s, unroll_s + 5e-3 + 50e-3 + 4 * 11e-3 + 7e-3)
    assert outcome.learner["allreduce"] * outcome.update_s.sum() == pytest.approx(5 * 4 * 11e-3)
    # With a lag of 1, twice as much may be under way: this way round is as long, for every other update.
    overlapped = simulate(dataclasses.replace(case, max_lag=1), updates=6)
    np.testing.assert_allclose(overlapped.update_s.reshape(3, 2).sum(1), outcome.update_s[0])


def test_lock_step_with_one_slow_host():
    host = make_host(env=CONSTANT(1e-3, 1.0), act=CONSTANT(2e-3, 1.0))
    case = System(host=host, hosts=4, slow={2: 1.5})
    outcome = simulate(case, updates=10)
    np.testing.assert_allclose(outcome.update_s, 1.5 * UNROLL_S)  # Whatever the number of hosts.
    waits = outcome.host_wait_s
    assert waits[2] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(waits[[0, 1, 3]] + outcome.host_starved_s[[0, 1, 3]], 1.5 * UNROLL_S - 50e-3)
    # A learner that takes longer hides it; and what takes no cores is not slow.
    hidden = dataclasses.replace(case, host=dataclasses.replace(host, update=CONSTANT(0.2)))
    np.testing.assert_allclose(simulate(hidden, updates=10).update_s, 0.2)
    np.testing.assert_allclose(simulate(dataclasses.replace(case, host=make_host()), updates=10).update_s, UNROLL_S)


def rate_per_host(system: System) -> float:
    return simulate(system, updates=100).env_steps_per_second / system.hosts


def test_chance_costs_more_with_more_hosts_and_less_with_longer_unrolls():
    def kept(host: HostLoad, hosts: int) -> float:
        case = System(host=host)
        return rate_per_host(dataclasses.replace(case, hosts=hosts)) / rate_per_host(case)

    host = noisy_host()
    few, many = kept(host, 8), kept(host, 128)
    assert 1 > few > many
    calm = make_host(env=CONSTANT(host.env.mean), act=CONSTANT(1e-3))
    assert kept(calm, 128) == pytest.approx(1)
    assert kept(host.with_unroll_length(80), 128) > many + 0.03
    wild = dataclasses.replace(host, env=dataclasses.replace(host.env, late=(5e-3, 20.0)))
    assert kept(wild, 128) < many - 0.03


@pytest.mark.parametrize("max_lag", [0, 1])
def test_time_is_conserved(max_lag):
    host = noisy_host(threads=2, act=CONSTANT(1e-3, 1.0), update=CONSTANT(50e-3, 1.5), transfer=CONSTANT(1e-3))
    case = System(host=host, hosts=3, max_lag=max_lag, cores=2.0, allreduce_s=1e-3, boundary_every=7)
    outcome = simulate(case, updates=30)
    for shares in (outcome.actors, outcome.learner):
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) >= 0
    assert 0 < outcome.env_idle < 1


def test_cores_are_shared():
    """Acting alone takes 81 ms and the update 100, on a core each: with one core their sum, with two the longer."""
    host = make_host(env=CONSTANT(1e-3), act=CONSTANT(2e-3, 1.0), update=CONSTANT(0.1, 1.0))
    one, two = (simulate(System(host=host, cores=c), updates=20) for c in (1.0, 2.0))
    np.testing.assert_allclose(two.update_s, 0.1)
    assert one.update_s.mean() == pytest.approx(0.18, rel=0.02)
    # Machines of their own are as fast as one alone.
    apart = System(host=host, hosts=2, cores=1.0)
    np.testing.assert_allclose(simulate(apart, updates=20).update_s, one.update_s)


def test_nobody_acts_during_an_update_on_a_shared_accelerator():
    case = System(host=make_host(shares_device=True))
    outcome = simulate(case, updates=10)
    assert outcome.update_s.mean() == pytest.approx(UNROLL_S + 50e-3, abs=1.1e-3)
    # The wait for a slower host is a part of the update.
    late = System(host=make_host(shares_device=True), hosts=2, allreduce_s=20e-3)
    assert simulate(late, updates=10).update_s.mean() == pytest.approx(UNROLL_S + 70e-3, abs=1.1e-3)


def test_the_lag_is_the_schedules():
    host = make_host()
    assert simulate(System(host=host, max_lag=0), updates=20).lag == {0: 1.0}
    assert simulate(System(host=host, max_lag=1), updates=20).lag == {1: 1.0}
    assert simulate(System(host=host, max_lag=8), updates=20).lag == {8: 1.0}
    ramp = simulate(System(host=host, max_lag=3, boundary_every=5), updates=20)
    assert ramp.lag == pytest.approx({0: 0.2, 1: 0.2, 2: 0.2, 3: 0.4})
    boundaries = simulate(System(host=host, max_lag=1, boundary_every=5), updates=20)
    assert boundaries.lag == pytest.approx({0: 0.2, 1: 0.8})  # The first rollout after each of them.


def test_a_deeper_lag_hides_more_of_what_varies_and_no_more_than_all():
    """Unrolls and updates take 81 ms on average."""
    updates_s = np.random.default_rng(3).gamma(2.0, UNROLL_S / 2, 5000)
    host = make_host(update=CONSTANT(updates_s))
    none, one, deep = (simulate(System(host=host, max_lag=lag), updates=300).update_s.mean() for lag in (0, 1, 8))
    assert none > 1.1 * one > 1.1 * 1.05 * deep
    assert deep > 0.95 * UNROLL_S


def test_free_lag_follows_the_timing_up_to_its_bound():
    quick, slow = CONSTANT(1e-3), CONSTANT(0.3)
    bound = System(host=make_host(update=slow), max_lag=3, exact=False)
    assert simulate(bound, updates=20).lag == {3: 1.0}  # Actors run ahead as far as they may.
    newest = System(host=make_host(update=quick), max_lag=3, exact=False)
    assert simulate(newest, updates=20).lag == {1: 1.0}  # The update before ends after a rollout began.


def test_a_boundary_costs_an_unroll_without_overlap_and_the_opening():
    host = make_host(open=CONSTANT(1.0))
    case = System(host=host, boundary_every=5)
    update_s = simulate(case, updates=10).update_s
    # Pools open during the last update.
    assert update_s[0] == pytest.approx(1.0 + UNROLL_S)
    assert sorted(update_s)[-3] < 0.2
    np.testing.assert_allclose(update_s[[0, 5]], update_s[0])


def test_the_same_seed_gives_the_same_outcome():
    case = System(host=noisy_host(), hosts=4)
    one, again, other = (simulate(case, updates=20, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.update_s, again.update_s)
    assert one.actors == again.actors
    assert not np.array_equal(one.update_s, other.update_s)


def test_hosts_do_not_share_their_draws():
    """All alike, they would never wait for each other."""
    outcome = simulate(System(host=noisy_host(), hosts=4), updates=20)
    assert np.all(outcome.host_wait_s > 0)


def test_an_allreduce_takes_rounds_and_moves_nearly_twice_its_size():
    link = Interconnect(latency_s=1e-5, bytes_per_second=1e9, small_sums=0)
    assert link.allreduce_s(1, 1e6) == 0
    assert link.allreduce_s(2, 1e6) == pytest.approx(2e-5 + 1e-3)
    assert link.allreduce_s(1024, 1e6) == pytest.approx(20e-5 + 2 * 1023 / 1024 * 1e-3)
    assert Interconnect(latency_s=1e-5, small_sums=2).allreduce_s(2, 1e6) == pytest.approx(3 * 2e-5)
    assert Interconnect(constant_s=0.5).allreduce_s(3, 1e6) == 0.5


def test_more_environments_a_pool_take_longer_and_more_threads_less():
    host = make_host(env=CONSTANT(1e-3, 1.0))
    double = host.with_pools(16)
    assert (double.env.mean, double.update.mean) == pytest.approx((2e-3, 0.1))
    assert double.env_steps_per_update == 2 * host.env_steps_per_update
    threaded = host.with_pools(16, threads_ratio=2.0)
    assert (threaded.env.mean, threaded.env.cores) == pytest.approx((1e-3, 2.0))


def test_mistakes_are_one_line():
    host = make_host()
    with pytest.raises(ConfigError, match="Host 4 slower by 2: expected one of the 4 hosts"):
        System(host=host, hosts=4, slow={4: 2.0})
    with pytest.raises(ConfigError, match="hosts=0"):
        System(host=host, hosts=0)
    with pytest.raises(ConfigError, match="threads=0"):
        make_host(threads=0)


def test_without_simpy_the_error_says_what_to_install(monkeypatch):
    for module in ("simulation", "cores"):
        monkeypatch.delitem(sys.modules, f"podrl.performance.planning.{module}")
    monkeypatch.setitem(sys.modules, "simpy", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[plan\]'"):
        import podrl.performance.planning.simulation  # noqa: F401
