"""What `--env_workers N` starts on this machine."""

import json
from pathlib import Path
import re
import stat
import time

import pytest

from podrl.config.config import ConfigError
from podrl.launch import options
from podrl.launch.env_workers import ENV_WORKERS, env_workers_beside, worker_commands
from podrl.launch.members import Member
from podrl.runtime.job.secret import FILE_VARIABLE, SHORTEST, VARIABLE
from tests.launch.commands import run
from tests.processes import wait_for

NOTE = f"""
import json, os, pathlib, sys
told = {{"address": sys.argv[2], "secret": pathlib.Path(os.environ["{FILE_VARIABLE}"]).read_text()}}
new = pathlib.Path(__file__).parent / f"{{os.getpid()}}.new"
new.write_text(json.dumps(told))
new.rename(new.with_suffix(".json"))
"""


def members(count, **environ):
    return [Member(name=f"p{index}", command=("train",), environ=environ) for index in range(count)]


def started(tmp_path, count):
    """What the workers have noted, once all have."""
    wait_for(lambda: len(list(tmp_path.glob("*.json"))) == count)
    return [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]


def test_run_and_workers_meet_in_a_folder_of_their_own_with_a_secret(tmp_path):
    program = tmp_path / "note.py"
    program.write_text(NOTE)
    with env_workers_beside(members(1), 2, program=program) as (member,):
        told = started(tmp_path, 2)
        secret = Path(member.environ[FILE_VARIABLE])
        address = f"unix:{secret.parent}/workers"
        settings = ("certificates=none", "env_workers=2", f"address={address}")
        assert member.command == ("train", *(f"--config.remote.{setting}" for setting in settings))
        assert {each["address"] for each in told} == {address}
        assert {each["secret"] for each in told} == {secret.read_text()}
        assert len(secret.read_text()) >= SHORTEST
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    assert not secret.parent.exists()


def test_processes_of_a_job_share_its_secret_and_each_has_an_address(tmp_path):
    program = tmp_path / "note.py"
    program.write_text(NOTE)
    with env_workers_beside(members(2, **{VARIABLE: "the job's own secret"}), 2, program=program) as both:
        told = started(tmp_path, 2)
        assert {each["secret"] for each in told} == {"the job's own secret"}
        (address,) = {member.command[-1].partition("=")[2] for member in both}
        assert {each["address"] for each in told} == {f"{address}.0", f"{address}.1"}


def test_without_workers_nothing_changes():
    with env_workers_beside(members(2), None) as unchanged:
        assert unchanged == members(2)


def test_without_grpc_nothing_is_started(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    wanted = pytest.raises(ConfigError, match=r"--env_workers needs gRPC, .* pip install -e '\.\[workers\]'")
    with wanted, env_workers_beside(members(1), 1):
        pass


IDLE = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: {})
new = pathlib.Path(__file__).with_suffix(".new")
new.write_text("1")
new.rename(new.with_suffix(".json"))
time.sleep(60)
"""


@pytest.mark.parametrize(("at_sigterm", "killed"), [("sys.exit(75)", 0), ("print()", 1)], ids=["waiting", "admitted"])
def test_a_run_that_ends_early_waits_for_no_worker(tmp_path, caplog, monkeypatch, at_sigterm, killed):
    """One that the run has not admitted yet ends at SIGTERM; only one that does not is killed, with a warning."""
    monkeypatch.setattr("podrl.launch.env_workers._PAUSE_S", 0.1)
    monkeypatch.setattr("podrl.launch.env_workers._GRACE_S", 0.3 if killed else 30.0)
    program = tmp_path / "idle.py"
    program.write_text(IDLE.format(at_sigterm))
    with env_workers_beside(members(1), 1, program=program):
        started(tmp_path, 1)
        begin_s = time.monotonic()
    assert time.monotonic() - begin_s < 15
    assert sum("has not ended with its run: killed" in line for line in caplog.messages) == killed


@pytest.mark.parametrize("flag", ["--config.remote.address=127.0.0.1:1", "--config.remote.env_workers"])
def test_what_is_chosen_here_is_refused_on_the_command_line(flag):
    member = Member(name="p0", command=("train", flag, "2"))
    with pytest.raises(ConfigError, match=f"{flag.partition('=')[0]} is chosen by --env_workers"):
        env_workers_beside([member], 2).__enter__()


def test_a_folder_that_is_too_long_for_a_socket_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(ConfigError, match=r"at most 100 bytes\. Set TMPDIR"):
        env_workers_beside(members(2), 2).__enter__()
    assert not list(folder.iterdir())


def test_commands_name_no_secret():
    for command in worker_commands("127.0.0.1:8470", 3, 1, ENV_WORKERS):
        assert command[2:] == ["--connect", "127.0.0.1:8470"]


SLURM = ("--slurm", "--nodes", "2", "--gpus_per_node", "0")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (
            ["--tpu", "name", "--zone", "z"],
            r"--env_workers starts environment workers on this machine.*docs/howto/workers_hosts.md",
        ),
        (SLURM, r"have nodes of their own\. Add --env_nodes M\."),
        (["--env_nodes", "1"], r"--env_nodes goes with --slurm"),
    ],
)
def test_runs_elsewhere_take_no_workers_from_here(flags, why):
    with pytest.raises(ConfigError, match=why):
        options.split(["program", "--env_workers", "2", *flags])


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--env_nodes", "3"], r"3 environment workers .* do not divide over the processes of --nodes=2"),
        (["--env_nodes", "4", "--env_workers", "6"], r"6 environment workers .* do not divide over --env_nodes=4"),
    ],
)
def test_workers_of_a_slurm_job_divide(tmp_path, flags, why):
    result = run(*SLURM, *flags, "--dry_run", "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 2
    assert re.search(why, result.stderr)


def test_a_member_of_a_larger_job_starts_no_workers(tmp_path):
    """Its socket would lie in a folder that the other members do not know."""
    result = run("--env_workers", "1", "--process_count", "2", "--process_index", "0", cwd=tmp_path)
    assert result.returncode == 2
    assert "--process_count is for one member of a job that you start by hand" in result.stderr


def test_dry_run_shows_workers_too(tmp_path):
    result = run("--env_workers", 2, "--dry_run", "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--config.remote.env_workers=2 --config.remote.address=127.0.0.1:" in result.stdout
    assert result.stdout.count("env_worker.py --connect 127.0.0.1:") == 2


def test_actor_workers_are_started_in_the_same_way(tmp_path):
    result = run("--actor_workers", 2, "--dry_run", "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--config.remote.actor_workers=2 --config.remote.address=127.0.0.1:" in result.stdout
    assert result.stdout.count("actor_worker.py --connect 127.0.0.1:") == 2
    with pytest.raises(ConfigError, match=r"--env_workers and --actor_workers exclude each other"):
        options.split(["program", "--env_workers", "2", "--actor_workers", "2"])
