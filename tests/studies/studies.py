"""Studies whose runs were made before: rows of metrics as a run leaves them, and the command that takes them in."""

from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

from podrl.commands import study as scaling_study
from podrl.studies.grid import Definition, Machines
from podrl.telemetry.rates import START_KEY
from tests.processes import ROOT

CATCH = str(ROOT / "configs/impala_catch.py")
BATCH = 320  # env steps in an update of 16 environments


def command(workdir: Path, *more: Any) -> list[str]:
    """Weak and strong scaling over one and two processes of 16 environments, with a run for each of two seeds."""
    flags = [f"--config={CATCH}", f"--workdir={workdir}", "--processes=1,2", "--scaling=weak,strong", "--seeds=1,2"]
    return [
        "scaling_study.py",
        *flags,
        "--config.actors.num_envs=16",
        "--seconds=5",
        "--no_prediction",
        *map(str, more),
    ]


def study(workdir: Path, *more: Any) -> int:
    """Runs the command in this process, and returns its exit code."""
    return scaling_study.main(command(workdir, *more))


def define(**changes: Any) -> Definition:
    """A study of Catch in one, two and four processes."""
    values = {
        "config": CATCH,
        "overrides": {},
        "machines": tuple(Machines(processes=p, devices_per_process=1) for p in (1, 2, 4)),
        "axes": (),
        "scaling": ("weak", "strong"),
        "seeds": (1,),
        "steps": None,
        "seconds": 5.0,
        "place": "local",
        "device": "gpu",
        "flags": {},
    }
    return Definition(**(values | changes))


def make_rows(
    env_steps_per_second: float, *, updates: Sequence[int] = range(10, 101, 10), start_s: float = 0.0, first: int = 1
) -> list[dict[str, Any]]:
    """Rows of one start of a run, whose first update ends 20 s after it; half of the learner's time is learning."""
    rows = []
    for update in (first, *updates):
        env_steps = update * BATCH
        rows.append(
            {
                "learner_steps": update,
                "env_steps": env_steps,
                "frames": 4 * env_steps,
                "env_steps_per_second": None if update == first else env_steps_per_second,
                "lag/mean": 1.0,
                "time/wall_s": start_s + 20.0 + (env_steps - first * BATCH) / env_steps_per_second,
                "time/learner/learn": 0.5,
                "time/learner/wait_rollouts": 0.5,
                "time/actors/act": 1.0,
            }
        )
    rows[0][START_KEY] = first - 1
    return rows


def leave_run(workdir: Path, point: str, seed: int, rows: Sequence[dict[str, Any]]) -> Path:
    """Puts a run into a study's folder, as it is when the study was cut before the run's result was written down."""
    folder = workdir / "points" / point / f"seed-{seed}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def leave_runs(workdir: Path, rates: dict[str, Sequence[float]]) -> None:
    """Runs of several points with seeds 1, 2 and so on, at these rates."""
    for point, of_seeds in rates.items():
        for seed, rate in enumerate(of_seeds, start=1):
            leave_run(workdir, point, seed, make_rows(rate))
