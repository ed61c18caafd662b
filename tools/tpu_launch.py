"""Trains an agent on whatever this is: a laptop, a GPU host, a TPU machine. See `--help`."""

from pathlib import Path
import sys

# Configs import `configs.common`, wherever the command is run from.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from podrl import commandline
from podrl.config import ConfigError
from podrl.interruption import INTERRUPTED


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: see `podrl.train`."""
    try:
        command = commandline.parse(argv)
        from podrl import train  # Imports JAX, which a mistake above need not wait for.

        return train.main(command)
    except ConfigError as error:
        sys.stderr.write(f"podrl: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("podrl: interrupted at once; what came after the last checkpoint, if there is one, is lost.\n")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
