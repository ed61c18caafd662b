"""How tools end, and what they check of their flags."""

import os
import subprocess
import sys

import pytest

from podrl.config.config import ConfigError
from podrl.runtime.tool import check_known, check_writable, parse_numbers, run_tool
from tests.processes import LIMIT_S, ROOT


def raises(error, cause=None):
    def run():
        raise error from cause

    return run


@pytest.mark.parametrize(
    ("run", "code", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (raises(ConfigError("no such key")), 2, "tool: error: no such key\n"),
        (raises(ConfigError("better said"), ConfigError("no such key")), 2, "tool: error: better said\n"),
        (raises(RuntimeError("a thread died"), ConfigError("no such key")), 2, "tool: error: no such key\n"),
        (raises(RuntimeError("damaged")), 1, "tool: error: damaged\n"),
        (raises(KeyboardInterrupt()), 130, "tool: bye\n"),
    ],
)
def test_a_tool_ends_with_a_code_and_a_line(run, code, said, capsys):
    assert run_tool("tool", run, failures=(RuntimeError,), farewell="bye") == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("lines", [1, 100_000], ids=["buffered", "more than the pipe holds"])
def test_a_reader_that_has_read_enough_is_no_failure(lines):
    """As with `... --help | head`."""
    program = (
        "import sys; from podrl.runtime.tool import run_tool\n"
        f"sys.exit(run_tool('tool', lambda: print('line\\n' * {lines})))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT) as process:
        os.close(writer)
        _, said = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, said) == (0, b"")


def test_ctrl_c_needs_no_words(capsys):
    assert run_tool("tool", raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="a defect"):
        run_tool("tool", raises(RuntimeError("a defect")))


def test_numbers():
    assert parse_numbers("--hosts", "1,16, 4") == (1, 16, 4)
    assert parse_numbers("--hosts", None) == ()
    assert parse_numbers("--seeds", "0", least=0) == (0,)


@pytest.mark.parametrize("text", ["", "1,,2", "0", "-1", "1.5", "²", "1,1"])
def test_what_are_no_different_numbers_is_one_line(text):
    with pytest.raises(ConfigError) as error:
        parse_numbers("--hosts", text, distinct=True)
    assert str(error.value) == f"--hosts={text} must be different whole numbers of at least 1, such as 1,2,4."


def test_unknown_arguments_are_named():
    check_known(["--config.seed=1"], "--config.")
    with pytest.raises(ConfigError, match=r"Unknown argument '--confg\.seed=1'\. See --help\."):
        check_known(["--config.seed=1", "--confg.seed=1"], "--config.")


def test_where_nothing_can_be_written(tmp_path):
    check_writable("--json", None)
    check_writable("--json", tmp_path / "new.json")
    for path, complaint in ((tmp_path, "is a folder"), (tmp_path / "no/x.json", "there is no such folder")):
        with pytest.raises(ConfigError, match=f"--json={path}.* {complaint}"):
            check_writable("--json", path)
