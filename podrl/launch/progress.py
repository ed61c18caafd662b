"""How far a run got, as its folder tells: what a restart has to beat."""

import json
import sys

from etils import epath


def newest_update(workdir: str) -> int:
    """The newest update that left a checkpoint or a row of metrics; 0 if none did."""
    folder = epath.Path(workdir)
    checkpoints = folder / "checkpoints"
    steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()] if checkpoints.exists() else []
    return max([0, *steps, *_rows(folder / "metrics.jsonl")])


def _rows(path: epath.Path) -> list[int]:
    """The update of each row; one that was not written whole does not count."""
    updates = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            updates.append(int(json.loads(line)["learner_steps"]))
        except (ValueError, KeyError, TypeError):
            continue
    return updates


if __name__ == "__main__":  # For the shell script of a SLURM job.
    sys.stdout.write(f"{newest_update(sys.argv[1])}\n")
