"""Checks that MuJoCo can draw its worlds, which needs OpenGL: without it the library ends the whole process."""

import functools
import subprocess
import sys

from podrl.config.config import ConfigError, EnvConfig, check
from podrl.runtime.temporary import temporary_folder

_TIMEOUT_S = 120.0  # Limit for a trial that takes a second or two.
_HINT = (
    "MuJoCo draws with OpenGL, which must be loaded before it: start the command with LD_PRELOAD=libGL.so.1 (on Debian "
    "from apt-get install libgl1 libegl1 libgl1-mesa-dri), or do without pictures."
)
_TRIAL = """
import sys, warnings
warnings.simplefilter("ignore")
import envpool
env = envpool.make(sys.argv[1], "gymnasium", num_envs=1, render_mode="rgb_array")
env.reset()
env.render()
"""


def check_drawing(config: EnvConfig) -> None:
    """Tries in a separate process, once, whether this one could draw a MuJoCo environment.

    Raises:
        ConfigError: if it could not.
    """
    _try_once(config.id)


@functools.cache
def _try_once(env_id: str) -> None:
    failure = f"EnvPool cannot draw env.id={env_id!r}"
    command = [sys.executable, "-c", _TRIAL, env_id]
    try:
        with temporary_folder("drawing") as folder:  # MuJoCo leaves a file here when it ends.
            trial = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=folder, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{failure}: a picture took longer than {_TIMEOUT_S:.0f} s. {_HINT}") from None
    lines = (trial.stderr + trial.stdout).strip().splitlines() or ["the process ended"]
    check(trial.returncode == 0, f"{failure}: {lines[-1]}. {_HINT}")
