"""Simulates a config's job on more hosts than there are, fed by what one host was measured to do. See `--help`."""

from pathlib import Path
import sys

# podrl is found in whatever folder the command is run.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from podrl.commands.simulate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
