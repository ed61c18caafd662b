"""From costs to rates: closed forms, limits and scaling."""

import dataclasses
import math

import pytest

from podrl.experience.layout import Layout
from podrl.learning.update_cost import Collective
from podrl.performance.planning.compilation import RunCosts
from podrl.performance.planning.costs import Cost
from podrl.performance.planning.model import (
    Assumptions,
    Hardware,
    machine_of,
    predict,
    reduction_seconds,
    stage_seconds,
)
from podrl.performance.planning.scaling import needs, resize, scaling, splits
from podrl.performance.planning.slices import parse_slice
from tests.short_runs import make_config

ENVS, LENGTH, HOSTS = 128, 10, 4

MACHINE = Hardware(
    flops=1e12,
    memory_bytes_per_s=1e11,
    memory_bytes=1e10,
    interconnect_bytes_per_s=1e10,
    network_bytes_per_s=None,
    link_bytes_per_s=1e9,
    dispatch_s=1e-4,
    cores=10,
    env_steps_per_core_s=1000,
    achieved=0.5,
    shape=(4, 4),
)


def over(kind, size_bytes, axis="data"):
    return (Collective(kind=kind, axis=axis, size_bytes=size_bytes),)


def make_run(**changes):
    config = make_config()
    actors = dataclasses.replace(
        config.actors, num_envs=ENVS, unroll_length=LENGTH, pools_per_thread=2, threads_per_device=1, lag=1
    )
    fields = {
        "config": dataclasses.replace(config, actors=actors),
        "hosts": HOSTS,
        "actors": 2,
        "learners": 2,
        "devices": 4,
        "model_devices": 1,
        "reductions": 1,
        "is_undivided": False,
        "layout": Layout(num_actors=2, pools_per_actor=2, envs_per_pool=ENVS // HOSTS // 4, num_processes=HOSTS),
        "frames_per_step": 4,
        "act": Cost(flops=1e6, bytes_accessed=1e5, product_flops=1e6),
        "update": Cost(flops=1e9, bytes_accessed=1e7, collectives=over("all-reduce", 1e6), product_flops=8e9),
        "state_bytes": 10**6,
        "replay_bytes": 0,
        "parameter_bytes": 10**5,
        "upload_bytes": 10**4,
        "download_bytes": 100,
        "rollout_bytes": 10**6,
        "compiled": True,
        "compile_s": 1.0,
    }
    return RunCosts(**fields | changes)


def test_every_stage_is_its_work_over_its_rate():
    stages = stage_seconds(make_run(), MACHINE)
    calls = LENGTH * 2
    assert stages["env"] == pytest.approx(ENVS * LENGTH / HOSTS / (10 * 1000))
    assert stages["act_compute"] == pytest.approx(calls * 1e6 / 0.5e12)
    assert stages["act_memory"] == pytest.approx(calls * 1e5 / 0.5e11)
    assert stages["act_link"] == pytest.approx(calls * (1e-4 + 10_100 / 1e9))
    assert stages["transfer"] == pytest.approx(1e6 / 2 / 1e10)
    assert stages["learn_compute"] == pytest.approx(1e9 / 0.5e12)
    assert stages["learn_memory"] == pytest.approx(1e7 / 0.5e11)


def test_with_a_lag_the_longest_stage_decides_and_without_their_sum():
    run = make_run()
    stages = stage_seconds(run, MACHINE)
    act = stages["act_link"] + stages["act_compute"]
    learn = stages["learn_compute"] + stages["interconnect"]
    collect = max(stages["env"], act)
    assert predict(run, MACHINE).update_s == pytest.approx(max(collect, learn, stages["transfer"]))
    summed = collect + stages["transfer"] + learn
    assert predict(run, MACHINE, lag=0).update_s == pytest.approx(summed)


def test_one_pool_a_thread_takes_turns_with_acting():
    run = make_run(layout=Layout(num_actors=2, pools_per_actor=1, envs_per_pool=16, num_processes=HOSTS))
    stages = stage_seconds(run, MACHINE)
    assert predict(run, MACHINE).update_s == pytest.approx(
        stages["env"] + stages["act_link"] + max(stages["act_compute"], stages["act_memory"])
    )


def test_few_environments_leave_cores_idle():
    """Each takes one core at a time, 1,000 steps a second, and waits for its actions."""
    run, many_cores = make_run(), dataclasses.replace(MACHINE, cores=1000)
    stages = stage_seconds(run, many_cores)
    assert stages["env"] == pytest.approx(LENGTH / 1000)
    call_s = (stages["act_link"] + stages["act_compute"]) / run.acting_calls
    slow = dataclasses.replace(many_cores, dispatch_s=5e-4)
    assert predict(run, many_cores).update_s == pytest.approx(LENGTH * (1e-3 + call_s))
    assert predict(run, slow).update_s == pytest.approx(LENGTH * (1e-3 + call_s + 4e-4))
    assert predict(run, many_cores).limit == "turns"
    enough = predict(run, many_cores, enough_envs=True)
    assert enough.env_steps_per_s > 1.1 * predict(run, many_cores).env_steps_per_s


def test_a_host_needs_as_many_environments_as_their_turns_ask_for_while_they_are_collected_from():
    """An update takes 40 ms, in which nobody acts without a lag: 320 steps are then to be made in little."""
    run = make_run(update=Cost(flops=2e10, bytes_accessed=0, product_flops=0))
    machine = dataclasses.replace(MACHINE, cores=1000)
    found = {in_turn: needs(_with_lag(run, 0 if in_turn else 1), machine) for in_turn in (False, True)}
    stages = stage_seconds(run, machine)
    turn_s = stages["turns"] / LENGTH
    assert found[False].environments == pytest.approx(found[False].env_steps_per_s * turn_s)
    rest_s = stages["transfer"] + stages["learn_compute"] + stages["interconnect"]
    collect_s = run.env_steps_of_host / found[True].env_steps_per_s - rest_s
    turning = run.env_steps_of_host / collect_s * turn_s
    assert found[True].environments == pytest.approx(max(turning, found[True].vcpus))
    assert found[True].environments > 2 * found[False].environments


def test_a_longer_lag_takes_memory_and_no_time():
    """A rollout of a learner device for each update of lag, and the parameters once more of an actor device."""
    update = Cost(flops=1e9, bytes_accessed=1e7, product_flops=8e9, argument_bytes=10**6 + 7000, temporary_bytes=10**5)
    none, one, deep = (_with_lag(make_run(update=update), lag) for lag in (0, 1, 8))
    assert deep.learner_bytes - none.learner_bytes == 8 * 7000
    assert deep.actor_bytes - none.actor_bytes == 8 * 10**5
    assert none.learner_bytes == none.update.peak_bytes
    assert predict(deep, MACHINE) == predict(one, MACHINE) != predict(none, MACHINE)


def _with_lag(run, lag):
    actors = dataclasses.replace(run.config.actors, lag=lag)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, actors=actors))


def test_where_a_device_learns_nobody_acts_meanwhile():
    apart, shared = (make_run(actors=n, learners=n, rollout_bytes=0) for n in (2, 4))
    stages = stage_seconds(shared, MACHINE)
    learn = stages["learn_compute"] + stages["interconnect"]
    assert predict(apart, MACHINE).update_s == pytest.approx(stages["env"])
    assert predict(shared, MACHINE).update_s == pytest.approx(stages["env"] + learn)
    assert predict(shared, MACHINE).update_s == predict(shared, MACHINE, lag=0).update_s


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({"env_steps_per_core_s": 1.0}, "env"),
        ({"flops": 1e8}, "learn_compute"),
        ({"memory_bytes_per_s": 1e6}, "learn_memory"),
        ({"interconnect_bytes_per_s": 1e4}, "interconnect"),
        ({"link_bytes_per_s": 1e5}, "act_link"),
    ],
)
def test_the_limit_is_what_was_made_slow(change, limit):
    assert predict(make_run(), dataclasses.replace(MACHINE, **change)).limit == limit


def test_a_ring_moves_twice_the_gradients_less_a_share():
    seconds = reduction_seconds(make_run(), MACHINE)
    assert seconds == pytest.approx(2 * 7 / 8 * 1e6 / 1e10 + 2 * 8e-6)
    assert reduction_seconds(make_run(hosts=1, learners=1), MACHINE) == 0
    between = dataclasses.replace(MACHINE, network_bytes_per_s=1e8)
    assert reduction_seconds(make_run(), between) > 2 * 3 / 4 * 1e6 / 1e8


def test_weak_scaling_keeps_a_hosts_work_and_strong_divides_it():
    run = make_run()
    weak, strong = (resize(run, 1, weak=weak) for weak in (True, False))
    assert weak.config.actors.num_envs == ENVS // HOSTS
    assert strong.config.actors.num_envs == ENVS
    assert weak.env_steps_of_host == run.env_steps_of_host
    assert strong.env_steps_of_host == HOSTS * run.env_steps_of_host
    assert strong.update.flops == HOSTS * run.update.flops
    assert strong.update.product_flops == pytest.approx(run.update.product_flops)


def test_efficiency_is_one_on_one_host_and_falls_where_something_does_not_divide():
    latency_bound = dataclasses.replace(MACHINE, dispatch_s=0.1)
    for weak, expected in ((True, 1.0), (False, 1 / HOSTS)):
        found = scaling(make_run(), latency_bound, weak=weak)
        assert [hosts for hosts, _, _ in found] == [1, 2, 4]
        assert found[0][2] == 1
        assert found[-1][2] == pytest.approx(expected, rel=0.01)


def test_the_best_split_gives_devices_to_what_needs_them():
    hungry = Cost(flops=1e12, bytes_accessed=0, product_flops=8e12)
    plenty = dataclasses.replace(MACHINE, env_steps_per_core_s=1e9, dispatch_s=0.0)
    run = make_run(update=hungry, actors=4, learners=2, devices=8)
    found = splits(run, plenty)
    _, learners, best = found[0]
    assert learners >= 4
    assert best.env_steps_per_s > 1.4 * predict(run, plenty).env_steps_per_s
    assert {(a, n) for a, n, _ in found} == {(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (4, 4)}


ODD = dataclasses.replace(make_run().config.actors, num_envs=36)


def test_no_split_is_proposed_that_cannot_be():
    found = splits(make_run(actors=4, learners=4, is_undivided=True), MACHINE)
    assert [(actors, learners) for actors, learners, _ in found] == [(4, 4)]
    split_layers = splits(make_run(devices=4, model_devices=2), MACHINE)
    assert {learners for _, learners, _ in split_layers} == {2, 4}
    odd = make_run()
    odd = dataclasses.replace(odd, config=dataclasses.replace(odd.config, actors=ODD))
    assert [(actors, learners) for actors, learners, _ in splits(odd, MACHINE)] == [(2, 2)]


ONE_POOL = Layout(num_actors=2, pools_per_actor=1, envs_per_pool=16, num_processes=HOSTS)


@pytest.mark.parametrize("changes", [{}, {"actors": 4, "learners": 4}, {"layout": ONE_POOL}])
def test_with_the_vcpus_that_a_host_needs_its_devices_are_busy(changes):
    slow_learner = Cost(flops=1e11, bytes_accessed=0, product_flops=0)
    run = make_run(update=slow_learner, **changes)
    found = needs(run, MACHINE)
    unlimited = predict(run, dataclasses.replace(MACHINE, env_steps_per_core_s=math.inf)).env_steps_per_s
    assert found.env_steps_per_s == pytest.approx(0.95 * unlimited / HOSTS)
    for share, busy in ((1.0, 0.95), (0.5, 0.94)):
        reached = predict(run, dataclasses.replace(MACHINE, cores=share * found.vcpus)).env_steps_per_s / unlimited
        assert reached == pytest.approx(busy, abs=0.003) if share == 1 else reached < busy
    assert found.environments >= found.env_steps_per_s * (1e-3 + 1e-4 + 10_100 / 1e9)


def test_each_optimizer_step_has_a_reduction_of_its_own():
    one, many = make_run(), make_run(reductions=100)
    assert reduction_seconds(many, MACHINE) - reduction_seconds(one, MACHINE) == pytest.approx(99 * 2 * 8e-6)


@pytest.mark.parametrize(
    ("kind", "share"),
    [("all-reduce", 2 * 7 / 8), ("all-gather", 7 / 8), ("reduce-scatter", 7), ("collective-permute", 1)],
)
def test_collectives_move_different_shares(kind, share):
    run = make_run(update=Cost(flops=1e9, bytes_accessed=1e7, collectives=over(kind, 1e9)))
    assert reduction_seconds(run, MACHINE) == pytest.approx(share * 0.1, rel=0.001)


@pytest.mark.parametrize(("axis", "devices"), [("data", 4), ("model", 2), ("all", 8)])
@pytest.mark.parametrize(("kind", "share"), [("all-reduce", 2.0), ("all-gather", 1.0)])
def test_a_ring_has_the_devices_of_its_axis(axis, devices, kind, share):
    """Eight learner devices, of which two each share a layer."""
    run = make_run(model_devices=2, update=Cost(flops=0, bytes_accessed=0, collectives=over(kind, 1e9, axis)))
    hops_s = 2 * 8e-6
    assert reduction_seconds(run, MACHINE) - hops_s == pytest.approx(share * (devices - 1) / devices * 0.1)
    half = resize(run, HOSTS // 2, weak=True)
    devices = devices if axis == "model" else devices // 2
    assert reduction_seconds(half, MACHINE) - hops_s == pytest.approx(share * (devices - 1) / devices * 0.1)
    between = dataclasses.replace(MACHINE, network_bytes_per_s=1e6)
    more_s = reduction_seconds(run, between) - reduction_seconds(run, MACHINE)
    assert (more_s > 1) == (axis != "model")  # What shares a layer is on one host.


def test_what_no_memory_holds_is_not_proposed():
    large = Cost(flops=1e12, bytes_accessed=0, argument_bytes=10**6, temporary_bytes=6 * 10**9, product_flops=0)
    run = make_run(update=large, actors=1, learners=2)
    assert {learners for _, learners, _ in splits(run, MACHINE)} == {2, 4}
    assert [hosts for hosts, _, _ in scaling(run, MACHINE, weak=False)] == [4]
    assert [hosts for hosts, _, _ in scaling(run, MACHINE, weak=True)] == [1, 2, 4]


def test_the_share_of_the_peak_counts_acting_and_learning():
    run, found = make_run(), predict(make_run(), MACHINE)
    work = 8e9 + 1e6 * run.acting_calls * 2 * HOSTS
    assert found.of_peak == pytest.approx(work / (found.update_s * 1e12 * 16))


def test_environments_inside_the_program_leave_nothing_but_learning():
    run = make_run(act=None, actors=0, learners=4)
    found = predict(run, MACHINE)
    assert found.update_s == pytest.approx(2e-3 + reduction_seconds(run, MACHINE))
    assert found.limit == "learn_compute"


def on_workers(**changes):
    return dataclasses.replace(MACHINE, worker_cores=5, wire_bytes_per_s=1e9, **changes)


def test_workers_send_timesteps_while_others_step():
    run = make_run()
    stages = stage_seconds(run, on_workers())
    assert stages["wire"] == pytest.approx(LENGTH * 2 * 2 * 10**4 / 1e9)  # 2 pools of each of 2 actors.
    assert stage_seconds(run, MACHINE)["wire"] == 0
    slow = dataclasses.replace(on_workers(), wire_bytes_per_s=1e5)
    found = predict(run, slow)
    assert found.limit == "wire"
    assert found.update_s == pytest.approx(LENGTH * 2 * 2 * 10**4 / 1e5)


def test_each_step_waits_for_the_wire_too():
    run = make_run()
    near, far = (stage_seconds(run, on_workers(wire_s=seconds))["turns"] for seconds in (0.0, 0.002))
    assert far - near == pytest.approx(LENGTH * 0.002)


def test_a_host_needs_as_many_worker_hosts_as_have_its_vcpus():
    run = make_run()
    found, here = needs(run, on_workers()), needs(run, MACHINE)
    assert found.vcpus == pytest.approx(here.vcpus)
    assert found.worker_hosts == math.ceil(here.vcpus / 5) > 1
    assert found.wire_bytes_per_s == pytest.approx(here.env_steps_per_s / run.layout.envs_per_pool * 10**4)
    assert (here.worker_hosts, here.wire_bytes_per_s) == (0, 0)
    enough = dataclasses.replace(on_workers(), cores=5 * found.worker_hosts)
    most = predict(run, dataclasses.replace(MACHINE, env_steps_per_core_s=math.inf), enough_envs=True)
    assert predict(run, enough, enough_envs=True).env_steps_per_s >= 0.95 * most.env_steps_per_s


def test_worker_hosts_have_vcpus_as_the_host_unless_said():
    assumed = Assumptions(
        env_steps_per_vcpu_s=1000, env_source="", vcpus=None, achieved=0.5, dispatch_s=0, env_workers=3
    )
    machine = machine_of(parse_slice("h100:8"), assumed, float32=False)
    assert machine.cores == pytest.approx(3 * 0.9 * 208)
    assert machine.worker_cores == pytest.approx(0.9 * 208)
    assert machine.wire_bytes_per_s == 125e9
    given = machine_of(parse_slice("h100:8"), dataclasses.replace(assumed, vcpus=10), float32=False)
    assert given.cores == 30
