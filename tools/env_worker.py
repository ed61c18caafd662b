"""An environment worker: steps environments for the actors of a learner's process. See `--help`."""

from pathlib import Path
import sys

# podrl is found in whatever folder the command is run.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from podrl.runtime import stop_signals

if __name__ == "__main__":  # Before the following import, which takes seconds.
    stop_signals.stand()

from podrl.commands.env_worker import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
