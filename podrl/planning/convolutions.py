"""What a run's convolutions take of this machine's cores.

How much slower they are than products of matrices depends on their channels and on the processor, so each is timed.
"""

from collections.abc import Mapping
import functools
import statistics

import jax
from jax import numpy as jnp

from podrl.instruments import core_seconds_per_call
from podrl.planning.compilation import RunCosts
from podrl.planning.costs import Convolution

_REPEATS = 3  # of which the median counts
_SECONDS = 0.1  # for each


def time_convolutions(run: RunCosts) -> Mapping[Convolution, float]:
    """Core-seconds of each convolution of a run, one after the other with all cores.

    Args:
        run: counted for a CPU.
    """
    costs = [cost for cost in (run.act, run.update) if cost is not None]
    return {each: _time(each) for each in {each for cost in costs for each, _ in cost.convolutions}}


def _time(convolution: Convolution) -> float:
    program = _compile(convolution)
    operands = [jnp.zeros(each.shape, each.dtype) for each in convolution.operands]

    def convolve() -> None:
        jax.block_until_ready(program(*operands))

    return statistics.median(core_seconds_per_call(convolve, _SECONDS) for _ in range(_REPEATS))


@functools.cache
def _compile(convolution: Convolution) -> jax.stages.Compiled:
    return jax.jit(convolution).lower(*convolution.operands).compile()
