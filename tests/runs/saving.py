"""What a checkpoint with a replay costs: `python -m tests.runs.saving [GB ...]`.

For each size of the ring a process of its own saves twice and restores, on one device; the second save counts. `waits`
is how long the learner waits for a save, the hashes included, which are also timed alone; `whole` is until the
checkpoint is whole. `memory` is what a save adds to the resident memory of the process, in which the ring lies too.
`next_update` shows that the ring is still written in place. The ring is of Atari frames of random bytes, the same for
all environments. Files go to a temporary folder, see `TMPDIR`.
"""

import dataclasses
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

_SIZES_GB = (0.5, 1.0, 4.0)
_FRAMES = {"length": 20, "num_envs": 32}


def measure(size_gb: float) -> dict[str, float]:
    """Saves and restores a ring of about this size; returns seconds, and bytes of memory."""
    import jax
    from jax import numpy as jnp
    import numpy as np

    from podrl.replay.batches import make_batch_ring
    from podrl.runs.checkpoint import Checkpointer
    from podrl.runs.checkpoint_replay import ReplayRule
    from podrl.runs.replay_pieces import hash_ring, ring_order
    from podrl.types import Counters, Snapshot
    from tests.faults.checkpoints import make_learner
    from tests.short_runs import make_agent, make_config, random_trajectory

    agent, spec = make_agent(make_config("Breakout-v5", network__encoder="nature"))
    batch = jax.eval_shape(lambda: random_trajectory(agent, spec, **_FRAMES))
    frame_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch.observation))
    num_batches = round(size_gb * 1e9 / frame_bytes)
    learner = make_learner()
    whole = learner.state_shape.step.sharding
    split = jax.sharding.NamedSharding(whole.mesh, jax.sharding.PartitionSpec("data"))

    def fill(leaf: jax.Array) -> jax.Array:
        if leaf.dtype != jnp.uint8:
            return leaf
        return jnp.broadcast_to(jax.random.bits(jax.random.key(0), leaf.shape[2:], jnp.uint8), leaf.shape)

    def make() -> Any:
        ring = make_batch_ring(batch, num_batches, jax.random.key(1))
        return dataclasses.replace(ring, batches=jax.tree.map(fill, ring.batches))

    shapes = jax.eval_shape(make)
    shardings = dataclasses.replace(
        jax.tree.map(lambda _: split, shapes), counts=jax.tree.map(lambda _: whole, shapes.counts)
    )
    ring = jax.block_until_ready(jax.jit(make, out_shardings=shardings)())
    step = jax.jit(lambda ring: jax.tree.map(_touch, ring), donate_argnums=0)
    found: dict[str, float] = {"ring_gb": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes.batches)) / 1e9}
    ring = jax.block_until_ready(step(ring))
    with tempfile.TemporaryDirectory() as folder, Checkpointer(folder, keep=1, replay=ReplayRule()) as checkpointer:
        state = learner.init(1)
        for number in (1, 2):  # The first compiles.
            state = dataclasses.replace(state, step=jax.device_put(np.int32(number), state.step.sharding), replay=ring)
            before_s = time.perf_counter()
            hash_ring(ring, ring_order(ring))
            hashed_s = time.perf_counter()
            with _Resident() as resident:
                checkpointer.save(Snapshot(state=state, counters=Counters(learner_steps=number), episodes={}))
                saved_s = time.perf_counter()
                ring = jax.block_until_ready(step(ring))
                stepped_s = time.perf_counter()
                checkpointer.wait()
                whole_s = time.perf_counter()
            found |= {
                "hash_s": hashed_s - before_s,
                "waits_s": saved_s - hashed_s,
                "next_update_s": stepped_s - saved_s,
                "whole_s": whole_s - hashed_s,
            }
            found["memory_mb"] = resident.grown_bytes / 1e6
        before_s = time.perf_counter()
        ring = None
        state = dataclasses.replace(state, replay=())
        shape = dataclasses.replace(
            learner.state_shape,
            replay=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings),
        )
        checkpointer.restore(shape, 2)
        found["restore_s"] = time.perf_counter() - before_s
    return found


def _touch(leaf: Any) -> Any:
    """Writes into one row of an array, in place where the array is donated."""
    import jax

    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) or not leaf.ndim:
        return leaf
    return leaf.at[0].set(leaf[0] + 1 if leaf.dtype != bool else ~leaf[0])


class _Resident:
    """Watches by how much the resident memory of this process grows."""

    def __enter__(self) -> "_Resident":
        self.grown_bytes, self._before, self._ended = 0, self._now(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.grown_bytes = max(self.grown_bytes, self._now() - self._before)

    def _now(self) -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[str]) -> None:
    """Prints a table; with `--one GB` what one size has come to, as JSON."""
    if arguments[:1] == ["--one"]:
        sys.stdout.write(json.dumps(measure(float(arguments[1]))) + "\n")
        return
    columns = ("ring_gb", "waits_s", "hash_s", "whole_s", "next_update_s", "memory_mb", "restore_s")
    sys.stdout.write("  ".join(f"{name:>13}" for name in columns) + "\n")
    for size in [float(text) for text in arguments] or _SIZES_GB:
        command = [sys.executable, "-m", "tests.runs.saving", "--one", str(size)]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        found = json.loads(lines[-1])
        sys.stdout.write("  ".join(f"{found[name]:>13.2f}" for name in columns) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
