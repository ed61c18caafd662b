"""Searches a space of config values with Optuna: trials, pruning, best configs, pictures. See `--help`."""

from pathlib import Path
import sys

# podrl is found in whatever folder the command is run.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from podrl.commands.sweep import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
