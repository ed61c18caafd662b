"""Processes that are ended from outside: by `kill -9` at any moment, and by SIGTERM."""

import json
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.faults.commands import BREAKOUT, CATCH
from tests.faults.sameness import assert_same, assert_whole
from tests.processes import ROOT, checkpoints, launch, num_rows, running, signalled

BIG = (*CATCH, "--config.network.hidden_sizes=(2048,2048)")  # Checkpoints of 46 MB take a while to write.
BIG = (*BIG, "--config.actors.num_envs=8", "--config.actors.unroll_length=4", "--config.total_env_steps=1280")
BIG = (*BIG, "--config.checkpoint.every_updates=10")  # Of 40.
RING = ("--config", ROOT / "configs/impact_catch.py", *CATCH[2:], "--config.total_env_steps=38_400")  # 60 updates.

LARGE_RING = (*RING, "--config.replay.batches=1024", "--config.actors.num_envs=8")  # Of 200 MB.
LARGE_RING = (*LARGE_RING, "--config.actors.unroll_length=100", "--config.total_env_steps=32_000")  # 40 updates.
LARGE_RING = (*LARGE_RING, "--config.checkpoint.every_updates=10")
SEEDS = (*LARGE_RING, "--config.replay.batches=256", "--config.topology.seeds=2", "--config.total_env_steps=24_000")
SEEDS = (*SEEDS, "--config.env.source=gymnax", "--config.env.id=Catch-bsuite", "--config.topology.placement=anakin")


def go_on(arguments, workdir):
    result = launch(*arguments, "--workdir", workdir, cwd=workdir)
    assert result.returncode == 0, result.stderr
    return result.stderr


def straight(arguments, workdir):
    workdir.mkdir()
    go_on(arguments, workdir)
    return workdir


def kill(arguments, workdir):
    """Kills a run that has written rows after its newest checkpoint."""
    when = lambda: bool(checkpoints(workdir)) and num_rows(workdir) > checkpoints(workdir)[-1]  # noqa: E731
    assert signalled(signal.SIGKILL, *arguments, workdir=workdir, when=when)[0] == -signal.SIGKILL


class TestResume:
    """2N updates straight, and N, `kill -9`, N more, in processes of their own."""

    def test_on_catch(self, unfinished, straight_catch):
        newest = checkpoints(unfinished)[-1]
        assert newest < num_rows(unfinished) < 120
        assert f"Resumes the run in this folder after update {newest}" in go_on(CATCH, unfinished)
        assert_same(unfinished, straight_catch, CATCH)
        assert json.loads((unfinished / "manifest-2.json").read_text())["seed"] == 1

    @pytest.mark.slow
    def test_on_breakout(self, tmp_path):
        kill(BREAKOUT, tmp_path / "run")
        newest = checkpoints(tmp_path / "run")[-1]
        assert newest < num_rows(tmp_path / "run") < 12
        assert f"Resumes the run in this folder after update {newest}" in go_on(BREAKOUT, tmp_path / "run")
        assert_same(tmp_path / "run", straight(BREAKOUT, tmp_path / "straight"), BREAKOUT)

    @pytest.mark.slow
    def test_with_a_ring_of_batches(self, tmp_path):
        kill(RING, tmp_path / "run")
        assert checkpoints(tmp_path / "run")[-1] < num_rows(tmp_path / "run") < 60
        assert "replay: 4 batches, each learned from 2 times" in go_on(RING, tmp_path / "run")
        assert_same(tmp_path / "run", straight(RING, tmp_path / "straight"), RING)

    @pytest.mark.parametrize(
        "arguments",
        [pytest.param(CATCH, marks=pytest.mark.slow), pytest.param(BREAKOUT, marks=pytest.mark.long)],
        ids=["catch", "breakout"],
    )
    def test_with_ten_kills_at_any_moment(self, tmp_path, arguments):
        """From the start of the process on: while it reads a checkpoint, opens files, learns, saves, ends."""
        before_s = time.monotonic()
        expected = straight(arguments, tmp_path / "straight")
        whole_s = time.monotonic() - before_s
        moments, kills, runs = random.Random(1), [], 0
        while len(kills) < 10:
            workdir, runs = tmp_path / f"run{runs}", runs + 1
            workdir.mkdir()
            done = False
            while not done and len(kills) < 10:
                done = is_done(workdir, arguments, after_s := moments.uniform(0.0, whole_s))
                if not done:
                    kills.append((workdir.name, f"{after_s:.3f} s", f"{num_rows(workdir)} rows", checkpoints(workdir)))
            if not done:
                go_on(arguments, workdir)
            try:
                assert_same(workdir, expected, arguments)
            except AssertionError as error:
                error.add_note(f"Killed: {kills}")
                raise


def is_done(workdir, arguments, after_s):
    """Starts or goes on, and kills the process after so many seconds unless it has ended by then."""
    with running(*arguments, "--workdir", workdir, cwd=workdir) as process:
        try:
            _, stderr = process.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            _, stderr = process.communicate()
            if process.returncode == -signal.SIGKILL:  # Else it ended just before.
                return False
    assert process.returncode == 0, stderr
    return True


class TestSaving:
    @pytest.mark.slow
    def test_a_kill_in_the_middle_of_a_save_costs_only_that_save(self, tmp_path):
        workdir = tmp_path / "run"
        folder = workdir / "checkpoints"

        def half_saved():
            return [path.name for path in folder.glob("*tmp*")] if folder.exists() else []

        for _ in range(3):  # On a busy machine a save may end before it is seen.
            shutil.rmtree(workdir, ignore_errors=True)
            signalled(signal.SIGKILL, *BIG, workdir=workdir, when=lambda: bool(checkpoints(workdir) and half_saved()))
            if half_saved():
                break
        (left,) = half_saved()
        (left_update,) = [int(number) for number in re.findall(r"^\d+", left)]
        newest = checkpoints(workdir)[-1]
        assert left_update == newest + 10
        assert f"Resumes the run in this folder after update {newest}" in go_on(BIG, workdir)
        assert half_saved() == []
        assert_same(workdir, straight(BIG, tmp_path / "straight"), BIG)

    @pytest.mark.slow
    def test_a_kill_in_the_middle_of_a_replay_costs_only_that_save(self, tmp_path):
        """The checkpoint before has its own replay still."""
        workdir = tmp_path / "run"

        def half_saved():
            return list((workdir / "checkpoints").glob("*tmp*/replay*/batches"))

        for _ in range(3):
            shutil.rmtree(workdir, ignore_errors=True)
            when = lambda: bool(checkpoints(workdir) and half_saved())  # noqa: E731
            signalled(signal.SIGKILL, *LARGE_RING, workdir=workdir, when=when)
            if half_saved():
                break
        assert half_saved()
        newest = checkpoints(workdir)[-1]
        said = go_on(LARGE_RING, workdir)
        assert f"Resumes the run in this folder after update {newest}" in said
        assert "the replay is refilled" not in said
        assert half_saved() == []
        assert [step for step in checkpoints(workdir) if (workdir / f"checkpoints/{step}/replay").exists()] == [40]
        assert_same(workdir, straight(LARGE_RING, tmp_path / "straight"), LARGE_RING)

    @pytest.mark.slow
    def test_a_kill_in_the_middle_of_the_save_of_one_seed_costs_all_only_that_save(self, tmp_path):
        workdir = tmp_path / "run"
        one, other = workdir / "seed-1", workdir / "seed-2"

        def half_saved():
            return list((other / "checkpoints").glob("*tmp*/replay*/batches"))

        for _ in range(3):
            shutil.rmtree(workdir, ignore_errors=True)
            when = lambda: bool(checkpoints(one) and checkpoints(other) and half_saved())  # noqa: E731
            signalled(signal.SIGKILL, *SEEDS, workdir=workdir, when=when)
            if half_saved():
                break
        assert half_saved()
        newest = checkpoints(other)[-1]
        assert newest in checkpoints(one)
        said = go_on(SEEDS, workdir)
        assert said.count(f"Resumes the run in this folder after update {newest}") == 1
        assert "the replay is refilled" not in said
        assert half_saved() == []
        expected = straight(SEEDS, tmp_path / "straight")
        for seed in (1, 2):
            alone = (*SEEDS, "--config.topology.seeds=1", f"--config.seed={seed}")
            assert_same(workdir / f"seed-{seed}", expected / f"seed-{seed}", alone)


class TestSigterm:
    @pytest.mark.parametrize(
        "seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)]
    )
    def test_a_run_that_is_told_to_stop_goes_on_bit_for_bit_from_a_boundary(self, tmp_path, straight_catch, seed):
        workdir, update = tmp_path / "run", random.Random(seed).randrange(21, 80)
        code, stderr = signalled(signal.SIGTERM, *CATCH, workdir=workdir, when=lambda: num_rows(workdir) >= update)
        assert code == 75, update
        assert "Stopping after this update; SIGTERM again to stop at once." in stderr
        assert f"To resume: the same command with --workdir={workdir}" in stderr
        stopped = num_rows(workdir)
        assert update <= stopped < 120
        assert_whole(workdir, stopped)
        assert checkpoints(workdir)[-1] == stopped  # Saved where it stopped, and kept with the newest boundaries.
        assert stopped - stopped % 20 in checkpoints(workdir)
        assert f"after update {stopped - stopped % 20}" in go_on(CATCH, workdir)
        assert_same(workdir, straight_catch, CATCH)

    @pytest.mark.slow
    def test_a_notice_of_a_scheduler_does_the_same(self, tmp_path, straight_catch):
        workdir = tmp_path / "run"
        code, stderr = signalled(signal.SIGUSR1, *CATCH, workdir=workdir, when=lambda: num_rows(workdir) >= 30)
        assert code == 75
        assert "Stopping after this update; Ctrl-C or SIGTERM twice to stop at once." in stderr
        assert checkpoints(workdir)[-1] == num_rows(workdir) < 120
        go_on(CATCH, workdir)
        assert_same(workdir, straight_catch, CATCH)

    @pytest.mark.slow
    def test_one_that_is_stopped_before_the_first_boundary_says_that_it_goes_on_otherwise(self, tmp_path):
        arguments = (*CATCH, "--config.checkpoint.every_updates=100")
        workdir = tmp_path / "run"
        assert signalled(signal.SIGTERM, *arguments, workdir=workdir, when=lambda: num_rows(workdir) >= 10)[0] == 75
        (stopped,) = checkpoints(tmp_path / "run")
        result = launch(*arguments, "--workdir", "run", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert f"Update {stopped} is between two boundaries (checkpoint.every_updates=100)" in result.stderr
        assert_whole(tmp_path / "run", 120)
