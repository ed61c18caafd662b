"""How many groups of environments a replay samples from, how many unrolls it holds, and how many bytes that takes.

A group is some consecutive environments of one pool on one device, known by its number, `env_index` divided by its
size, and not by its place on the devices: pools are joined in another order on another number of devices. Every group
gives the same number of sequences to a batch. So nothing moves between devices to draw, and what is drawn is the same
on any number of devices that the groups fit.
"""

from collections.abc import Sequence
import math
from typing import Any

import jax

from podrl.mistakes import check, shorten
from podrl.types import PyTree

_DEFAULTS = (16, 8, 4, 2, 1)


def choose_groups(*, num_envs: int, batch: int, fewest: int = 1) -> int:
    """Returns the default of `replay.groups`, which is never chosen by the devices.

    Args:
        num_envs: Environments of the whole job.
        batch: Sequences in a batch.
        fewest: Environments that each group needs.

    Returns:
        The largest of 16, 8, 4 and 2 that divides both numbers and leaves every group enough environments; else 1.
    """
    divisors = [groups for groups in _DEFAULTS if num_envs % groups == 0 and batch % groups == 0]
    return next((groups for groups in divisors if num_envs // groups >= fewest), 1)


def fitting_groups(*, num_envs: int, batch: int, pools: int, learners: int) -> list[int]:
    """Returns all numbers of groups that `check_groups` accepts, smallest first."""
    most, shares = math.gcd(num_envs, batch), pools * learners
    return [groups for groups in range(shares, most + 1, shares) if most % groups == 0]


def check_groups(groups: int, *, num_envs: int, batch: int, pools: int, learners: int) -> None:
    """Checks that every group lies in one pool and on one device, and gives a whole number of sequences.

    Args:
        groups: `replay.groups`, or what `choose_groups` chose for it.
        num_envs: Environments of the whole job.
        batch: Sequences in a batch.
        pools: Pools of the whole job; 1 if environments are inside the compiled program.
        learners: Devices that a pool's environments are split over: the learner devices of a process, on the mesh axis
            `data`; of all processes if environments are inside the compiled program.

    Raises:
        ConfigError: If not. The message names the numbers that fit.
    """
    fitting = fitting_groups(num_envs=num_envs, batch=batch, pools=pools, learners=learners)
    shares = pools * learners
    found = f"replay.groups={groups} does not fit"
    rule = (
        f"it must be a multiple of {shares} ({pools} pools x {learners} learner devices each) that divides "
        f"actors.num_envs={num_envs} and replay.batch={batch}"
    )
    cure = f"Use {_alternatives(fitting)}." if fitting else f"None does: {_cure(num_envs, batch, shares)}."
    check(groups in fitting, f"{found}: {rule}. {cure}")


def check_sequence(*, burn_in: int, length: int, unroll_length: int) -> None:
    """Checks that sequences with a stored carry are whole unrolls.

    Args:
        burn_in: Steps that only warm up the carry.
        length: Steps that are learned from.
        unroll_length: `actors.unroll_length`.

    Raises:
        ConfigError: If they are not. The message names the nearest lengths that are.
    """
    below = (burn_in + length) // unroll_length * unroll_length - burn_in
    nearest = " or ".join(str(fit) for fit in (below, below + unroll_length) if fit > 0)
    check(
        (burn_in + length) % unroll_length == 0,
        f"agent.burn_in={burn_in} and agent.length={length} are {burn_in + length} steps, not whole unrolls of "
        f"actors.unroll_length={unroll_length}. Use agent.length={nearest}, or another agent.burn_in.",
    )


def ring_unrolls(capacity: int, *, num_envs: int, unroll_length: int) -> int:
    """Returns the unrolls of each environment that hold at least `capacity` env steps of the whole job."""
    return -(-capacity // (num_envs * unroll_length))


def ring_bytes(ring: PyTree, devices: int) -> int:
    """Returns the bytes that a ring takes on each device, before anything is compiled.

    Args:
        ring: `jax.ShapeDtypeStruct`s of the whole ring, as `jax.eval_shape` gives them.
        devices: Devices on the mesh axis `data`, which the ring is split over.
    """
    return sum(_leaf_bytes(leaf) // (devices if leaf.ndim else 1) for leaf in jax.tree.leaves(ring))


def _leaf_bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _alternatives(numbers: Sequence[int]) -> str:
    """Lists numbers, of which all fit: `2, 4 or 8`."""
    if len(numbers) > 8:
        return shorten([str(number) for number in numbers], 8)
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


def _cure(num_envs: int, batch: int, shares: int) -> str:
    """Says what to change where no number fits."""
    names = (("actors.num_envs", num_envs), ("replay.batch", batch))
    return " and ".join(f"make {name} a multiple of {shares}" for name, value in names if value % shares)
