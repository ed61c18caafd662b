"""How long a run's matrix products and convolutions take on this machine's cores.

How fast they are depends on their shapes and on the processor: a convolution of few channels takes twice the time of a
large product of as much arithmetic, and a narrow product runs on one core, at a third to nine tenths of that speed. So
each is timed.
"""

from collections.abc import Mapping
import functools
import statistics

import jax
from jax import numpy as jnp

from podrl.performance.benchmark.instruments import CallTime, time_calls
from podrl.performance.planning.compilation import RunCosts
from podrl.performance.planning.costs import Product

_REPEATS = 3  # of which the median counts
_SECONDS = 0.05  # for each


def time_products(run: RunCosts) -> Mapping[Product, CallTime]:
    """Times each large product of a run, one after the other with all cores.

    Args:
        run: counted for a CPU.
    """
    costs = [cost for cost in (run.act, run.update) if cost is not None]
    return {each: _time(each) for each in {each for cost in costs for each, _ in cost.products}}


def _time(product: Product) -> CallTime:
    program = _compile(product)
    operands = [jnp.zeros(each.shape, each.dtype) for each in product.operands]

    def multiply() -> None:
        jax.block_until_ready(program(*operands))

    walls_s, cores_s = zip(*(time_calls(multiply, _SECONDS) for _ in range(_REPEATS)), strict=True)
    return CallTime(statistics.median(walls_s), statistics.median(cores_s))


@functools.cache
def _compile(product: Product) -> jax.stages.Compiled:
    return jax.jit(product).lower(*product.operands).compile()
