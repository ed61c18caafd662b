"""Pictures of what a command shows on a terminal, for the docs.

python docs/picture_terminal.py --frame 0.45 docs/panel.svg python tools/tpu_launch.py --config configs/impala_catch.py
"""

import argparse
import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios

from rich.console import Console
from rich.text import Text

_ERASED = re.compile(r"\r(?:\x1b\[2K|\x1b\[1A)+")  # What Rich writes before it draws a frame anew.
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.S)  # Rich would load it from a server.


def main() -> None:
    """Runs the command on a terminal of its own and writes one picture of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="the picture, .svg")
    parser.add_argument("--columns", type=int, default=100, help="width of the terminal")
    parser.add_argument("--lines", type=int, default=0, help="shows so many lines of the output; 0: all")
    parser.add_argument("--frame", type=float, help="shows one frame of a live display, 0.5 for the middle one")
    parser.add_argument("--title", default="", help="title of the window; the command by default")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    shown = re.sub(r"\r+\n", "\n", output_of(args.command, args.columns))
    frames = [frame for frame in _ERASED.split(shown) if frame.strip()]
    if args.frame is not None:
        shown = frames[int(args.frame * (len(frames) - 1))]
    lines = [line for line in shown.strip("\n").split("\n") if line.strip()]
    console = Console(record=True, width=args.columns, file=io.StringIO())
    console.print(Text.from_ansi("\n".join(lines[: args.lines or None])), soft_wrap=False)
    svg = console.export_svg(title=args.title or " ".join(args.command))
    with open(args.out, "w") as file:
        file.write(_FONT.sub("", svg).replace("Fira Code", "monospace"))


def output_of(command: list[str], columns: int) -> str:
    """Returns all that a command writes to its terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", COLUMNS=str(columns), LINES="40")
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    written = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux says so that the child has closed it.
            break
        if not piece:
            break
        written += piece
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}: {written.decode()[-2000:]}")
    return written.decode()


if __name__ == "__main__":
    main()
