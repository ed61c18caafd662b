"""Measures return and traffic of a run with actor workers over `remote.max_drift`, as in docs/results.md.

    python docs/measure_drift.py --config configs/ppo_lunarlander.py --workdir runs/drift-ppo

Runs one after the other, each with two actor workers; what has ended is not run again. Prints a table whose last column
is the share of the parameter messages of a run that publishes every update. Further arguments are the run's.
"""

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import re
import statistics
import subprocess
import sys

ROOT = Path(__file__).resolve().parent.parent
DRIFTS = ("every", "0.001", "0.01", "0.05", "0.1", "0.2", "0.5", "1")
LAST = 0.1  # The share of a run's rows whose returns are averaged.
_SAID = re.compile(r"Actor workers: .* in ([\d,]+) PARAMS messages of ([\d,.]+) MB")


def run(folder: Path, config: str, seed: int, drift: str, further: Sequence[str]) -> tuple[float, int, float]:
    """Runs once, and returns its return at the end, its parameter messages and their megabytes."""
    log = folder / "log.txt"
    if not log.exists() or not _SAID.search(log.read_text()):
        folder.mkdir(parents=True, exist_ok=True)
        publish = () if drift == "every" else ("--config.remote.publish=drift", f"--config.remote.max_drift={drift}")
        command = [sys.executable, str(ROOT / "tools/tpu_launch.py"), "--config", config, "--actor_workers", "2"]
        command += ["--config.actors.threads_per_device=2", "--config.checkpoint.every_updates=0"]
        command += [*publish, f"--config.seed={seed}", "--workdir", str(folder / "run"), *further]
        with log.open("w") as file:
            subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=True)
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    returns = [row["episode/return"] for row in rows if "episode/return" in row]
    said = _SAID.search(log.read_text())
    if said is None:
        raise RuntimeError(f"{log} has no line about traffic.")
    messages, megabytes = (float(number.replace(",", "")) for number in said.groups())
    return statistics.fmean(returns[-max(1, round(LAST * len(returns))) :]), int(messages), megabytes


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python docs/measure_drift.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--drifts", default=",".join(DRIFTS))
    flags, further = parser.parse_known_args(argv)
    seeds = [int(seed) for seed in flags.seeds.split(",")]
    sys.stdout.write(
        "| max_drift | return, by seed | mean | PARAMS messages | MB | share |\n|---|---|---|---|---|---|\n"
    )
    every = 0.0
    for drift in flags.drifts.split(","):
        results = [run(flags.workdir / drift / str(seed), flags.config, seed, drift, further) for seed in seeds]
        returns, messages, megabytes = (list(column) for column in zip(*results, strict=True))
        mean = statistics.fmean(messages)
        every = every or mean
        shown = ", ".join(f"{value:.1f}" for value in returns)
        traffic = f"{mean:,.0f} | {statistics.fmean(megabytes):.2f} | {mean / every:.1%}"
        sys.stdout.write(f"| {drift} | {shown} | {statistics.fmean(returns):.1f} | {traffic} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
