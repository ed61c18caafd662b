"""The software of this process: podrl's own commit, and the libraries that decide what a run computes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import importlib.metadata
import os
import platform
import subprocess
import time
from typing import Any

from absl import logging

from podrl.config.programs import ROOT
from podrl.runtime.machine import available_cores

LIBRARIES = ("podrl", "jax", "jaxlib", "flax", "optax", "envpool", "gymnasium", "orbax-checkpoint", "numpy")
# Environments, what they compute with, and what else decides bits, where it is installed.
_OPTIONAL = (
    *("ale-py", "brax", "chex", "envpool-assets", "gymnax", "jax-cuda13-plugin", "libtpu", "mctx", "minigrid"),
    *("ml_dtypes", "mujoco", "octax", "opencv-python-headless", "scipy", "tensorstore"),
)


_OF_ONE_HOST = ("--xla_dump_", "--xla_force_host_platform_device_count")  # Flags that may differ between hosts.
_VARIABLES = ("JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")


def find_jax(environ: Mapping[str, str], choose: Callable[[Iterable[str]], Iterable[str]] = list) -> dict[str, str]:
    """Returns what of JAX decides which bits a program computes: versions, and variables, `nothing` for unset ones.

    Args:
        environ: the process's environment variables.
        choose: (flags of XLA) -> those that count; by default all that may not differ between hosts.
    """
    flags = [flag for flag in environ.get("XLA_FLAGS", "").split() if not flag.startswith(_OF_ONE_HOST)]
    return {
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        "XLA_FLAGS": " ".join(sorted(choose(flags))) or "nothing",
        **{name: environ.get(name) or "nothing" for name in _VARIABLES},
    }


def describe_start(argv: Sequence[str]) -> dict[str, Any]:
    """Returns when and by which command a process was started, and with what software, ready for JSON."""
    return {
        "argv": list(argv),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": find_commit(),
        "versions": find_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": available_cores(),
    }


def find_versions() -> dict[str, str]:
    """Returns the versions of `LIBRARIES`, and of optional ones that are installed."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    for name in _OPTIONAL:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


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
