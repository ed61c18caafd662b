"""Training over several processes, joined for real: the same numbers as in one, and nobody is left waiting."""

import collections
import json
import re
import shutil
import signal
import socket

import numpy as np
import pytest

from podrl.runs.checkpoint_arrays import read_params
from podrl.runs.checkpoint_facts import read_facts
from podrl.runs.replay_inspection import inspect_replay
from podrl.runtime.job.secret import VARIABLE
from tests.envs.numbered import read_opened
from tests.faults.commands import SCRIPTED
from tests.faults.sameness import assert_same
from tests.multihost.jobs import SECRET, Member
from tests.processes import (
    QUICK_TO_COMPILE,
    ROOT,
    checkpoints,
    error_lines,
    finish,
    finish_job,
    job,
    launch,
    num_rows,
    read_rows,
    running,
    signalled,
    wait_for,
)
from tests.short_runs import facts

CATCH = (  # 20 updates.
    *("--config", ROOT / "configs/impala_catch.py", "--config.total_env_steps=12_800"),
    *("--config.checkpoint.every_updates=5", "--config.checkpoint.keep=9"),
    *("--config.log.every_updates=1", "--config.log.tensorboard=False"),
)
SPLIT = (*SCRIPTED, "--config.topology.sharding=fsdp", "--config.network.hidden_sizes=(128,128)")
SPLIT = (*SPLIT, "--config.evaluate.every_updates=8", "--config.evaluate.episodes=1")
# Nobody waits for longer than the test does, and a process that hangs is told from one that is slow.
LIMITS = ("--join_timeout_s=250", "--config.actors.timeout_s=250")


def train(*arguments, cwd, **shape):
    """Runs a job to its end, without errors; returns what its processes said."""
    with job(*arguments, *LIMITS, cwd=cwd, **shape) as started:
        codes, errors = finish_job(started)
    assert set(codes) == {0}, errors
    return errors


def assert_close(workdir, other, update):
    ours, theirs = read_params(workdir, update), read_params(other, update)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[path], rtol=1e-5, atol=1e-5 * np.abs(leaf).max(), err_msg=path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The finished run of two processes with two devices each."""
    folder = tmp_path_factory.mktemp("pair")
    train(*CATCH, "--workdir", "run", cwd=folder, processes=2, devices=2)
    return folder / "run"


@pytest.fixture(scope="module")
def scripted_pair(tmp_path_factory):
    """The finished run of two processes on the scripted environment."""
    folder = tmp_path_factory.mktemp("scripted")
    train(*SCRIPTED, "--workdir", "run", cwd=folder, processes=2)
    return folder / "run"


@pytest.fixture(scope="module")
def unevaluated(tmp_path_factory):
    """The run of two processes, each with half of the parameters, that was told to stop in its last evaluation."""
    folder = tmp_path_factory.mktemp("unevaluated")
    endless = {0: json.dumps({"evaluation": {"episode_lengths": [10**6], "sleep_s": 0.01}})}
    with job(*SPLIT, *LIMITS, "--workdir", "run", cwd=folder, processes=2, options=endless) as started:
        wait_for(lambda: checkpoints(folder / "run") == [4, 8], started[0])
        started[0].send_signal(signal.SIGTERM)
        codes, errors = finish_job(started)
    assert codes == [75, 75], errors
    return folder / "run"


class TestNumbers:
    def test_two_processes_learn_what_one_does_with_as_many_devices(self, pair, tmp_path, monkeypatch):
        monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
        assert launch(*CATCH, "--workdir", "run", cwd=tmp_path).returncode == 0
        assert_close(pair, tmp_path / "run", 20)
        ours, theirs = read_rows(pair), read_rows(tmp_path / "run")
        assert len(ours) == len(theirs) == 20
        for name in ("env_steps", "episode/count", "episode/return", "episode/length"):
            assert [row.get(name) for row in ours] == [row.get(name) for row in theirs], name

    @pytest.mark.slow
    def test_delays_in_every_thread_change_nothing(self, pair, tmp_path):
        delayed = (*CATCH, "--config.env.source=tests.envs.delayed")
        train(*delayed, "--workdir", "run", cwd=tmp_path, processes=2, devices=2)
        assert facts(read_rows(tmp_path / "run")) == facts(read_rows(pair))

    @pytest.mark.slow
    def test_a_longer_lag_is_the_same_in_every_process_and_delays_change_nothing(self, tmp_path):
        for source in ("envpool", "tests.envs.delayed"):
            options = ("--config.actors.lag=4", f"--config.env.source={source}")
            train(*CATCH, *options, "--workdir", source, cwd=tmp_path, processes=2, devices=2)
        rows, delayed = (read_rows(tmp_path / source) for source in ("envpool", "tests.envs.delayed"))
        assert [(row["lag/mean"], row["lag/max"]) for row in rows] == [(lag, lag) for lag in range(5)] * 4
        assert facts(delayed) == facts(rows)

    @pytest.mark.slow
    def test_evaluation_changes_nothing(self, pair, tmp_path):
        evaluation = ("--config.evaluate.every_updates=10", "--config.evaluate.episodes=4")
        train(*CATCH, *evaluation, "--workdir", "run", cwd=tmp_path, processes=2, devices=2)
        rows = read_rows(tmp_path / "run")
        assert [row["learner_steps"] for row in rows if "evaluate/return" in row] == [10, 20]
        assert facts([row for row in rows if "evaluate/return" not in row]) == facts(read_rows(pair))

    def test_what_is_left_is_that_of_one_run(self, pair):
        manifest = json.loads((pair / "manifest.json").read_text())
        assert manifest["topology"]["mesh"] == {"process": 2, "device": 2}
        assert len(manifest["hosts"]) == 2
        assert checkpoints(pair) == [5, 10, 15, 20]


@pytest.mark.slow
def test_environments_inside_the_program_do_the_same_in_two_processes(tmp_path, monkeypatch):
    command = ("--config", ROOT / "configs/ppo_cartpole.py", "--smoke", "--config.checkpoint.every_updates=3")
    command = (*command, "--config.log.info_keys=(sum:discount)", "--config.log.episodes=10_000")
    train(*command, "--workdir", "pair", cwd=tmp_path, processes=2, devices=2)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
    assert launch(*command, "--workdir", "one", cwd=tmp_path).returncode == 0
    assert_close(tmp_path / "pair", tmp_path / "one", 6)
    ours, theirs = (read_rows(tmp_path / name) for name in ("pair", "one"))
    for name in ("episode/count", "episode/info/sum:discount"):
        assert [row.get(name) for row in ours] == [row.get(name) for row in theirs]
    # All steps but the last have a discount of 1: CartPole ends by a fall long before its limit here.
    assert ours[-1]["episode/info/sum:discount"] == pytest.approx(ours[-1]["episode/length"] - 1)
    assert checkpoints(tmp_path / "pair") == [3, 6]


@pytest.mark.slow
def test_numbers_of_info_are_the_same_in_two_processes(tmp_path, monkeypatch):
    environment = ("--config.env.source=gymnasium", "--config.env.id=tests.envs.informed:Informed")
    keys = "--config.log.info_keys=(success, max:success, mean:parts/*, last)"
    command = (*CATCH, "--config.total_env_steps=6_400", *environment, keys, "--config.log.episodes=300")
    train(*command, "--workdir", "pair", cwd=tmp_path, processes=2, devices=2)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
    assert launch(*command, "--config.env.workers=2", "--workdir", "one", cwd=tmp_path).returncode == 0
    ours, theirs = (
        [{key: value for key, value in row.items() if key.startswith("episode/")} for row in read_rows(tmp_path / name)]
        for name in ("pair", "one")
    )
    assert ours == theirs
    assert len(ours) == 10
    names = {key.removeprefix("episode/info/") for key in ours[-1] if key.startswith("episode/info/")}
    assert names == {"success", "max:success", "mean:parts/a", "mean:parts/b", "last"}
    assert 0 < ours[-1]["episode/info/max:success"] < 1


@pytest.mark.slow
def test_parts_masks_actions_of_two_kinds_and_info_survive_a_lost_process(tmp_path):
    """With environments that fail where the number of one is another's in the job, too."""
    wrapper = f'tests.envs.numbered:Held(folder="{tmp_path}", port={{env_number+5000}})'
    command = (
        *(*SCRIPTED, "--config.env.source=gymnasium", "--config.env.id=tests.envs.sides:Limited"),
        *(f"--config.env.wrappers=('{wrapper}',)", "--config.network.encoder=minatar"),
        *("--config.log.info_keys=(number, sum:earned)", "--config.checkpoint.every_updates=10"),
        "--config.total_env_steps=1280",  # 40 updates.
    )
    train(*command, "--workdir", "straight", cwd=tmp_path, processes=2)
    opened = collections.Counter(int(number) for number, _ in read_opened(tmp_path))
    assert opened == collections.Counter({5000 + env: 4 for env in range(8)} | {5000: 5, 5001: 5})  # One try each.
    with job(*command, *LIMITS, "--workdir", "run", cwd=tmp_path, processes=2) as started:
        wait_for(lambda: bool(checkpoints(tmp_path / "run")), started[0])
        started[1].kill()
        finish(started[0])
        assert started[0].returncode == 1
    assert 10 <= num_rows(tmp_path / "run") < 40
    said, *_ = train(*command, "--workdir", "run", cwd=tmp_path, processes=2)
    assert "Resumes the run in this folder after update" in said
    assert_same(tmp_path / "run", tmp_path / "straight", command)
    rows = read_rows(tmp_path / "run")
    assert all(row["episode/return"] <= 4 for row in rows if row["episode/count"])  # What is forbidden earns 100.
    assert rows[-1]["episode/info/sum:earned"] == pytest.approx(rows[-1]["episode/return"])
    assert rows[-1]["episode/info/number"] == pytest.approx(5003.5, abs=0.5)


@pytest.mark.slow
def test_a_ring_of_batches_goes_on_in_two_processes_from_one_that_joined_its_pools_in_another_order(
    tmp_path, monkeypatch
):
    command = ("--config", ROOT / "configs/impact_catch.py", *CATCH[2:], "--config.agent.minibatches=2")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    command = (*command, "--config.topology.actor_devices_per_process=1")
    command = (*command, "--config.topology.learner_devices_per_process=2")
    assert launch(*command, *LIMITS[1:], "--workdir", "one", cwd=tmp_path).returncode == 0
    pair = tmp_path / "pair"
    signalled(signal.SIGKILL, *command, *LIMITS[1:], workdir=pair, when=lambda: bool(checkpoints(pair)))
    newest = checkpoints(pair)[-1]
    assert 5 <= newest < 20
    said, *_ = train(*command, "--workdir", "pair", cwd=tmp_path, processes=2, devices=2)
    assert f"Resumes the run in this folder after update {newest}" in said
    assert "the replay is refilled" not in said
    written = inspect_replay(pair, 20, read_facts(pair, 20))  # By both processes; it checks every array's hash.
    assert (written.num_updates, written.num_steps) == (4, 4 * 32 * 20)
    assert_close(tmp_path / "pair", tmp_path / "one", 20)
    ours, theirs = (read_rows(tmp_path / name) for name in ("pair", "one"))
    for name in ("replay/age", "replay/ratio", "env_steps", "episode/count"):
        assert [row.get(name) for row in ours] == [row.get(name) for row in theirs], name


@pytest.mark.slow
def test_two_processes_draw_the_same_sequences_as_one(tmp_path):
    """One pool of each process, and two of the one: what is drawn goes by the environments' numbers."""
    command = ("--config", ROOT / "configs/r2d2_minigrid_memory.py", "--smoke", "--config.env.source=envpool")
    command = (*command, "--config.env.id=Catch-v0", "--config.env.observation_keys=()", "--config.env.uint8=auto")
    command = (*command, "--config.log.tensorboard=False")
    assert launch(*command, "--workdir", "one", cwd=tmp_path).returncode == 0
    single = "--config.actors.pools_per_thread=1"
    train(*command, single, "--workdir", "pair", cwd=tmp_path, processes=2, devices=1)
    assert_close(tmp_path / "pair", tmp_path / "one", 6)
    ours, theirs = (read_rows(tmp_path / name) for name in ("pair", "one"))
    assert [row["replay/ratio"] > 0 for row in ours] == [False] * 2 + [True] * 4
    for name in ("replay/age", "replay/ratio", "env_steps"):
        assert [row[name] for row in ours] == [row[name] for row in theirs], name
    for name in ("loss/weight", "loss/total", "replay/priority_mean"):
        np.testing.assert_allclose([row[name] for row in ours], [row[name] for row in theirs], rtol=1e-4, err_msg=name)


class TestGoingOn:
    """A checkpoint does not care how many processes wrote it."""

    @pytest.mark.parametrize("processes", [1, pytest.param(4, marks=pytest.mark.slow)])
    def test_in_another_number_of_processes(self, pair, tmp_path, processes):
        workdir = tmp_path / "run"
        shutil.copytree(pair, workdir)
        for update in (15, 20):
            shutil.rmtree(workdir / f"checkpoints/{update}")
        said, *_ = train(*CATCH, "--workdir", workdir, cwd=tmp_path, processes=processes, devices=4 // processes)
        assert "Resumes the run in this folder after update 10" in said
        assert re.search(r"topology\.mesh\.\w+ was 2", said)  # What else differs may leave no room for both.
        assert_close(workdir, pair, 20)

    def test_a_damaged_checkpoint_is_put_aside_by_all(self, pair, tmp_path):
        workdir = tmp_path / "run"
        shutil.copytree(pair, workdir)
        for file in (workdir / "checkpoints/20/state").rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
        said, other = train(*CATCH, "--workdir", workdir, cwd=tmp_path, processes=2, devices=2)
        assert "Checkpoint 20 is damaged and was put aside as damaged-20" in said
        assert "damaged" not in other
        assert_same(workdir, pair, CATCH)

    def test_so_is_one_of_which_a_single_process_misses_its_part(self, unevaluated, tmp_path):
        shutil.copytree(unevaluated, tmp_path / "run")
        shutil.rmtree(tmp_path / "run/checkpoints/8/state/ocdbt.process_1")
        said, _ = train(*SPLIT, "--workdir", "run", cwd=tmp_path, processes=2)
        assert "Checkpoint 8 is damaged and was put aside as damaged-8" in said
        assert "Resumes the run in this folder after update 4" in said


class TestLosses:
    """Of one process of two: the other ends and says why, and both together go on as if nothing had been."""

    def hold(self, folder, index):
        """Options with which a process stands still in the first step after the boundary."""
        return {index: json.dumps({"only_in_pool": 3, "hang_at_step": 1, "hang_until": str(folder / "gate")})}

    @pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.long)])
    def test_by_kill(self, scripted_pair, tmp_path, lost):
        run = (*SCRIPTED, *LIMITS, "--workdir", "run")
        with job(*run, cwd=tmp_path, processes=2, options=self.hold(tmp_path, lost)) as started:
            wait_for(lambda: checkpoints(tmp_path / "run") == [4], started[1 - lost])
            started[lost].kill()
            said = finish(started[1 - lost])
            assert started[1 - lost].returncode == 1
        assert re.fullmatch(rf"Process {lost} \(.*\) was lost: it was killed, or crashed\..*", error_lines(said)[-1])
        train(*SCRIPTED, "--workdir", "run", cwd=tmp_path, processes=2)
        assert_same(tmp_path / "run", scripted_pair, SCRIPTED)

    @pytest.mark.slow
    def test_by_a_stop(self, tmp_path):
        run = (*SCRIPTED, *LIMITS, "--workdir", "run")
        with job(*run, cwd=tmp_path, processes=2, options=self.hold(tmp_path, 1)) as started:
            wait_for(lambda: checkpoints(tmp_path / "run") == [4], started[0])
            started[1].send_signal(signal.SIGSTOP)
            said = finish(started[0])
            assert started[0].returncode == 1
        assert re.match(r"Process 1 \(.*\) is stuck: ", error_lines(said)[-1])

    @pytest.mark.slow
    def test_by_an_error_of_its_own(self, scripted_pair, tmp_path):
        run = (*SCRIPTED, *LIMITS, "--workdir", "run")
        fault = {1: json.dumps({"only_in_pool": 3, "raise_at_step": 6})}
        with job(*run, cwd=tmp_path, processes=2, options=fault) as started:
            codes, (first, second) = finish_job(started)
        assert codes == [1, 1]
        assert error_lines(second)[0] == "The run failed: actor 0 failed: RuntimeError: scripted failure at step 6"
        assert re.fullmatch(r"Process 1 \(.*\) ended: actor 0 failed: .* at step 6", error_lines(first)[-1])
        train(*SCRIPTED, "--workdir", "run", cwd=tmp_path, processes=2)
        assert_same(tmp_path / "run", scripted_pair, SCRIPTED)

    def stop(self, folder, told):
        """Sends SIGTERM to one of them, after the boundary."""
        run = (*SCRIPTED, *LIMITS, "--workdir", "run")
        with job(*run, cwd=folder, processes=2, options=self.hold(folder, 1 - told)) as started:
            wait_for(lambda: checkpoints(folder / "run") == [4], started[told])
            started[told].send_signal(signal.SIGTERM)
            (folder / "gate").touch()
            codes, (first, _) = finish_job(started)
        assert codes == [75, 75]
        assert f"To resume: the same command with --workdir={folder}/run" in first
        assert re.search(rf"Told to stop: process {told} \(.*\)\.", first)
        stopped = checkpoints(folder / "run")[-1]
        assert 4 < stopped < 8
        assert num_rows(folder / "run") == stopped

    def test_by_sigterm_saves_the_same_update_everywhere(self, tmp_path):
        self.stop(tmp_path, told=1)

    @pytest.mark.slow
    def test_by_sigterm_to_the_first(self, scripted_pair, tmp_path):
        self.stop(tmp_path, told=0)
        train(*SCRIPTED, "--workdir", "run", cwd=tmp_path, processes=2)
        assert_same(tmp_path / "run", scripted_pair, SCRIPTED)

    @pytest.mark.slow
    def test_by_ctrl_c_before_it_trains(self, tmp_path, monkeypatch):
        """While it waits for what the other is about to do."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
        member = ("--coordinator", address, "--process_count", 2, "--process_index", 0, "--workdir", "run")
        other = Member(address, 2, 1, 250, "wait")
        monkeypatch.setenv(VARIABLE, SECRET)
        try:
            with running(*SCRIPTED, *LIMITS, *member, cwd=tmp_path) as process:
                assert any("Process 0 of 2 on" in line for line in process.stderr)
                process.send_signal(signal.SIGINT)
                said = finish(process)
            assert process.returncode == 130
            assert "interrupted before anything was begun" in said
            code, _, lines = other.end()
            assert code == 130
            assert any("ended: told to stop by Ctrl-C" in line for line in lines)
        finally:
            other.kill()


class TestEvaluation:
    def test_of_the_last_update_that_was_stopped_is_made_later(self, unevaluated, tmp_path):
        shutil.copytree(unevaluated, tmp_path / "run")
        train(*SPLIT, "--workdir", "run", cwd=tmp_path, processes=2)
        assert [row["learner_steps"] for row in read_rows(tmp_path / "run") if "evaluate/return" in row] == [8]

    @pytest.mark.slow
    def test_may_take_longer_than_a_reduction(self, tmp_path):
        run = (*SCRIPTED, "--config.total_env_steps=128", "--config.evaluate.every_updates=2", "--workdir", "run")
        long = {0: json.dumps({"evaluation": {"hang_at_step": 2, "hang_s": 30}})}
        flags = f"{QUICK_TO_COMPILE} --xla_cpu_collective_timeout_seconds=15"
        train(*run, "--config.evaluate.episodes=1", cwd=tmp_path, processes=2, options=long, xla_flags=flags)


class TestMistakes:
    def end(self, cwd, *arguments):
        """A job that does not begin; returns what both processes said."""
        with job(*arguments, *LIMITS, cwd=cwd, processes=2) as started:
            codes, errors = finish_job(started)
        assert codes == [2, 2], errors
        return errors

    def test_of_the_first_process_are_told_by_both(self, tmp_path):
        (tmp_path / "run").write_text("no folder")
        for said in self.end(tmp_path, *SCRIPTED, "--workdir", "run"):
            assert f"podrl: error: --workdir={tmp_path}/run cannot be written (File exists). Choose another" in said

    def test_of_the_config_are_told_by_both(self, tmp_path):
        for said in self.end(tmp_path, *SCRIPTED, "--config.actors.num_envs=7", "--workdir", "run"):
            assert "podrl: error: " in said
            assert "actors.num_envs=7 does not divide over 4 pools (2 process(es)" in said
