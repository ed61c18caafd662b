"""Brings runs to W&B, MLflow or trackio, from their files. See `--help`."""

from pathlib import Path
import sys

# podrl is found in whatever folder the command is run.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from podrl.commands.export import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
