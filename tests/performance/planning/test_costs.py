"""What a program costs, counted from its equations."""

import math

import jax
from jax import numpy as jnp
import pytest

from podrl.performance.planning.costs import (
    compiled_cost,
    parse_shortage,
    product_bytes,
    product_flops,
    without_dead_code,
)
from tests.test_lowered import make_run

MATRIX = jax.ShapeDtypeStruct((8, 8), jnp.float32)
PRODUCT = 2 * 8**3
NUMBERS = ("NHWC", "HWIO", "NHWC")


def count(function, *shapes, platform="tpu", **options):
    return product_flops(without_dead_code(jax.make_jaxpr(function)(*shapes)), platform, **options)


def test_products_count_two_for_each_multiplication():
    assert count(lambda x: x @ x, MATRIX) == PRODUCT
    images, kernel = jnp.zeros((2, 9, 9, 3)), jnp.zeros((3, 3, 3, 5))

    def convolve(images, kernel):
        return jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=NUMBERS)

    assert count(convolve, images, kernel) == 2 * (2 * 7 * 7 * 5) * (3 * 3 * 3)


def test_a_loop_counts_as_often_as_it_runs():
    def loop(x):
        return jax.lax.scan(lambda carry, _: (carry @ x, None), x, length=7)[0]

    assert count(loop, MATRIX) == 7 * PRODUCT
    assert count(loop, MATRIX, loops=False) == PRODUCT


def test_of_functions_written_for_each_platform_the_right_one_counts():
    def product(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x, default=lambda x: x @ x)

    assert count(product, MATRIX, platform="tpu") == count(product, MATRIX, platform="gpu") == PRODUCT
    assert count(product, MATRIX, platform="cpu") == 2 * PRODUCT


def test_of_a_condition_the_branch_with_the_most_work_counts():
    assert count(lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x), MATRIX) == PRODUCT


def test_what_no_result_needs_does_not_count():
    def wasteful(x):
        jax.jit(lambda x: x @ x)(x)
        return x + 1

    assert count(wasteful, MATRIX) == 0


def test_what_is_split_over_devices_counts_on_all_of_them():
    mesh = jax.sharding.Mesh(jax.devices()[:4], "data")
    spec = jax.sharding.PartitionSpec("data")
    split = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec)
    assert count(split, MATRIX) == 4 * 2 * (2 * 2 * 8)


def test_the_residual_network_costs_what_its_layers_add_up_to():
    """108.46 MFLOP forward, and 317.24 to train: 3 x forward less the first layer's gradient by its input."""
    run = make_run("resnet")
    steps, rows = 64 * 20, 64 * 21
    act = count(run.unroller.act, *run.act_shapes)
    assert act == pytest.approx(32 * 108.46e6, rel=1e-4)
    update = count(run.learner.update, *run.update_shapes)
    assert update / steps == pytest.approx(317.24e6 * rows / steps, rel=1e-4)


def test_memory_traffic_of_products():
    program = jax.make_jaxpr(lambda x: jnp.tanh(x @ x))(MATRIX)
    assert product_bytes(program, "tpu") == 3 * 8 * 8 * 4
    assert product_bytes(program, "tpu", results=True) == 8 * 8 * 4


def test_a_compilers_count_of_a_loop_is_multiplied():
    def loop(x):
        return jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ x), None), x, length=50)[0]

    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    traced = jax.jit(loop).trace(shape)
    cost = compiled_cost(traced.lower().compile(), traced.jaxpr, "cpu")
    assert cost.product_flops == 50 * 2 * 64**3
    assert 1 <= cost.flops / cost.product_flops < 1.2
    assert cost.argument_bytes == 64 * 64 * 4
    assert cost.peak_bytes >= cost.argument_bytes


class TestShortage:
    @pytest.mark.parametrize(
        ("text", "needed", "available"),
        [
            (
                "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (128.00G) "
                "exceeds available HBM (15.75G).",
                128.0,
                15.75,
            ),
            (
                "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used "
                "20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
                20.5,
                15.75,
            ),
        ],
    )
    def test_the_compilers_numbers_are_read(self, text, needed, available):
        shortage = parse_shortage(RuntimeError(text))
        assert shortage.needed_bytes == needed * 2**30
        assert shortage.available_bytes == available * 2**30
        assert shortage.reason.startswith(("Ran out", "XLA:TPU"))

    def test_numbers_may_be_missing(self):
        assert math.isnan(parse_shortage(RuntimeError("RESOURCE_EXHAUSTED: out of memory")).needed_bytes)

    def test_other_errors_are_none(self):
        assert parse_shortage(RuntimeError("INTERNAL: RET_CHECK failure")) is None
