"""Trains from a window and from a data set that is whole in memory, in turns: `python -m tests.data.training_rate`.

The set is four times as large as the window, which moves by an episode at every update. Both learn in the same compiled
program, so what differs is where samples come from. The bar is a rate from the window within 10 % of the other. Read
the ratios; the rates are of this machine.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
import statistics
import sys
import tempfile
from typing import Any

import jax

from podrl import assembly
from podrl.config.config import Config
from podrl.data.data_set import open_data
from tests.data.frames import ID, write_frames
from tests.offline_runs import offline_config, write_pendulum

BAR = 0.9
_SHARE = 4  # The set's rows over the window's.
_VECTORS: Mapping[str, Any] = {
    "network__hidden_sizes": (256, 256),
    "data__batch": 256,
    "data__learner_steps": 10,
    "log__every_updates": 10,
}
_FRAMES: Mapping[str, Any] = {
    "agent": "bc",
    "env__id": ID,
    "network__squash_actions": False,
    "network__encoder": "minatar",
    "data__batch": 64,
    "data__learner_steps": 2,
    "log__every_updates": 10,
}


def make_cases(folder: Path, episodes: int) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    """Writes the data sets, and returns each with what its runs have of their own."""
    return {
        "vectors, TD3": (write_pendulum(folder / "vectors", 20 * episodes), _VECTORS),
        "frames of 84 x 84, behavioural cloning": (
            write_frames(folder / "frames", episodes=episodes, length=50),
            _FRAMES,
        ),
    }


def measure(data: Path, settings: Mapping[str, Any], *, updates: int, turns: int) -> list[tuple[float, float]]:
    """Returns updates/s from the window and from memory, of each turn; every other turn memory begins."""
    opened = open_data(data)
    window = (opened.num_steps + opened.num_episodes) // _SHARE
    configs: list[Config] = [
        offline_config(data, total_updates=updates, data__memory="host", data__window=rows, **settings)
        for rows in (window, 0)
    ]
    parts = [assembly.assemble(config, jax.devices()[:1]) for config in configs]
    programs: Any = parts[0].compile()
    for each in parts:
        assembly.run(each, programs=programs)  # What a first run imports and compiles is in none of the turns.
    found = []
    for turn in range(turns):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        samples = {number: assembly.run(parts[number], programs=programs).samples_per_second for number in order}
        per_update = configs[0].data.batch * configs[0].data.learner_steps
        found.append((samples[0] / per_update, samples[1] / per_update))
    return found


def main(argv: list[str]) -> int:
    """Measures all cases; returns 1 if the window is slower than the bar allows in one of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.data.training_rate")
    parser.add_argument("--updates", type=int, default=400, help="updates of each run (400)")
    parser.add_argument("--turns", type=int, default=7, help="runs of each kind (7)")
    parser.add_argument(
        "--episodes", type=int, default=400, help="episodes of frames; 20 times as many of vectors (400)"
    )
    flags = parser.parse_args(argv[1:])
    passed = True
    sys.stdout.write(f"jax {jax.__version__}, {flags.turns} turns of {flags.updates} updates each\n")
    with tempfile.TemporaryDirectory() as folder:
        for name, (data, settings) in make_cases(Path(folder), flags.episodes).items():
            turns = measure(data, settings, updates=flags.updates, turns=flags.turns)
            ratios = sorted(window / memory for window, memory in turns)
            rates = [statistics.median(each) for each in zip(*turns, strict=True)]
            passed &= statistics.median(ratios) >= BAR
            sys.stdout.write(
                f"{name}: window {rates[0]:.1f} updates/s, in memory {rates[1]:.1f}, ratio "
                f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})\n"
            )
            sys.stdout.flush()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
