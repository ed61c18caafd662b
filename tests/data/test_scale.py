"""Data sets that are larger than the memory of the process that reads them."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.data.data_set import open_data
from podrl.data.inspection import inspect_data
from podrl.types import EnvSpec
from tests.data.episodes import make_episode, write_episodes
from tests.processes import LIMIT_S, ROOT, environment

FRAMES = EnvSpec(id="frames", observation=jax.ShapeDtypeStruct((84, 84, 1), np.uint8), actions=DiscreteActions(6))
# Reads a window of this many rows, which moves at every update, and tells how much more memory that took at most.
READER = """
import json, sys
from pathlib import Path
from podrl.data.data_set import open_data
from podrl.data.reader import HostSampler, SamplePlan, SampleReader
from podrl.data.samplers import make_streams
from podrl.data.window import Window

folder, rows, updates = sys.argv[1], *map(int, sys.argv[2:])
data = open_data(Path(folder))

def peak_kb():
    # Not of getrusage, which begins with what the process had that started this one.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

def sampler(rows, updates=1):
    streams = make_streams("none", data.facts)
    window = Window(rows=rows, episodes=1, updates=updates)
    plan = SamplePlan(streams=streams, num_batches=1, batch=8, length=4, seed=1, window=window)
    return HostSampler(data, plan, slice(0, 8))

warm = sampler(1500)
warm.load(0)
warm.samples(0)
del warm
before = peak_kb()
reader, seen = SampleReader(sampler(rows), first=0, last=updates), set()
for update in range(updates + 1):
    samples = reader.take(update)["data"].trajectory
    seen |= set(samples.params_version[:, 0].ravel().tolist())
reader.close()
grown = 1024 * (peak_kb() - before)
json.dump({"seen": len(seen), "grown": grown}, sys.stdout)
"""


@pytest.mark.slow
def test_a_window_reads_a_set_in_a_quarter_of_its_memory(tmp_path):
    """Of 200 MB of frames all episodes come, in a window of 10 MB; without one the whole set is held."""
    episodes = (make_episode(number, 700, FRAMES) for number in range(42))
    write_episodes(tmp_path / "set", episodes, FRAMES)
    data = open_data(tmp_path / "set")
    size = (data.num_steps + data.num_episodes) * 84 * 84
    assert size > 200e6

    def read(rows):
        command = [sys.executable, "-c", READER, str(tmp_path / "set"), str(rows), "80"]
        ended = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
        return json.loads(ended.stdout)

    windowed, whole = read(1500), read(0)
    assert windowed["seen"] >= 41, windowed
    assert windowed["grown"] < size / 4
    assert whole["grown"] > size / 2


@pytest.mark.slow
def test_a_million_transitions_are_written_read_and_inspected(tmp_path):
    write_episodes(tmp_path / "set", (make_episode(number, 250) for number in range(4000)))
    details = inspect_data(tmp_path / "set")
    assert not details.damage
    assert details.facts.length.sum() == 10**6
    assert details.distinct == 4000 * 251
    np.testing.assert_allclose(details.moments["observation"][0], [1999.5, 124.5])
