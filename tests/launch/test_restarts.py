"""Runs that are started again; tests/faults/test_restarts.py does it with real training."""

import re
import signal

import pytest

from tests.launch.commands import run, stop, under_way, wait_until

QUICK = ("--restart_pause_s", 0.01, "--workdir", "run")
ROW = "(workdir / 'metrics.jsonl').open('a').write('{\"learner_steps\": %d}\\n' % (10 * started)); "


def lines(result):
    """The launcher's, without the time."""
    return [re.sub(r"^\[launcher [\d:]+\] ", "", line) for line in result.stderr.splitlines() if "[launcher " in line]


def starts(tmp_path, index=0):
    return len((tmp_path / f"run/starts-{index}").read_text())


def test_a_failed_run_is_started_again_until_it_finishes(tmp_path):
    result = run("--max_restarts", 5, *QUICK, "--do", ROW + "exit([1, 124, 0][started - 1])", cwd=tmp_path)
    assert result.returncode == 0
    assert starts(tmp_path) == 3
    assert lines(result) == [
        "p0 ended with exit code 1, at update 10: restart 1 of 5 in 0.01 s.",
        "p0 ended with exit code 124, at update 20: restart 2 of 5 in 0.02 s.",
    ]


def test_all_processes_of_a_job_are(tmp_path):
    do = ROW + "import os; os.kill(os.getpid(), 9) if index == started == 1 else None"
    result = run("--local_processes", 2, "--max_restarts", 1, *QUICK, "--do", do, cwd=tmp_path)
    assert result.returncode == 0
    # On a busy machine the other process may be ended before it notes its first start.
    assert starts(tmp_path, 1) == 2
    assert starts(tmp_path, 0) in (1, 2)
    # On a busy machine the other process may need to be told to end, which is a line before.
    assert lines(result)[-1] == "p1 was killed by SIGKILL, at update 10: restart 1 of 1 in 0.01 s."


def test_a_member_that_was_started_by_hand_is(tmp_path):
    membership = ("--coordinator", "host:1", "--process_count", 2, "--process_index", 1)
    do = "say(f'{index} of {count}'); exit(1 - (started > 1))"
    result = run("--max_restarts", 1, *QUICK, *membership, "--do", do, cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout == "1 of 2\n1 of 2\n"


def test_one_that_fails_twice_at_the_same_update_is_not(tmp_path):
    do = "(workdir / 'checkpoints' / ('20' if started > 1 else '8')).mkdir(parents=True, exist_ok=True); exit(1)"
    result = run("--max_restarts", 9, *QUICK, "--do", do, cwd=tmp_path)
    assert result.returncode == 1
    assert starts(tmp_path) == 3
    assert (
        lines(result)[-1] == "p0 ended with exit code 1, at update 20, no further than before (20): not started again."
    )


def test_one_that_fails_at_the_same_update_but_wrote_less_is_not(tmp_path):
    do = "(workdir / 'metrics.jsonl').write_text('{\"learner_steps\": %d}\\n' % (21 - started)); exit(1)"
    result = run("--max_restarts", 9, *QUICK, "--do", do, cwd=tmp_path)
    assert starts(tmp_path) == 2
    assert (
        lines(result)[-1] == "p0 ended with exit code 1, at update 19, no further than before (20): not started again."
    )


def test_one_that_fails_again_and_again_is_given_up(tmp_path):
    result = run("--max_restarts", 2, *QUICK, "--do", ROW + "exit(1)", cwd=tmp_path)
    assert result.returncode == 1
    assert starts(tmp_path) == 3
    assert lines(result)[-1] == "p0 ended with exit code 1, at update 30: not started again after 2 restart(s)."


@pytest.mark.parametrize("code", [0, 2, 75, 130])
def test_other_ends_are_final(tmp_path, code):
    result = run("--max_restarts", 5, *QUICK, "--do", f"exit({code})", cwd=tmp_path)
    assert result.returncode == code
    assert starts(tmp_path) == 1
    assert lines(result) == []


def test_one_that_the_user_stopped_is_not(tmp_path):
    do = "(workdir / 'ready').touch(); import time; time.sleep(600)"
    with under_way("--max_restarts", 5, *QUICK, "--do", do, cwd=tmp_path) as process:
        wait_until((tmp_path / "run/ready").exists, "not ready", process)
        stop(process, signal.SIGTERM)  # Which kills the stand-in.
    assert process.returncode == 75
    assert starts(tmp_path) == 1


def test_a_signal_ends_the_pause(tmp_path):
    arguments = ("--max_restarts", 5, "--restart_pause_s", 60, "--workdir", "run", "--do", "exit(1)")
    with under_way(*arguments, cwd=tmp_path) as process:
        assert "restart 1 of 5 in 60 s." in process.stderr.readline()
        stop(process, signal.SIGINT)
    assert process.returncode == 130
    assert starts(tmp_path) == 1


def test_without_a_workdir_every_start_gets_the_same(tmp_path):
    result = run(
        "--max_restarts", 1, "--restart_pause_s", 0, "--do", "say(workdir); exit(1 - (started > 1))", cwd=tmp_path
    )
    assert result.returncode == 0
    assert len(set(result.stdout.splitlines())) == 1
    assert len(result.stdout.splitlines()) == 2


def test_tasks_of_one_slurm_step_share_a_folder(tmp_path, monkeypatch):
    step = {"JOB_ID": 7, "STEP_ID": 0, "STEP_NODELIST": "a", "PROCID": 0, "LOCALID": 0, "STEP_NUM_TASKS": 2}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    result = run("--max_restarts", 1, "--do", "say(workdir)", cwd=tmp_path)
    assert result.stdout == "runs/stand_in-job-7.0\n", result.stderr


def test_other_members_of_a_job_have_to_name_their_folder(tmp_path, monkeypatch):
    for name, value in {"SIZE": 2, "RANK": 1, "LOCAL_SIZE": 2, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    result = run("--max_restarts", 1, "--do", "say(workdir)", cwd=tmp_path)
    assert result.returncode == 2
    assert "--max_restarts for each of 2 processes needs a --workdir, the same for all" in result.stderr
