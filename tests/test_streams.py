"""A process whose output nobody reads any more."""

import os
import subprocess
import sys

from tests.processes import ROOT

SCRIPT = """
import os, sys
from podrl.streams import keep_printing
keep_printing()
print("first", flush=True)
sys.stdin.readline()
for line in range(3):
    print("lost", flush=True)
    sys.stdout.buffer.write(b"lost")
    os.path.exists(sys.argv[1]) or sys.exit("no file")
print("and the last without a flush")
open(sys.argv[1], "w").write("went on")
"""


def start(tmp_path, **streams):
    file = tmp_path / "file"
    file.touch()
    command = [sys.executable, "-c", SCRIPT, str(file)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=ROOT, **streams), file


def test_a_reader_of_stdout_that_goes_away_ends_nothing_and_is_logged_once(tmp_path):
    process, file = start(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdin.write("go on\n")
    process.stdin.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert file.read_text() == "went on"
    assert said.count("What is printed on stdout is lost (Broken pipe). The run goes on") == 1
    assert "Traceback" not in said
    assert "Exception" not in said


def test_a_terminal_that_closes_ends_nothing(tmp_path):
    ours, theirs = os.openpty()
    process, file = start(tmp_path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert b"first" in os.read(ours, 100)
    os.close(ours)
    process.stdin.write("go on\n")
    process.stdin.close()
    assert process.wait() == 0
    assert file.read_text() == "went on"


def test_what_is_printed_stays_as_it_was(tmp_path):
    process, _ = start(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = process.communicate("go on\n")
    assert (out.split("\n")[0], out.count("lost"), out.splitlines()[-1][-14:]) == ("first", 6, "without a flush"[-14:])
