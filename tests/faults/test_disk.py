"""Disks that are full, files that are damaged, folders that cannot be written, and file systems that do not answer."""

import contextlib
import os
from pathlib import Path
import re
import resource
import subprocess

import pytest

from tests.faults.commands import CATCH, SCRIPTED
from tests.faults.sameness import assert_same, assert_whole
from tests.processes import checkpoints, error_lines, finish, launch, num_rows, running, wait_for


def held(gate, *, pool):
    """A run whose first process stands still in the first step of a pool, until the file `gate` comes."""
    options = {"only_in_pool": pool, "hang_at_step": 1, "hang_until": gate}
    return (*SCRIPTED, *(f"--config.env.options.{name}={value}" for name, value in options.items()))


def go_on(arguments, workdir, update):
    result = launch(*arguments, "--workdir", workdir, cwd=workdir)
    assert result.returncode == 0, result.stderr
    assert f"Resumes the run in this folder after update {update}" in result.stderr
    return result.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of a megabyte; wants the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True)
    if mounting.returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder):
    """Fills its file system to the last byte; returns the file to delete to make room."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 4096)
    return ballast


class TestNoRoom:
    @pytest.mark.parametrize("tensorboard", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_for_metrics(self, small_disk, tmp_path, straight_scripted, tensorboard):
        workdir, gate = small_disk / "run", tmp_path / "gate"
        arguments = (*held(gate, pool=3), f"--config.log.tensorboard={tensorboard}")
        with running(*arguments, "--workdir", workdir, cwd=small_disk) as process:
            wait_for(lambda: checkpoints(workdir) == [4], process)
            ballast = fill(small_disk)
            gate.touch()
            stderr = finish(process)
        assert process.returncode == 1
        assert error_lines(stderr) == [
            f"The run failed: The metrics in {workdir} cannot be written (No space left on device). What was saved is "
            "not harmed: fix this and repeat the command to resume.",
            "Details:",
        ]
        ballast.unlink()
        go_on(arguments, workdir, 4)
        assert_same(workdir, straight_scripted, SCRIPTED)

    def test_for_curves_alone(self, small_disk, tmp_path, straight_scripted):
        """A thread of tensorboardX's that dies of a full disk would leave the learner waiting for ever."""
        workdir, arguments = tmp_path / "run", (*SCRIPTED, "--config.log.tensorboard=True")
        workdir.mkdir()
        (workdir / "tensorboard").symlink_to(small_disk)
        ballast = fill(small_disk)
        result = launch(*arguments, "--workdir", workdir, cwd=tmp_path)
        assert result.returncode == 1
        assert f"The metrics in {workdir} cannot be written (No space left on device)." in error_lines(result.stderr)[0]
        ballast.unlink()
        assert launch(*arguments, "--workdir", workdir, cwd=tmp_path).returncode == 0
        assert_same(workdir, straight_scripted, SCRIPTED)

    @pytest.mark.parametrize("num_updates", [8, pytest.param(16, marks=pytest.mark.slow)])
    def test_for_a_checkpoint(self, tmp_path, straight_scripted, num_updates):
        """A limit on the size of files, which metrics keep and the largest array does not: at the end or midway."""
        workdir, gate = tmp_path / "run", tmp_path / "gate"
        total = f"--config.total_env_steps={num_updates * 8 * 4}"
        arguments = (*held(gate, pool=3), total, "--config.checkpoint.keep=1")
        with running(*arguments, "--workdir", workdir, cwd=tmp_path) as process:
            wait_for(lambda: checkpoints(workdir) == [4], process)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
            gate.touch()
            stderr = finish(process)
        assert process.returncode == 1
        assert error_lines(stderr) == [
            f"The run failed: The checkpoint of update 8 could not be saved as {workdir / 'checkpoints/8'}: File too "
            "large. It does not count; the newest whole one is of update 4.",
            "Details:",
        ]
        assert "Exception ignored" not in stderr
        assert checkpoints(workdir) == [4]
        assert num_rows(workdir) < 16  # It did not go on to the next save.
        go_on(arguments, workdir, 4)
        assert_whole(workdir, num_updates)
        assert checkpoints(workdir) == [num_updates]
        if num_updates == 8:
            assert_same(workdir, straight_scripted, SCRIPTED)


def largest_file(checkpoint):
    return max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


class TestDamage:
    @pytest.mark.parametrize("damage", [truncate, pytest.param(Path.unlink, marks=pytest.mark.slow)])
    def test_to_the_newest_checkpoint_costs_only_that_one(self, unfinished, straight_catch, damage):
        before, newest = checkpoints(unfinished)
        damage(largest_file(unfinished / f"checkpoints/{newest}"))
        stderr = go_on(CATCH, unfinished, before)
        assert f"WARNING: Checkpoint {newest} is damaged and was put aside as damaged-{newest}: " in stderr
        assert (unfinished / f"checkpoints/damaged-{newest}").is_dir()
        assert_same(unfinished, straight_catch, CATCH)

    def test_to_all_checkpoints_is_an_error_and_no_new_start(self, unfinished):
        rows, updates = (unfinished / "metrics.jsonl").read_text(), checkpoints(unfinished)
        for update in updates:
            truncate(largest_file(unfinished / f"checkpoints/{update}"))
        restarted = ("--max_restarts", 2, "--restart_pause_s", 0)  # Three starts in all.
        result = launch(*CATCH, *restarted, "--workdir", unfinished, cwd=unfinished)
        assert result.returncode == 1
        said = "The run failed: All checkpoints of this run are damaged. They were left as they are. Checkpoint "
        lines = error_lines(result.stderr)
        assert [line.startswith(said) and "or add --start_anew" in line for line in lines[::2]] == [True, True]
        assert "no further than before" in result.stderr
        assert (unfinished / "metrics.jsonl").read_text() == rows
        assert checkpoints(unfinished) == updates


class TestFolder:
    def refused(self, workdir, reason, cwd):
        """Whether it is refused in one line."""
        result = launch(*SCRIPTED, "--workdir", workdir, cwd=cwd)
        said = f"podrl: error: --workdir={workdir} cannot be written ({reason}). Choose another folder.\n"
        return (result.returncode, result.stderr) == (2, said)

    def test_that_lies_below_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        assert self.refused(tmp_path / "file/run", "Not a directory", tmp_path)

    def test_that_nobody_can_make(self, tmp_path):
        assert self.refused("/proc/podrl", "No such file or directory", tmp_path)

    def test_that_is_read_only(self, small_disk):
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        assert self.refused(small_disk, "Read-only file system", small_disk)

    def test_that_lies_on_a_full_disk(self, small_disk):
        fill(small_disk)
        assert self.refused(small_disk, "No space left on device", small_disk)
        assert [path.name for path in small_disk.iterdir()] == ["ballast"]

    def test_that_another_run_is_in(self, tmp_path, straight_scripted):
        gate = tmp_path / "gate"
        arguments = (*held(gate, pool=3), "--workdir", "run")
        with running(*arguments, cwd=tmp_path) as first:
            wait_for(lambda: num_rows(tmp_path / "run") >= 1, first)
            second = launch(*arguments, cwd=tmp_path)
            assert first.poll() is None
            gate.touch()
            stderr = finish(first)
        who = rf"process {first.pid} on .*, since .*"
        said = rf"podrl: error: --workdir={tmp_path}/run is in use by another run \({who}\)\. Choose another folder\.\n"
        assert second.returncode == 2
        assert re.fullmatch(said, second.stderr)
        assert first.returncode == 0, stderr
        assert_same(tmp_path / "run", straight_scripted, SCRIPTED)


@pytest.mark.slow
def test_a_file_system_that_does_not_answer_ends_the_run(unfinished, straight_catch):
    """A named pipe that nobody reads: opening it blocks, as a dead network file system does."""
    newest, pipe = checkpoints(unfinished)[-1], unfinished / "metrics.jsonl.moved"
    os.mkfifo(pipe)
    limits = ("--config.watchdog_s=3", "--config.actors.timeout_s=2", "--accept_changes")
    result = launch(*CATCH, *limits, "--workdir", unfinished, cwd=unfinished)
    assert result.returncode == 124
    assert "The run stands still: learner has done nothing for 3 s. If that can be, raise watchdog_s." in result.stderr
    assert "writer.py" in result.stderr.partition("Stacks")[2]
    pipe.unlink()
    go_on((*CATCH, "--accept_changes"), unfinished, newest)
    assert_same(unfinished, straight_catch, CATCH)
