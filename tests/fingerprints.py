"""Records what runs compute, bit by bit, to show that a change changes nothing.

On the commit before the change, and on its own:

    python -m tests.fingerprints before.json
    python -m tests.fingerprints after.json --against before.json

A record holds the fingerprints of every update of every config's smoke form, of a resumed run, of two processes, of
four devices, and of both placements, all compiled as users' runs are. Records compare on one machine, with the same
versions of the libraries. The exit code is 1 where one differs, or a run failed.
"""

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import time

from tests.processes import ROOT, finish_job, job, read_rows, running

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common"))
KEYS = ("learner_steps", "fingerprint", "fingerprint/params", "fingerprint/batch")
LIMIT_S = 1800.0  # Of one run; a busy machine may take minutes to compile.


def smoke(config: str, *arguments: str) -> list[str]:
    return ["--config", str(ROOT / f"configs/{config}.py"), "--smoke", "--config.log.every_updates=1", *arguments]


def run_alone(folder: Path, *arguments: str) -> None:
    with running(*arguments, "--workdir", folder, cwd=folder.parent, xla_flags="") as process:
        _, stderr = process.communicate(timeout=LIMIT_S)
    if process.returncode:
        raise RuntimeError(last_line(stderr, process.returncode))


def run_job(folder: Path, processes: int, devices: int, *arguments: str) -> None:
    sizes = {"processes": processes, "devices": devices}
    with job(*arguments, "--workdir", folder, cwd=folder.parent, xla_flags="", **sizes) as started:
        codes, errors = finish_job(started)
    if any(codes):
        raise RuntimeError(last_line(max(errors, key=len), max(codes, key=abs)))


def last_line(stderr: str, code: int) -> str:
    """What a process said last; one that was killed may have said nothing."""
    return (stderr.strip().splitlines() or [f"exit code {code}"])[-1]


def run_resumed(folder: Path, *arguments: str) -> None:
    """Without its last checkpoint a run that ended is resumed from the one before."""
    run_alone(folder, *arguments, "--config.checkpoint.every_updates=3")
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    run_alone(folder, *arguments, "--config.checkpoint.every_updates=3")


def make_runs() -> dict[str, tuple]:
    """By name, what makes a run and what it takes besides the run's folder."""
    alone = {name: (run_alone, *smoke(name, "--config.determinism=exact")) for name in CONFIGS}
    return alone | {
        "impala_catch, resumed": (run_resumed, *smoke("impala_catch")),
        "ppo_cartpole, resumed": (run_resumed, *smoke("ppo_cartpole")),
        "impala_catch, two processes": (run_job, 2, 1, *smoke("impala_catch")),
        "ppo_cartpole, two processes of two devices": (run_job, 2, 2, *smoke("ppo_cartpole")),
        "impala_catch, four devices": (run_job, 1, 4, *smoke("impala_catch")),
        "ppo_cartpole, four devices": (run_job, 1, 4, *smoke("ppo_cartpole")),
        "impala_memory, other placement": (
            run_alone,
            *smoke("impala_memory", "--config.topology.placement=sebulba"),
        ),
    }


def record(chosen: Sequence[str]) -> dict[str, list | str]:
    """By run, a list for each update, or the last line of a run that failed."""
    results: dict[str, list | str] = {}
    for name, (function, *arguments) in make_runs().items():
        if chosen and name not in chosen:
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                function(Path(folder) / "run", *arguments)
                rows = [row for row in read_rows(Path(folder) / "run") if "fingerprint" in row]
                results[name] = [[row[key] for key in KEYS] for row in rows]
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                results[name] = f"failed: {error}"
        said = results[name] if isinstance(results[name], str) else f"{len(results[name])} updates"
        print(f"{name}: {said}, {time.monotonic() - start:.0f} s", flush=True)  # noqa: T201
    return results


def differences(before: dict, after: dict) -> list[str]:
    """A line for each run that differs, with the first update that does."""
    lines = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if not isinstance(old, list) or not isinstance(new, list) or len(old) != len(new):
            lines.append(f"{name}: {_outcome(old)}, now {_outcome(new)}")
            continue
        row, other = next((a, b) for a, b in zip(old, new, strict=True) if a != b)
        keys = [key for key, x, y in zip(KEYS, row, other, strict=True) if x != y]
        lines.append(f"{name}: differs from update {row[0]}, in {', '.join(keys)}")
    return lines


def _outcome(result: list | str | None) -> str:
    return "absent" if result is None else result if isinstance(result, str) else f"{len(result)} updates"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fingerprints", description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the file that the record is written to")
    parser.add_argument("--against", type=Path, help="a record to compare with")
    parser.add_argument("--only", nargs="+", default=[], choices=make_runs(), metavar="NAME", help="all by default")
    arguments = parser.parse_args(argv)
    before = json.loads(arguments.against.read_text()) if arguments.against else None
    results = record(arguments.only)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    lines = []
    if before is not None:
        lines = differences({name: before[name] for name in before if not arguments.only or name in results}, results)
        print("\n".join(lines) or f"{len(results)} runs, the same bit by bit.")  # noqa: T201
    return int(bool(lines) or any(isinstance(result, str) for result in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
