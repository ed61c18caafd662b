"""The software of this process: podrl's own commit, and the libraries that decide what a run computes."""

import os
import subprocess

from absl import logging

from podrl.config.user_modules import ROOT

LIBRARIES = ("podrl", "jax", "jaxlib", "flax", "optax", "envpool", "gymnasium", "orbax-checkpoint", "numpy")


def find_commit() -> str | None:
    """Returns the commit of podrl's checkout, with `+changes` if the tree differs; None outside of a checkout.

    Warns once if there is a checkout, but git fails.
    """
    folder = str(ROOT)
    if not os.path.exists(os.path.join(folder, ".git")):
        return None

    def git(*arguments: str) -> str:
        # Git distrusts another user's checkout, whose files may run commands; but its code runs already.
        command = ["git", "-c", "safe.directory=*", "--no-optional-locks", "-C", folder, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), folder):
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().partition("\n")[0]
        logging.log_first_n(logging.WARNING, "The manifest has no commit of podrl: git says: %s", 1, reason)
        return None
