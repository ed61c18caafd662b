"""What all tools over finished runs have in common."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time

import pytest

from tests.processes import LIMIT_S, ROOT, environment, wait_for


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("compare_runs", ["{run}", "{run}"]),
        ("evaluate", ["--workdir", "{run}"]),
        ("inspect_checkpoint", ["--workdir", "{run}"]),
        ("plot", ["{run}", "--out", "curve.png"]),
    ],
)
def test_ctrl_c_ends_a_tool_without_a_traceback(tmp_path, tool, arguments):
    """A named pipe in place of the config: the tool has read its first byte when that is gone, and waits for more.

    A signal between the opening and the first read would be lost: Python looks for signals before, and the read waits.
    """
    pipe = tmp_path / "config.json"
    os.mkfifo(pipe)
    (tmp_path / "metrics.jsonl").touch()
    for name, fact in (("counters", '{"learner_steps": 1, "env_steps": 9, "frames": 9}'), ("episodes", "{}")):
        (tmp_path / "checkpoints/1" / name).mkdir(parents=True)
        (tmp_path / "checkpoints/1" / name / "metadata").write_text(fact)
    command = [sys.executable, str(ROOT / f"tools/{tool}.py"), *(each.format(run=tmp_path) for each in arguments)]
    with subprocess.Popen(
        command,
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as process:
        writers: list[int] = []
        try:
            wait_for(lambda: bool(writers.extend(open_end(pipe)) or writers), process)
            os.write(writers[0], b"{")
            wait_for(lambda: num_waiting(writers[0]) == 0, process)
            time.sleep(0.2)  # The tool's next read follows within microseconds.
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
            for writer in writers:
                os.close(writer)
    assert (process.returncode, stdout, stderr) == (130, "", "")


def heed_ctrl_c():
    """As in a shell's foreground; what runs in the background may have inherited that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def open_end(pipe):
    """The end to write to, once somebody reads; until then none."""
    with contextlib.suppress(OSError):
        yield os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)


def num_waiting(pipe):
    """Bytes in a pipe that nobody has read."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
