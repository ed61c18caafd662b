"""Several processes on this machine; real ones, that do what a line of code says."""

import os
from pathlib import Path
import re
import signal
import subprocess
import time

import pytest

from podrl.config.config import ConfigError
from podrl.launch.local import make_members, shell_line, visible_gpus
from podrl.runtime.job.secret import VARIABLE
from tests.launch.commands import STAND_IN, WAIT, run, stop, under_way, wait_until
from tests.processes import LIMIT_S, command, environment

THREE = ("--local_processes", 3, "--workdir", "run")
TWO = ("--local_processes", 2, "--workdir", "run")
HEED = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: (say('term'), sys.exit(75)))
signal.signal(signal.SIGINT, lambda *_: (say('int'), sys.exit(130)))
signal.signal(signal.SIGHUP, lambda *_: (say('hup'), sys.exit(75)))
(workdir / f'ready-{index}').touch()
signal.pause()
"""
IGNORE = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: say('term'))
(workdir / f'ready-{index}').touch()
while True: time.sleep(0.1)
"""


def ready(tmp_path, count=2):
    return lambda: all((tmp_path / f"run/ready-{index}").exists() for index in range(count))


class TestOutput:
    def test_every_line_names_its_process_once(self, tmp_path):
        do = "say(f'[p{index} 12:00:00] logged'); say('plain'); complain('bad'); print('no end', end='')"
        result = run(*TWO, "--do", do, cwd=tmp_path)
        assert result.returncode == 0
        expected = [[f"[p{i} 12:00:00] logged", f"[p{i}] plain", f"[p{i}] no end"] for i in (0, 1)]
        lines = result.stdout.splitlines()
        assert [[line for line in lines if line.startswith(f"[p{i}")] for i in (0, 1)] == expected
        assert sorted(result.stderr.splitlines()) == ["[p0] bad", "[p1] bad"]

    def test_nothing_of_much_output_is_lost_or_mixed(self, tmp_path):
        do = "[print(f'{index}-{i}-' + 300 * 'x') for i in range(5000)]"
        result = run(*TWO, "--do", do, cwd=tmp_path)
        lines = result.stdout.splitlines()
        for index in (0, 1):
            mine = [line for line in lines if line.startswith(f"[p{index}] ")]
            assert mine == [f"[p{index}] {index}-{i}-" + 300 * "x" for i in range(5000)]

    def test_errors_come_in_order_where_both_go_to_one_place(self, tmp_path):
        do = "[(say(2 * i), complain(2 * i + 1)) for i in range(300)]"
        arguments = command(*TWO, "--do", do, program=STAND_IN)
        result = subprocess.run(
            arguments, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for index in (0, 1):
            mine = [line for line in result.stdout.splitlines() if line.startswith(f"[p{index}] ")]
            assert mine == [f"[p{index}] {number}" for number in range(600)]

    def test_the_same_last_words_of_all_are_shown_once(self, tmp_path):
        result = run(*TWO, "--do", "complain('podrl: error: no such key.'); exit(2)", cwd=tmp_path)
        said, ended = result.stderr.splitlines()
        assert said == "[all] podrl: error: no such key."
        assert ended.endswith("Exit code 2: all 2 processes ended with it.")

    def test_other_last_words_are_shown_with_their_process(self, tmp_path):
        said = run(*TWO, "--do", "complain(f'podrl: error: {index}'); exit(2)", cwd=tmp_path).stderr.splitlines()
        assert sorted(said[:2]) == ["[p0] podrl: error: 0", "[p1] podrl: error: 1"]

    def test_last_words_do_not_wait_for_those_who_live_on(self, tmp_path):
        do = f"complain('podrl: error: mine') if index == 0 else None; {WAIT}"
        with under_way(*TWO, "--do", do, cwd=tmp_path) as process:
            assert process.stderr.readline() == "[p0] podrl: error: mine\n"

    def test_a_reader_that_goes_away_ends_nothing(self, tmp_path):
        """As in `| head`."""
        do = HEED.replace("signal.pause()", "say('x'); " * 3 + "(workdir / f'said-{index}').touch(); signal.pause()")
        with under_way(*TWO, "--do", do, cwd=tmp_path) as process:
            process.stdout.close()
            wait_until(lambda: all((tmp_path / f"run/said-{index}").exists() for index in (0, 1)), "not said", process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 75
            assert "What the processes print is lost (Broken pipe). The run continues." in process.stderr.read()

    def test_a_single_process_writes_itself(self, tmp_path):
        result = run("--local_processes", 1, "--workdir", "run", "--do", "say(f'{coordinator} {count}')", cwd=tmp_path)
        assert result.stdout == "None 1\n"


def test_members_are_told_who_they_are(tmp_path):
    do = "import os; say(f'{index} of {count} at {coordinator}, ' + os.environ['JAX_NUM_CPU_DEVICES'])"
    result = run(*TWO, "--devices_per_process", 4, "--do", do, cwd=tmp_path)
    found = sorted(
        re.fullmatch(r"\[p.\] (. of 2) at (127.0.0.1:\d+), 4", line).groups() for line in result.stdout.split("\n")[:-1]
    )
    assert [who for who, _ in found] == ["0 of 2", "1 of 2"]
    assert len({where for _, where in found}) == 1


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_members_share_the_cores(tmp_path):
    result = run(*TWO, "--do", "import os; say(sorted(os.sched_getaffinity(0)))", cwd=tmp_path)
    shares = [set(map(int, re.findall(r"\d+", line.partition("]")[2]))) for line in result.stdout.splitlines()]
    assert shares[0] | shares[1] == os.sched_getaffinity(0)
    assert not shares[0] & shares[1]


class TestExitCode:
    @pytest.mark.parametrize(
        ("do", "code"),
        [
            ("exit([0, 3, 0][index])", 3),
            ("exit(2)", 2),
            ("import os; os.kill(os.getpid(), 9) if index == 1 else __import__('time').sleep(600)", 137),
            pytest.param("exit(124) if index == 2 else __import__('time').sleep(600)", 124, marks=pytest.mark.slow),
            ("exit([75, 0, 75][index])", 75),
            ("exit([75, 1, 75][index])", 1),
        ],
    )
    def test_is_that_of_the_first_that_failed(self, tmp_path, do, code):
        assert run(*THREE, "--do", do, cwd=tmp_path).returncode == code

    def test_says_whose_it_is(self, tmp_path):
        result = run(*THREE, "--do", "exit([0, 0, 5][index])", cwd=tmp_path)
        assert "Exit code 5: p2 ended with exit code 5." in result.stderr

    def test_of_a_member_whose_environment_ended_the_process_is_no_success(self, tmp_path):
        """By `_exit(0)` in C, which no Python sees."""
        do = "import os; os._exit(0) if index else exit(0)"
        result = run(*TWO, "--do", do, cwd=tmp_path)
        assert result.returncode == 1
        assert "p1 ended with exit code 0, but its run had not: something in it ended the process." in result.stderr

    def test_of_a_member_that_does_not_end_after_another_finished(self, tmp_path, monkeypatch):
        monkeypatch.setenv("STAND_IN_FINISH_S", "1")
        result = run(*TWO, "--do", f"if index: {WAIT}", cwd=tmp_path)
        assert result.returncode == 124
        assert "p1 still running 1 s after the first had ended: sending SIGTERM." in result.stderr

    def test_of_members_that_only_a_kill_ends(self, tmp_path):
        result = run(*TWO, "--do", f"if index == 0: exit(7)\n{IGNORE}", cwd=tmp_path)
        assert result.returncode == 7
        assert "Killed p1: not ended within the time limit after being told to." in result.stderr


class TestSignals:
    @pytest.mark.parametrize(
        ("signum", "code", "said"),
        [
            (signal.SIGTERM, 75, "term"),
            (signal.SIGINT, 130, "int"),
            (signal.SIGHUP, 75, "hup"),
            (signal.SIGUSR1, 75, "term"),
        ],
    )
    def test_go_to_all_members_once(self, tmp_path, signum, code, said):
        with under_way(*TWO, "--do", HEED, cwd=tmp_path) as process:
            wait_until(ready(tmp_path), "not ready", process)
            stdout, _ = stop(process, signum)
        assert process.returncode == code
        assert sorted(stdout.splitlines()) == [f"[p0] {said}", f"[p1] {said}"]

    def test_a_second_one_kills(self, tmp_path):
        with under_way(*TWO, "--do", IGNORE, cwd=tmp_path) as process:
            wait_until(ready(tmp_path), "not ready", process)
            process.send_signal(signal.SIGTERM)
            assert {process.stdout.readline(), process.stdout.readline()} == {"[p0] term\n", "[p1] term\n"}
            assert process.poll() is None
            time.sleep(1.1)  # Within a second it would count as the first.
            stop(process, signal.SIGTERM)
        assert process.returncode == 75

    def test_no_member_survives_a_killed_launcher(self, tmp_path):
        with under_way(*TWO, "--do", IGNORE, cwd=tmp_path) as process:
            wait_until(ready(tmp_path), "not ready", process)
            process.kill()
        # `under_way` waits until nobody is left.

    def test_ctrl_z_pauses_all_and_fg_continues(self, tmp_path):
        def states():
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            stats = [Path(f"/proc/{pid}/stat").read_text() for pid in (process.pid, *children)]
            return {stat.rpartition(")")[2].split()[0] for stat in stats}

        with under_way(*TWO, "--do", HEED, cwd=tmp_path) as process:
            wait_until(ready(tmp_path), "not ready", process)
            process.send_signal(signal.SIGTSTP)
            wait_until(lambda: states() == {"T"}, "not stopped", process)
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: "T" not in states(), "not continued", process)
            stop(process, signal.SIGTERM)
        assert process.returncode == 75


def test_each_start_has_a_secret_that_only_its_members_know():
    shape = {"program": "x", "devices_per_process": None, "gpus": [], "cores": [], "port": 1}
    starts = [make_members(["--workdir", "run"], num_processes=2, **shape) for _ in range(2)]
    secrets = [{member.environ[VARIABLE] for member in members} for members in starts]
    assert [len(found) for found in secrets] == [1, 1]
    assert secrets[0] != secrets[1]
    for member in starts[0]:
        told = f"{member} {member.command} {shell_line(member)}"
        assert not any(secret in told for secret in secrets[0])
    assert VARIABLE not in make_members([], num_processes=1, **shape)[0].environ


class TestGpus:
    def share(self, gpus, num_processes, devices=None):
        members = make_members(
            [],
            program=["x"],
            num_processes=num_processes,
            devices_per_process=devices,
            gpus=gpus,
            cores=[],
            port=1,
        )
        return [member.environ["CUDA_VISIBLE_DEVICES"] for member in members]

    def test_are_dealt_out(self):
        assert self.share(["0", "1", "2", "3"], 2) == ["0,1", "2,3"]
        assert self.share(["4", "MIG-a", "6"], 3) == ["4", "MIG-a", "6"]
        assert self.share(["0", "1", "2", "3"], 2, 1) == ["0", "1"]

    @pytest.mark.parametrize(("gpus", "processes", "devices"), [(3, 2, None), (1, 2, None), (4, 2, 3)])
    def test_that_do_not_divide_are_a_mistake(self, gpus, processes, devices):
        with pytest.raises(ConfigError, match=rf"--local_processes={processes}.* does not fit {gpus} GPU"):
            self.share([str(i) for i in range(gpus)], processes, devices)

    def test_are_those_that_jax_would_find(self):
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, 3"}) == ["2", "3"]
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0", "JAX_PLATFORMS": "cpu"}) == []


def test_dry_run_prints_what_each_process_would_run(tmp_path):
    result = run(*TWO, "--devices_per_process", 2, "--dry_run", "--do", "say('a b')", cwd=tmp_path)
    assert result.returncode == 0
    assert not (tmp_path / "run").exists()
    text = re.sub(r"127.0.0.1:\d+", "127.0.0.1:PORT", result.stdout)
    text = re.sub(r"taskset -c [\d,]+ ", "", re.sub(r"\S+/python\S*", "python", text))
    text = re.sub(r"\S+/stand_in.py", "stand_in.py", text)
    line = (
        'JAX_NUM_CPU_DEVICES=2 PODRL_JOB_SECRET="$PODRL_JOB_SECRET" '
        "python stand_in.py --workdir run --do 'say('\"'\"'a b'\"'\"')' "
        "--coordinator 127.0.0.1:PORT --process_count 2 --process_index {}\n"
    )
    assert text == "".join(f"# Process {i} of 2, on this machine:\n{line.format(i)}" for i in (0, 1))


def test_what_it_prints_can_be_typed(tmp_path):
    (member,) = make_members(
        ["--do", "say('it''s'); import os; say(os.environ['CUDA_VISIBLE_DEVICES'])", "--workdir", "a b"],
        program=[STAND_IN],
        num_processes=1,
        devices_per_process=None,
        gpus=["GPU-1"],
        cores=[0],
        port=1,
    )
    shown = subprocess.run(
        ["bash", "-c", shell_line(member)], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert shown.stdout == "its\nGPU-1\n"


def test_without_a_workdir_all_get_the_same_new_one(tmp_path):
    result = run("--local_processes", 2, "--do", "say(workdir)", cwd=tmp_path)
    folders = {line.partition("] ")[2] for line in result.stdout.splitlines()}
    assert len(folders) == 1
    assert re.fullmatch(r"runs/stand_in-\d{8}-\d{6}", folders.pop())
