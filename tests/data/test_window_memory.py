"""A whole run from a data set that is four times as large as its window holds no more than the window."""

from pathlib import Path
import time

import pytest

from tests.data.frames import FRAME_BYTES, ID, write_frames
from tests.processes import ROOT, num_rows, read_rows, running

EPISODES, STEPS, UPDATES = 400, 50, 300
ROWS = EPISODES * (STEPS + 1)
ARGUMENTS = (
    *("--config", ROOT / "configs/bc.py", "--config.env.source=gymnasium", f"--config.env.id={ID}"),
    *("--config.network.hidden_sizes=(8,)", f"--config.total_updates={UPDATES}", "--config.evaluate.every_updates=0"),
    *("--config.data.batch=16", "--config.data.learner_steps=1", "--config.log.every_updates=1"),
    *("--config.log.tensorboard=False", "--config.checkpoint.every_updates=0"),
)
# The window passes over all episodes before the run ends.
WINDOW = (f"--config.data.window={ROWS // 4}", "--config.data.window_episodes=2")


@pytest.mark.slow
def test_memory_stays_that_of_the_window(tmp_path):
    data = write_frames(tmp_path / "set", episodes=EPISODES, length=STEPS)
    size = ROWS * FRAME_BYTES
    assert size > 140e6
    arguments = (*ARGUMENTS, f"--config.data.path={data}")
    windowed = train_and_watch(*arguments, *WINDOW, workdir=tmp_path / "windowed")
    whole = train_and_watch(*arguments, workdir=tmp_path / "whole")
    assert max(windowed) - windowed[0] < size / 8, "Memory grew as the window moved."
    assert max(windowed) + size / 2 < max(whole)
    for name in ("windowed", "whole"):
        assert read_rows(tmp_path / name)[-1]["learner_steps"] == UPDATES


def train_and_watch(*arguments, workdir):
    """Trains with the command, and returns the resident bytes of its process from a tenth of the updates on."""
    seen = []
    with running(*arguments, "--workdir", workdir, cwd=workdir.parent, anew=True) as process:
        while process.poll() is None:
            if num_rows(workdir) > UPDATES // 10 and (resident := resident_bytes(process.pid)):
                seen.append(resident)
            time.sleep(0.02)
        said = process.communicate()[1]
    assert process.returncode == 0, said
    assert seen, "The run ended before anybody looked."
    return seen


def resident_bytes(pid):
    """Resident memory of a process; 0 if it has just ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0]) if "VmRSS:" in status else 0
