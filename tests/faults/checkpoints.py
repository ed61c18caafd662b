"""A small checkpoint to damage, and what reading it comes to."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
from pathlib import Path
import shutil
from typing import Any

import jax
from jax import numpy as jnp

from podrl.config.config import TopologyConfig
from podrl.learning.learner import Learner
from podrl.mesh import make_topology
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_errors import DamagedError
from podrl.runs.checkpoint_restore import restore
from podrl.types import Counters, Snapshot
from tests.short_runs import make_agent, make_config

STEP = 80
COUNTERS = Counters(learner_steps=STEP, env_steps=80 * 32, frames=80 * 128)
EPISODES = {"newest": [[1.5, 7], [-0.5, 9]], "count": 80}


def make_learner(seed_of_size: int = 16) -> Learner:
    """The learner of a tiny agent, on one device."""
    config = TopologyConfig(actor_devices_per_process=1, learner_devices_per_process=1)
    agent, _ = make_agent(make_config(network__hidden_sizes=(seed_of_size,)))
    return Learner(agent, make_topology(config, jax.devices()[:1]).learner)


def make_snapshot(learner: Learner, step: int = STEP) -> Snapshot:
    """A state as if it were of that update."""
    state = learner.init(seed=step)
    state = dataclasses.replace(state, step=jax.device_put(jnp.int32(step), state.step.sharding))
    counters = dataclasses.replace(COUNTERS, learner_steps=step)
    return Snapshot(state=state, counters=counters, episodes=EPISODES, chain="0123456789abcdef", wall_s=12.5)


def save(workdir: Path, learner: Learner, *steps: int) -> None:
    """Writes checkpoints."""
    with Checkpointer(workdir, keep=9) as checkpointer:
        for step in steps or (STEP,):
            checkpointer.save(make_snapshot(learner, step), config={"name": "x", "seed": 1}, manifest={"commit": "a"})


def unseal(checkpoint: Path) -> None:
    """Makes it one from before podrl saved hashes."""
    shutil.rmtree(checkpoint / "hashes")
    edit(checkpoint / "counters/metadata", lambda fact: fact.pop("seal"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file."""
    fact = json.loads(path.read_text())
    change(fact)
    path.write_text(json.dumps(fact))


def files(checkpoint: Path) -> list[Path]:
    """All of its files, always in the same order; data files have other names every time, so size comes first."""
    found = [path for path in checkpoint.rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: (path.parent, path.stat().st_size, path.name))


@contextlib.contextmanager
def put_back(path: Path) -> Iterator[None]:
    """The file is as it was after the block."""
    content = path.read_bytes()
    try:
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)


def plain(snapshot: Snapshot) -> tuple[Any, ...]:
    """All that a run goes on from, to compare bit for bit."""
    state = dataclasses.replace(snapshot.state, key=jax.random.key_data(snapshot.state.key))
    leaves = [(leaf.dtype.str, leaf.shape, leaf.tobytes()) for leaf in map(jax.device_get, jax.tree.leaves(state))]
    return leaves, snapshot.counters, snapshot.episodes, snapshot.chain


def outcome(workdir: Path, learner: Learner, expected: tuple[Any, ...], step: int = STEP) -> str:
    """`damaged`, `unchanged`, `SILENT`, or the name of another error."""
    try:
        found = restore(workdir, learner.state_shape, step)
    except DamagedError:
        return "damaged"
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return "unchanged" if plain(found) == expected else "SILENT"
