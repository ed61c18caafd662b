"""Makes data sets for offline learning of one run: random, medium, expert, mixed and replay. See `--help`."""

from pathlib import Path
import sys

# podrl is found in whatever folder the command is run.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from podrl.commands.make_control_data import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
