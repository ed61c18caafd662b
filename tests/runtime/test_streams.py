"""A process whose output nobody reads any more."""

import os
import subprocess
import sys
import threading
import time

import pytest

from podrl.launch.relay import Relay
from tests.processes import ROOT

SCRIPT = """
import os, sys
from podrl.runtime.streams import keep_printing
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


# Ends without a word of Python's after it has printed without a flush.
CUT_OFF = """
import os, signal, sys
from podrl.runtime.streams import keep_printing
keep_printing()
print("before the end")
sys.stderr.write("and of the other\\n")
os._exit(1) if sys.argv[1] == "exit" else os.kill(os.getpid(), signal.SIGKILL)
"""
FULL = """
import os, sys
os.set_blocking(1, False)
import podrl.runtime.streams
podrl.runtime.streams.SLOW_READER_S = float(sys.argv[1])
podrl.runtime.streams.keep_printing()
for line in range(3000):
    print("x" * 999, flush=line % 2)
print("went on", file=sys.stderr)
"""


def start(tmp_path, **streams):
    file = tmp_path / "file"
    file.touch()
    command = [sys.executable, "-c", SCRIPT, str(file)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=ROOT, **streams), file


@pytest.mark.parametrize("end", ["exit", "kill"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_without_buffers_nothing_is_lost_when_the_process_is_cut_off(end, unbuffered):
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    result = subprocess.run(
        [sys.executable, "-c", CUT_OFF, end], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout == ("before the end\n" if unbuffered else "")
    assert result.stderr == "and of the other\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stream_that_does_not_block_is_waited_for(unbuffered):
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", FULL, "60"]
    process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    out, said = process.communicate()
    assert (out, said, process.returncode) == (("x" * 999 + "\n") * 3000, "went on\n", 0)


def test_a_full_stream_that_nobody_reads_ends_nothing_and_is_logged_once():
    command = [sys.executable, "-c", FULL, "0.1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    process.communicate()
    assert process.returncode == 0
    assert said.count("What is printed on stdout is lost (it was not read in time). The run continues") == 1
    assert said.endswith("went on\n")
    assert "Traceback" not in said


def test_a_launcher_whose_full_stream_does_not_block_passes_everything_on(caplog):
    source, sink = os.pipe()
    ours, theirs = os.pipe()
    os.set_blocking(sink, False)
    with open(source, "rb") as reads, open(sink, "wb") as target, open(ours, "rb") as pipe, Relay() as relay:
        relay.add(pipe, "p0", target)
        read = []
        reader = threading.Thread(target=lambda: read.append(reads.read(300 * 1005)))
        threading.Timer(0.5, reader.start).start()
        with open(theirs, "wb") as process:
            for _ in range(300):
                process.write(b"x" * 999 + b"\n")
                process.flush()
                relay.pass_on(10.0)
        relay.pass_on(10.0)
        reader.join()
        assert read == [(b"[p0] " + b"x" * 999 + b"\n") * 300]
    assert "lost" not in caplog.text


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
    assert said.count("What is printed on stdout is lost (Broken pipe). The run continues") == 1
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
