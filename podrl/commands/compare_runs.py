"""Shows where two runs first differ, and in what. See `--help`."""

from podrl.config.commandline import Parser
from podrl.config.paths import absolute
from podrl.runs.comparison import compare_runs
from podrl.runs.comparison_report import show_comparison
from podrl.runs.records import read_record
from podrl.runtime.tables import make_console
from podrl.runtime.tool import run_tool

USAGE = """%(prog)s A B

A and B are the folders of two runs. Compares config, seed, software and hardware, and then, over the updates that have
a row in both, the data that they learned from and the parameters that they made. Exit code: 0 if data and parameters
are equal, 1 if they differ, 2 on a mistake in the command."""


def run(argv: list[str]) -> int:
    """Compares the runs, prints the result, and returns the exit code."""
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("a", type=absolute, metavar="A", help="folder of a run")
    parser.add_argument("b", type=absolute, metavar="B", help="folder of another")
    flags = parser.parse_args(argv[1:])
    a, b = read_record(flags.a), read_record(flags.b)
    comparison = compare_runs(a, b)
    show_comparison(make_console(), a, b, comparison)
    return 0 if comparison.is_equal else 1


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 0 equal, 1 different, 2 a mistake in the command."""
    return run_tool("compare_runs", lambda: run(argv))
