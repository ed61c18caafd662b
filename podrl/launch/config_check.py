"""Checks a config's keys, and their types and ranges, as the training does, before anything is submitted.

That takes the agent's module, which imports JAX. A launcher does not: it has a child process do it. Whether the
environment is there and the parts fit together only the training finds out.
"""

from collections.abc import Sequence
import os
import subprocess
import sys

from absl import logging

from podrl.config.commandline import parse_command_line
from podrl.config.config import MISTAKE, ConfigError
from podrl.config.programs import ROOT
from podrl.runtime.tool import run_tool

_CHILD = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from podrl.launch import config_check; config_check.main()"
_LIMIT_S = 120.0
_NAME = "podrl"
_ERROR = f"{_NAME}: error: "


def check_config(argv: Sequence[str]) -> None:
    """Checks keys, types and ranges of the config that a training's command line asks for.

    A host that only submits may lack JAX, or may not be able to import it. Then one line says so, and the training's
    own check remains.

    Args:
        argv: the command line without the launch flags.

    Raises:
        ConfigError: if the training would refuse its config.
    """
    command = [sys.executable, "-P", "-c", _CHILD, *argv[1:]]
    environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
    try:
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        code, said = 1, f"no answer within {_LIMIT_S:.0f} s"
    else:
        lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        errors = [line for line in lines if line.startswith(_ERROR)]  # Libraries may have a last word after it.
        code, said = ended.returncode, (errors or lines)[-1]
    if code == MISTAKE:
        raise ConfigError(said.removeprefix(_ERROR))
    if code:
        logging.warning("The agent's keys are not checked here (%s): the training does so when it starts.", said)


def main() -> None:
    """Checks the config in the child process, whose command line is the training's; ends with its exit code."""
    sys.exit(run_tool(_NAME, lambda: _resolve(sys.argv)))


def _resolve(argv: list[str]) -> None:
    from podrl.assembly import resolve  # Imports JAX, which the launcher must not.

    resolve(parse_command_line(argv).config)
