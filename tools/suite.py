"""Trains an agent on a suite of games with several seeds, and reports its scores. See `--help`."""

from pathlib import Path
import sys

# podrl is found in whatever folder the command is run.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from podrl.commands.suite import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
