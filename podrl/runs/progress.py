"""How far a run got, read from its folder: a restart has to get further."""

from collections.abc import Iterator
from pathlib import Path
import sys

from etils import epath

if __name__ == "__main__":  # For a SLURM job's script, whose podrl may differ from the installed one.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from podrl.telemetry.metrics_file import newest_rows
from podrl.telemetry.rates import RATE_KEY


def newest_update(workdir: str) -> int:
    """Returns the newest update that left a checkpoint or a row of metrics; 0 if none did."""
    folder = epath.Path(workdir)
    checkpoints = folder / "checkpoints"
    steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()] if checkpoints.exists() else []
    return max([0, *steps, *_newest_updates(folder / "metrics.jsonl")])


def _newest_updates(path: epath.Path) -> Iterator[int]:
    """Yields the updates of the newest rows, back to an update's own row; an evaluation's row may follow later."""
    for row in newest_rows(path):
        update = row.get("learner_steps")
        if isinstance(update, int):
            yield update
            if RATE_KEY in row:
                return


if __name__ == "__main__":
    sys.stdout.write(f"{newest_update(sys.argv[1])}\n")
