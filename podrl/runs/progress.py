"""How far a run got, as its folder tells: what a restart has to beat."""

from collections.abc import Iterator
from pathlib import Path
import sys

from etils import epath

if __name__ == "__main__":  # For the shell script of a SLURM job, whose podrl need not be the installed one, if any is.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from podrl.telemetry.metrics_file import newest_rows
from podrl.telemetry.rates import RATE_KEY


def newest_update(workdir: str) -> int:
    """The newest update that left a checkpoint or a row of metrics; 0 if none did."""
    folder = epath.Path(workdir)
    checkpoints = folder / "checkpoints"
    steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()] if checkpoints.exists() else []
    return max([0, *steps, *_newest_updates(folder / "metrics.jsonl")])


def _newest_updates(path: epath.Path) -> Iterator[int]:
    """The updates of the newest rows, back to one that an update left; those of evaluations come later than theirs."""
    for row in newest_rows(path):
        update = row.get("learner_steps")
        if isinstance(update, int):
            yield update
            if RATE_KEY in row:
                return


if __name__ == "__main__":
    sys.stdout.write(f"{newest_update(sys.argv[1])}\n")
