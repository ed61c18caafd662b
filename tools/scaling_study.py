"""Studies how throughput scales: runs a grid of points, and writes tables, figures and a report. See `--help`."""

from pathlib import Path
import sys

# podrl is found in whatever folder the command is run.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from podrl.commands.study import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
