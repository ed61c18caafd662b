"""How podrl's commands are called: by the files of a clone's `tools/`, or by the program `podrl` of an installed wheel.

Messages name commands in the form that their reader has typed, and launchers start them in the form that is there.
"""

from collections.abc import Sequence
from pathlib import Path
import shlex
import sys

ROOT = Path(__file__).resolve().parents[2]  # The root of podrl's clone; of a wheel, the folder of installed packages.
# The files in `tools/` of commands that have other names.
TOOL_FILES = {"train": "tpu_launch", "study": "scaling_study"}


def is_clone() -> bool:
    """Whether podrl runs from its clone, and not from an installed wheel."""
    return (ROOT / "tools/tpu_launch.py").is_file()


def program_of(command: str) -> str:
    """Returns what messages call a command: `tools/evaluate.py`, or `podrl evaluate` where users type that."""
    return _tool(command) if is_clone() and not _is_installed_program(sys.argv[0]) else f"podrl {command}"


def typed_command(command: str) -> str:
    """Returns a command as users type it: `python tools/evaluate.py` or `podrl evaluate`."""
    program = program_of(command)
    return f"python {program}" if program.endswith(".py") else program


def shell_command(argv: Sequence[str]) -> str:
    """Returns a command line as a shell takes it; its first entry is the program's name, such as `podrl study`."""
    python = "python " if argv[0].endswith(".py") else ""
    return f"{python}{argv[0]} {shlex.join(argv[1:])}"


def start_arguments(command: str) -> tuple[str, ...]:
    """Returns the arguments of a Python that runs a command in any folder."""
    # Without -P a user's modules in the working folder would hide those of Python's own that podrl imports.
    return (str(ROOT / _tool(command)),) if is_clone() else ("-P", "-m", "podrl", command)


def members_program(typed_program: str) -> tuple[str, ...]:
    """Returns the arguments of a Python that runs what started this process, the first entry of its command line."""
    return (typed_program,) if typed_program.endswith(".py") else start_arguments("train")


def _tool(command: str) -> str:
    return f"tools/{TOOL_FILES.get(command, command)}.py"


def _is_installed_program(path: str) -> bool:
    """Whether a program is `podrl`, or `python -m podrl`."""
    return Path(path).name == "podrl" or Path(path) == ROOT / "podrl/__main__.py"
