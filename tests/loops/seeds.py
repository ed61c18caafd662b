"""Runs of several seeds in one program: their config, what they do, and where they leave it."""

import types

import jax
import numpy as np

from podrl import assembly
from podrl.assembly import assemble
from podrl.loops.interface import Hooks, SeedRun, Services
from podrl.runs.state_arrays import to_arrays
from tests.processes import read_rows
from tests.short_runs import anakin_config, facts

NUM, FIRST = 3, 5
OVERRIDES = types.MappingProxyType(
    {
        "seed": FIRST,
        "total_env_steps": 12 * 8 * 4,
        "checkpoint__every_updates": 4,
        "checkpoint__keep": 99,
        "log__tensorboard": False,
        "env__max_episode_steps": 9,
    }
)
SEEDS = range(FIRST, FIRST + NUM)


def seeds_config(**overrides):
    return anakin_config(**{**OVERRIDES, "topology__seeds": NUM, **overrides})


def run_seeds(config, starts=None, **services):
    """Outcome, and the rows of each seed."""
    parts = assemble(config, jax.devices()[:1])
    alone = parts.of_each_seed()
    rows = [[] for _ in alone]
    seeds = [
        SeedRun(
            assembly=each,
            start=start,
            hooks=Hooks(write_row=lambda row, to=to: to.append(dict(row))),
            services=Services(),
        )
        for each, start, to in zip(alone, starts or len(alone) * [None], rows, strict=True)
    ]
    return assembly.run(parts, hooks=Hooks(), services=Services(**services), seeds=seeds), rows


def words(state):
    return jax.tree.map(np.asarray, to_arrays(state))


def folders(folder):
    return [folder / f"seed-{seed}" for seed in SEEDS]


def check_same(folder, straight):
    for own, other in zip(folders(folder), folders(straight), strict=True):
        assert facts(read_rows(own)) == facts(read_rows(other))
