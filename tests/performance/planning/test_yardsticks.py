"""From what a run asks of cores to the time that they need for it."""

import collections
import dataclasses
import functools

import jax
from jax import numpy as jnp
import pytest

from podrl.config.config import TopologyConfig
from podrl.performance.benchmark.instruments import CallTime
from podrl.performance.planning import local
from podrl.performance.planning.compilation import count
from podrl.performance.planning.costs import Cost, count_products
from podrl.performance.planning.environments import env_steps_per_core
from podrl.performance.planning.local import predict_local
from podrl.performance.planning.products import time_products
from podrl.performance.planning.yardsticks import Yardsticks, core_seconds
from tests.performance.planning.test_model import make_run
from tests.short_runs import make_config

YARDSTICKS = Yardsticks(flops=1e9, bytes=1e8, call_s=1e-3, cores=2, allreduce_s={"4": [1e-3, 1e-9]})


def test_every_stage_is_its_work_over_its_rate_and_slower_beside_others():
    run = make_run(act=Cost(flops=1e6, bytes_accessed=1e5), update=Cost(flops=1e9, bytes_accessed=1e8))
    found = core_seconds(run, YARDSTICKS, 100.0, {})
    steps, calls = run.env_steps_of_host, run.acting_calls * run.actors
    alone = {"env": 0.01, "act": 2e-3 * calls / steps, "learn": 2 * run.learners / steps}
    ratios = {found[stage] / seconds for stage, seconds in alone.items()}
    assert max(ratios) == pytest.approx(min(ratios))
    assert 1 < min(ratios) < 1.5
    assert found["calls"] == pytest.approx(1e-3 * calls / steps)


def test_small_operations_are_as_slow_as_calls():
    run = make_run(act=None, update=Cost(flops=0, bytes_accessed=0, operations=1e4))
    ratios = []
    for call_s in (1e-3, 4e-3):
        yardsticks = dataclasses.replace(YARDSTICKS, call_s=call_s)
        ratios.append(core_seconds(run, yardsticks, 100.0, {})["learn"] * run.env_steps_of_host / run.learners / call_s)
    assert ratios[0] == pytest.approx(ratios[1])
    assert 1 < ratios[0] < 10


def test_large_products_take_the_time_that_they_took():
    """This one is a quarter of an update's gigaFLOP; what it reads and writes counts with all else that is."""
    shapes = (jax.ShapeDtypeStruct((2, 5, 5, 4), jnp.float32), jax.ShapeDtypeStruct((3, 3, 4, 4), jnp.float32))
    numbers = ("NHWC", "HWIO", "NHWC")
    convolve = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=numbers
    )
    (convolution,) = count_products(jax.make_jaxpr(convolve)(*shapes), "cpu")
    times = 0.25e9 / convolution.flops
    run = make_run(act=None, update=Cost(flops=1e9, bytes_accessed=1e7, products=((convolution, times),)))

    def learn_s(seconds):
        found = core_seconds(run, YARDSTICKS, 100.0, {convolution: CallTime(seconds, seconds)})
        return found["learn"] * run.env_steps_of_host / run.learners

    assert learn_s(0.0) == pytest.approx(0.75 + 0.1)
    assert learn_s(0.5 / times) == pytest.approx(0.75 + 0.5 + 0.1)
    ((timed, seconds),) = time_products(run).items()
    assert timed == convolution
    assert 0 < seconds.core_s < 1


@pytest.fixture
def briefly_stepped(monkeypatch):
    """Environments are stepped for a single window."""
    monkeypatch.setattr(local, "env_steps_per_core", functools.partial(env_steps_per_core, seconds=0.01))


def test_a_prediction_counts_and_times_the_runs_own_products(monkeypatch, briefly_stepped):
    """What the learner's devices have between them is the same on one and on two."""
    config = make_config("Breakout-v5", network__encoder="nature", network__frame_stack=4)
    counted = []
    for devices in (1, 2):
        topology = TopologyConfig(actor_devices_per_process=devices, learner_devices_per_process=devices)
        run = count(dataclasses.replace(config, topology=topology), hosts=1, devices=devices, platform="cpu")
        counted.append(run.update.products)
    one, two = (sum(each.flops * times for each, times in products) for products in counted)
    assert one == pytest.approx(2 * two) != 0
    predicted = []
    for seconds in (1.0, 3.0):
        timed = lambda run, seconds=seconds: collections.defaultdict(lambda: CallTime(seconds, seconds))  # noqa: E731
        monkeypatch.setattr(local, "time_products", timed)
        predicted.append(predict_local(config, YARDSTICKS).core_s)
    steps, each = config.env_steps_per_update, sum(times for _, times in counted[0])
    assert predicted[1]["learn"] - predicted[0]["learn"] == pytest.approx(1.1 * 2 * each / steps, rel=0.05)
    assert predicted[1]["act"] > predicted[0]["act"]


def test_what_processes_add_up_takes_core_time_of_each():
    """Each optimizer step reduces gradients of a megabyte and two numbers; each update a vote."""
    run = make_run(reductions=3, parameter_bytes=2**20)
    reduced_s = 3 * (3 * 1e-3 + 2**20 * 1e-9) + 1e-3
    assert core_seconds(run, YARDSTICKS, 100.0, {})["reduce"] == pytest.approx(reduced_s / run.env_steps_of_host)
    assert core_seconds(make_run(hosts=1), YARDSTICKS, 100.0, {})["reduce"] == 0


def test_environments_inside_the_program_have_nothing_beside_them():
    run = make_run(act=None, update=Cost(flops=1e9, bytes_accessed=1e8))
    assert core_seconds(run, YARDSTICKS, 100.0, {})["env"] == 0.01
    assert core_seconds(run, YARDSTICKS, 100.0, {})["learn"] == pytest.approx(2 * run.learners / run.env_steps_of_host)


@pytest.mark.parametrize(
    ("hosts", "learners", "networks", "idle"),
    [(1, 1, 1, 2), (1, 1, 2, 2 / 1.65), (1, 2, 1, 1), (2, 1, 1, 1), (1, 4, 1, 1)],
)
def test_cores_that_a_program_with_environments_leaves_idle_are_lost(hosts, learners, networks, idle):
    """A product that takes one core for a second leaves the other idle, unless another program or network has it."""
    operands = (jax.ShapeDtypeStruct((8, 8), jnp.float32),) * 2
    ((product, _),) = count_products(jax.make_jaxpr(jnp.matmul)(*operands), "cpu").items()
    update = Cost(flops=product.flops, bytes_accessed=0, products=((product, 1.0),))
    run = make_run(act=None, update=update, hosts=hosts, learners=learners)
    network = dataclasses.replace(run.config.network, separate_value=networks == 2)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, network=network))
    yardsticks = dataclasses.replace(YARDSTICKS, allreduce_s={"2": [1e-3, 1e-9]})
    found = core_seconds(run, yardsticks, 100.0, {product: CallTime(wall_s=1.0, core_s=1.0)})
    assert found["learn"] * run.env_steps_of_host / learners == pytest.approx(idle)
    assert found["env"] == 0.01 * max(1, 2 / (learners * hosts))
    wide = core_seconds(run, yardsticks, 100.0, {product: CallTime(wall_s=0.5, core_s=1.0)})
    assert wide["learn"] * run.env_steps_of_host / learners == pytest.approx(1)


def test_a_run_here_is_no_faster_than_its_cores_and_its_actor_thread(briefly_stepped):
    config = make_config()
    slow_calls = predict_local(config, Yardsticks(flops=1e12, bytes=1e12, call_s=10.0, cores=64))
    assert slow_calls.env_steps_per_s == pytest.approx(1 / (slow_calls.core_s["act"] + slow_calls.core_s["calls"]))
    slow_cores = predict_local(config, Yardsticks(flops=1e3, bytes=1e3, call_s=0.0, cores=1))
    assert slow_cores.env_steps_per_s <= 1 / sum(slow_cores.core_s.values()) * (1 + 1e-9)
