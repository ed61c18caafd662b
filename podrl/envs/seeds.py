"""Seeds of single environments.

EnvPool seeds environment i of a pool with `seed + i`, so that pools with neighbouring seeds share almost all their
emulators. podrl gives every environment of the job a seed of its own instead, from the run's seed and the
environment's global index, on whatever host, thread or pool it runs.
"""

from collections.abc import Sequence

import numpy as np

_BITS = 31
_MASK = np.uint64(2**_BITS - 1)
_ROUNDS = 4


def env_seeds(run_seed: int | Sequence[int], env_indices: Sequence[int]) -> list[int]:
    """Returns the seeds of several environments, each in [0, 2**31).

    A permutation of the 31-bit integers, keyed by `run_seed`, is applied to the indices: distinct indices always give
    distinct seeds, and the seeds of two runs coincide no more often than random numbers do. Each round multiplies by an
    odd number, adds, and xors the high half into the low one; each of these steps is invertible modulo 2**31.

    Args:
        run_seed: the run's seed, or a sequence of non-negative integers such as (run seed, update).
        env_indices: [B] indices of environments over the whole job, in [0, 2**31).

    Raises:
        ValueError: if an index lies outside this range.
    """
    if any(not 0 <= index < 2**_BITS for index in env_indices):
        raise ValueError(f"Environment indices must lie in [0, 2**{_BITS}); found {list(env_indices)}.")
    keys = np.random.SeedSequence(run_seed).generate_state(2 * _ROUNDS).astype(np.uint64)
    seeds = np.asarray(env_indices, np.uint64)
    for multiplier, offset in keys.reshape(_ROUNDS, 2):
        seeds = (seeds * (multiplier | np.uint64(1)) + offset) & _MASK  # Below 2**64: 31 bits times 32 bits.
        seeds ^= seeds >> np.uint64(_BITS // 2 + 1)
    return [int(seed) for seed in seeds]


def env_seed(run_seed: int | Sequence[int], env_index: int) -> int:
    """Returns the seed of one environment: see `env_seeds`."""
    return env_seeds(run_seed, [env_index])[0]
