"""What one execution of a program costs a device: arithmetic, memory traffic, memory, and what crosses between devices.

A compiler counts the body of a loop once, however often it runs. So each of its counts is multiplied by how much more
arithmetic the program has with its loops counted in full; that is exact where nearly all work is inside one loop, as
in PPO's epochs, or in none.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
import dataclasses
import math
import re
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from podrl.learning.update_cost import Collective, find_collectives

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one execution costs each device."""

    flops: float
    bytes_accessed: float  # read from and written to the device's memory
    argument_bytes: int = 0
    temporary_bytes: int = 0  # that live while it runs, with what comes out and takes no argument's place
    collectives: tuple[Collective, ...] = ()
    product_flops: float = 0.0  # of matrix products and convolutions by the program's own equations, over all devices

    @property
    def traffic(self) -> Mapping[str, float]:
        """Bytes that cross between devices, by kind of collective."""
        found: Counter[str] = Counter()
        for each in self.collectives:
            found[each.kind] += each.size_bytes  # type: ignore[assignment]
        return dict(found)

    @property
    def peak_bytes(self) -> int:
        """The device's memory that it needs, close to."""
        return self.argument_bytes + self.temporary_bytes


@dataclasses.dataclass(frozen=True)
class OutOfMemory(Exception):
    """A program does not fit a device."""

    needed_bytes: float
    available_bytes: float
    reason: str  # The compiler's own words.


def compiled_cost(compiled: jax.stages.Compiled, jaxpr: Any, platform: str, model_devices: int = 1) -> Cost:
    """The cost of a compiled program."""
    jaxpr = without_dead_code(jaxpr)
    once, whole = product_flops(jaxpr, platform, loops=False), product_flops(jaxpr, platform)
    factor = whole / once if once else 1.0
    counts = compiled.cost_analysis() or {}
    memory, crossing = compiled.memory_analysis(), find_collectives(compiled, model_devices)
    return Cost(
        flops=counts.get("flops", 0.0) * factor,
        bytes_accessed=counts.get("bytes accessed", 0.0) * factor,
        argument_bytes=memory.argument_size_in_bytes if memory else 0,
        temporary_bytes=int(
            memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes if memory else 0
        ),
        collectives=tuple(dataclasses.replace(each, size_bytes=each.size_bytes * factor) for each in crossing),
        product_flops=whole,
    )


def without_dead_code(jaxpr: Any) -> Any:
    """A program without what none of its results needs; tracing a gradient leaves a good deal of that."""
    program = getattr(jaxpr, "jaxpr", jaxpr)
    live, _ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars), instantiate=True)
    return live


def product_flops(jaxpr: Any, platform: str, *, loops: bool = True) -> float:
    """FLOPs of all matrix products and convolutions of a program that would run on a platform, over all devices.

    What is in a loop counts as often as it runs, where that is known, if `loops`.
    """
    return sum(times * _flops(equation) for equation, times in equations(jaxpr, platform, loops=loops))


def product_bytes(jaxpr: Any, platform: str, *, results: bool = False, loops: bool = True) -> float:
    """Bytes that the heavy operations of a program read and write, over all devices; only what they write if `results`.

    It stands for memory traffic where no compiler tells: as if all else were fused into matrix products, convolutions
    and windows. What is in a loop counts as often as it runs if `loops`.
    """
    heavy = ("dot_general", "conv_general_dilated", "reduce_window_max", "select_and_scatter_add")
    return sum(
        times * sum(map(_size_bytes, equation.outvars if results else (*equation.invars, *equation.outvars)))
        for equation, times in equations(jaxpr, platform, loops=loops)
        if equation.primitive.name in heavy
    )


def equations(jaxpr: Any, platform: str, *, loops: bool = True, times: float = 1) -> Iterator[tuple[Any, float]]:
    """Every equation of a program and of those inside it, with how often it runs on all devices together.

    Of the branches of a condition those with the most work count, and of functions that are written for each platform
    those of `platform`. A loop that ends by a condition counts once.
    """
    choices: dict[Any, int] = {}
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, inner = equation.primitive.name, list(_inner(equation))
        if name == "platform_index":
            choices[equation.outvars[0]] = _branch_of(platform, equation.params["platforms"])
        if not inner:
            yield equation, times
            continue
        repeats = times * (equation.params["length"] if loops and name == "scan" else 1)
        if name == "shard_map":
            repeats *= equation.params["mesh"].size
        if name == "cond":
            chosen = choices.get(equation.invars[0])
            inner = [inner[chosen] if chosen is not None else max(inner, key=lambda one: product_flops(one, platform))]
        if name == "while":  # JAX leaves what is dead in there.
            inner = [without_dead_code(program) for program in inner]
        for program in inner:
            yield from equations(program, platform, loops=loops, times=repeats)


def parse_shortage(error: Exception) -> OutOfMemory | None:
    """What XLA says of a program that does not fit; None of any other error."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text and "Ran out of memory" not in text:
        return None
    line = next((line for line in text.splitlines() if "memory" in line), text.splitlines()[0])
    found = re.search(r"[Uu]sed ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?)", text)
    if found is None:
        found = re.search(r"\(([\d.]+[KMGT]?)\) exceeds available \w+ \(([\d.]+[KMGT]?)\)", text)
    needed, available = map(_size, found.groups()) if found else (math.nan, math.nan)
    return OutOfMemory(needed, available, line.partition("RESOURCE_EXHAUSTED: ")[2] or line)


def _size(text: str) -> float:
    """Bytes of `15.75G`, or of a number without a unit."""
    return float(text.rstrip("KMGT")) * _UNITS[text.lstrip("0123456789.")]


def _inner(equation: Any) -> Iterator[Any]:
    """The programs that an equation runs."""
    for name, value in equation.params.items():
        if name in ("cond_jaxpr", "jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd"):
            continue
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.Jaxpr | core.ClosedJaxpr):
                yield one


def _branch_of(platform: str, platforms: tuple[tuple[str, ...] | None, ...]) -> int:
    """Which branch a platform takes; None among `platforms` stands for all others."""
    names = {"gpu": ("gpu", "cuda"), "tpu": ("tpu",), "cpu": ("cpu",)}[platform]
    for index, known in enumerate(platforms):
        if known is not None and set(known) & set(names):
            return index
    return platforms.index(None)


def _size_bytes(variable: Any) -> int:
    return math.prod(variable.aval.shape) * variable.aval.dtype.itemsize


def _flops(equation: Any) -> float:
    """2 x multiplications, of a matrix product or a convolution; 0 of all else."""
    if equation.primitive.name == "dot_general":
        ((contracted, _), _) = equation.params["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    elif equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out_axis = equation.params["dimension_numbers"].rhs_spec[0]
        depth = math.prod(size for axis, size in enumerate(kernel) if axis != out_axis)
    else:
        return 0.0
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth
