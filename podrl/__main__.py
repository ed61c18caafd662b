"""The program `podrl`, and `python -m podrl`: `podrl evaluate ...` runs a command, and `podrl --help` lists them."""

import ast
import importlib
from pathlib import Path
import sys

from podrl.config.programs import TOOL_FILES
from podrl.mistakes import MISTAKE, did_you_mean
from podrl.runtime import stop_signals

_HELP = ("-h", "--help", "help")
_RUNS = ("train", "env_worker", "actor_worker")  # Signals end them from their first moment on.
_FOLDER = Path(__file__).parent / "commands"
_USAGE = """usage: podrl COMMAND [...]

{commands}

podrl COMMAND --help shows what a command takes."""


def main() -> int:
    """Runs the command that the command line names, and returns its exit code; 2 if there is no such command."""
    typed, *arguments = sys.argv[1:] or ["--help"]
    if typed in _HELP:
        sys.stdout.write(f"{_USAGE.format(commands=_list_commands())}\n")
        return 0
    known = [path.stem for path in _FOLDER.glob("[!_]*.py")]
    command = typed.replace("-", "_")
    if command not in known:
        renamed = {file: name for name, file in TOOL_FILES.items()}.get(command)
        hint = f"; it is 'podrl {renamed}'." if renamed else did_you_mean(typed, known)
        sys.stderr.write(f"podrl: error: There is no command {typed!r}{hint} See podrl --help.\n")
        return MISTAKE
    if command in _RUNS:
        stop_signals.stand()  # Before the following import, which takes seconds.
    code: int = importlib.import_module(f"podrl.commands.{command}").main([f"podrl {command}", *arguments])
    return code


def _list_commands() -> str:
    """Returns a line for each command: what its docstring says first."""
    found = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in _FOLDER.glob("[!_]*.py")}
    width = max(map(len, found)) + 2
    return "\n".join(f"  {name:{width}}{text.partition('. See ')[0]}." for name, text in sorted(found.items()))


if __name__ == "__main__":
    sys.exit(main())
