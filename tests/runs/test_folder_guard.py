"""Two runs stay out of one folder, with locks and without, and a run notices that its folder is gone."""

import contextlib
import errno
import fcntl
import json
import logging as standard_logging
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from podrl import train
from podrl.config.config import ConfigError
from podrl.runs import folder_guard, heartbeat
from podrl.runs.folder_guard import FolderGuard, FolderLostError, sole_user
from podrl.runs.naming import make_new_folder
from tests import short_runs
from tests.launch.commands import run as launch_stand_in
from tests.processes import ROOT, checkpoints, environment, finish, num_rows, running, wait_for

ONE_DEVICE = {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}
HOLD = """
import fcntl, signal, sys
def no_flock(*_): raise OSError(38, "Function not implemented")
if sys.argv[2] == "no_locks": fcntl.flock = no_flock
from podrl.runs.folder_guard import sole_user
with sole_user(sys.argv[1]):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def no_locks(monkeypatch):
    """As on Lustre without `-o flock`, and on NFS without lockd."""

    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def said(caplog):
    """What was logged."""
    caplog.set_level(standard_logging.INFO, "absl")
    return caplog


@contextlib.contextmanager
def another_process(folder, locks="no_locks", prefix=()):
    """Has the folder, until its input ends."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", HOLD, str(folder), locks],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "mine\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def leave_heartbeat(folder, age_s=0.0, **owner):
    """As one that a process on another host has touched so many seconds ago."""
    path = folder / heartbeat.NAME
    path.write_text(json.dumps({"host": "node7", "process": 1, "place": "elsewhere", "since": "noon", **owner}))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def wait_little(monkeypatch):
    monkeypatch.setattr(folder_guard, "GONE_S", 1.0)
    monkeypatch.setattr(folder_guard, "WATCH_S", 1.0)


def test_a_folder_that_a_process_has_is_refused_without_locks_too(folder, no_locks, said):
    with another_process(folder) as other:
        with pytest.raises(ConfigError, match=rf"run is in use by another run \(process {other.pid} on .*Choose anoth"):
            sole_user(folder).__enter__()
        assert "file system without locks (flock: Function not implemented). .heartbeat alone keeps" in said.text
        other.communicate("")
    assert not (folder / heartbeat.NAME).exists()
    with sole_user(folder):
        pass


def test_with_locks_the_other_is_named(folder):
    with another_process(folder, "locks") as other, pytest.raises(ConfigError, match=rf"\(process {other.pid} on "):
        sole_user(folder).__enter__()


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_process_of_this_host_keeps_nobody_out(folder, no_locks, reaped, said):
    with another_process(folder) as other:
        other.kill()
        if reaped:
            other.wait()
        else:
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        with sole_user(folder):
            assert json.loads((folder / heartbeat.NAME).read_text())["process"] == os.getpid()
    assert "Waiting" not in said.text


CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.mark.parametrize("keeps_lock", [True, False])
def test_one_that_was_killed_in_a_container_of_this_host_keeps_nobody_out_where_there_are_locks(
    folder, monkeypatch, keeps_lock
):
    if shutil.which("unshare") is None or subprocess.run([*CONTAINER, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare --pid")
    awaited = []
    monkeypatch.setattr(FolderGuard, "_await_end", lambda guard, folder, seen, lock: awaited.append(seen))
    with another_process(folder, "locks", CONTAINER) as other:
        assert json.loads((folder / heartbeat.NAME).read_text())["process"] == 1
        with pytest.raises(ConfigError, match=r"\(process 1 on "):
            sole_user(folder).__enter__()
        if keeps_lock:
            other.kill()
            other.wait()
            wait_for(lambda: is_free(folder))
        else:  # Who locks another file of that name knows nothing of the one that is locked.
            (folder / ".lock").rename(folder / ".lock-before")
        with sole_user(folder):
            pass
    assert len(awaited) == (0 if keeps_lock else 1)


def is_free(folder):
    with (folder / ".lock").open("w") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def test_the_number_of_a_process_that_another_has_by_now_keeps_nobody_out(folder, no_locks):
    path = leave_heartbeat(folder)
    owner = json.loads(path.read_text())
    with sole_user(folder.parent):
        mine = json.loads((folder.parent / heartbeat.NAME).read_text())
    path.write_text(json.dumps(owner | {"place": mine["place"], "process": os.getpid(), "born": "1"}))
    with sole_user(folder):
        pass


@pytest.mark.parametrize("is_whole", [True, False])
def test_one_of_another_host_is_waited_for_and_taken_over(folder, monkeypatch, said, is_whole):
    wait_little(monkeypatch)
    path = leave_heartbeat(folder, age_s=0.0)
    if not is_whole:
        path.write_text('{"host": "no')
    with sole_user(folder):
        assert json.loads(path.read_text())["process"] == os.getpid()
    who = "process 1 on node7, since noon" if is_whole else r"process ? on ?, since ?"
    assert f"s ago ({who}). Waiting up to 1 s to see whether it still is." in said.text
    assert f"run is taken over: {who} has ended, or its host is away." in said.text
    assert sorted(each.name for each in folder.iterdir()) == [".lock"]


@pytest.mark.parametrize("age_s", [1.0, 7200.0, -7200.0])
def test_one_that_is_touched_meanwhile_keeps_others_out(folder, age_s, monkeypatch):
    """Whatever the clocks say: those of two hosts may differ by hours."""
    monkeypatch.setattr(folder_guard, "WATCH_S", 20.0)
    path = leave_heartbeat(folder, age_s)
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            os.utime(path, (time.time() - age_s,) * 2)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ConfigError, match=r"in use by another run \(process 1 on node7, since noon\)"):
            sole_user(folder).__enter__()
    finally:
        ended.set()
        thread.join()


def test_a_signal_ends_the_wait(folder, monkeypatch):
    leave_heartbeat(folder)
    monkeypatch.setattr(folder_guard, "leave", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit, match="75"), FolderGuard(lambda: 75) as guard:
        guard.take(folder)


def test_of_many_who_find_a_folder_free_one_gets_it(folder, no_locks, monkeypatch):
    wait_little(monkeypatch)
    leave_heartbeat(folder, age_s=heartbeat.GONE_S + 1)
    start, got, refused = threading.Barrier(16), [], []

    def take():
        guard = FolderGuard()
        start.wait()
        try:
            guard.take(folder)
            got.append(guard)
        except ConfigError:
            refused.append(guard)

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [guard for guard in got if keeps(guard)]
    for guard in got:
        with contextlib.suppress(FolderLostError):
            guard.__exit__(None, None, None)
    assert len(kept) == 1
    assert len(got) + len(refused) == 16


def keeps(guard):
    try:
        guard.check()
    except FolderLostError:
        return False
    return True


def move(folder):
    folder.rename(folder.parent / "new")
    return f"was moved to {folder.parent}/new while it trained.*with --workdir={folder.parent}/new"


def move_and_make_another(folder):
    expected = move(folder)
    folder.mkdir()
    return expected


def move_and_copy_back(folder):
    expected = move(folder)
    shutil.copytree(folder.parent / "new", folder)
    return expected


def delete(folder):
    shutil.rmtree(folder)
    return "was deleted while it trained"


def take_from_another_host(folder):
    (folder / heartbeat.NAME).unlink()
    leave_heartbeat(folder)
    return r"was taken by another run \(process 1 on node7, since noon\)"


def take_in_the_same_inode(folder):
    """As file systems give the inode of a file that is gone to the next one."""
    leave_heartbeat(folder)
    return r"was taken by another run \(process 1 on node7, since noon\)"


LOSSES = [move, move_and_make_another, move_and_copy_back, delete, take_from_another_host, take_in_the_same_inode]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_folder_that_is_lost_is_noticed(folder, lose):
    guard = FolderGuard()
    guard.take(folder)
    guard.check()
    expected = lose(folder)
    for look in (guard.check, guard.check_news, lambda: guard.__exit__(None, None, None)):
        with pytest.raises(FolderLostError, match=expected):
            look()
    assert not (folder.parent / "new" / heartbeat.NAME).exists()
    if lose in (take_from_another_host, take_in_the_same_inode):
        assert (folder / heartbeat.NAME).exists()  # It is the other run's.


def test_only_the_heartbeat_that_was_seen_is_removed(folder):
    path = leave_heartbeat(folder, age_s=100.0)
    seen = heartbeat.see(folder)
    os.utime(path)
    heartbeat.remove(folder, seen)
    assert path.exists()
    leave_heartbeat(folder, age_s=100.0, id="of another")
    heartbeat.remove(folder, seen)
    assert path.exists()
    heartbeat.remove(folder, heartbeat.see(folder))
    assert [each.name for each in folder.iterdir()] == []


def test_who_was_stopped_looks_before_it_writes(folder, monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_S", 1000.0)  # So that its thread looks no more than that of one that stands.
    guard, time_s = FolderGuard(), time.time
    guard.take(folder)
    take_from_another_host(folder)
    guard.check_news()
    monkeypatch.setattr(heartbeat.time, "time", lambda: time_s() + 60)
    with pytest.raises(FolderLostError, match="was taken"):
        guard.check_news()
    with pytest.raises(FolderLostError, match="was taken"):
        guard.__exit__(None, None, None)


def test_the_loss_is_noticed_in_the_background(folder, monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    guard = FolderGuard()
    guard.take(folder)
    move(folder)
    with pytest.raises(FolderLostError, match="was moved"):
        wait_for(lambda: guard.check_news())
    with pytest.raises(FolderLostError, match="was moved"):
        guard.__exit__(None, None, None)


def test_a_heartbeat_beats(folder, monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    with sole_user(folder):
        os.utime(folder / heartbeat.NAME, (0, 0))
        wait_for(lambda: (folder / heartbeat.NAME).stat().st_mtime > 0)


def test_who_tidies_up_takes_nothing_away(folder):
    with FolderGuard() as guard:
        guard.take(folder)
        (folder / heartbeat.NAME).unlink()
        guard.check()
        assert json.loads((folder / heartbeat.NAME).read_text())["process"] == os.getpid()
        guard.check()


def test_what_finds_no_room_is_tried_again(folder, monkeypatch):
    monkeypatch.setattr(heartbeat, "_LOOKS", 1)
    with FolderGuard() as guard:
        guard.take(folder)
        (folder / heartbeat.NAME).unlink()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail_for_no_room)
            guard.check()
            assert not (folder / heartbeat.NAME).exists()
        guard.check()
        assert (folder / heartbeat.NAME).exists()
    assert not (folder / heartbeat.NAME).exists()


def test_a_start_that_finds_no_room_leaves_no_heartbeat(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_for_no_room)
        with pytest.raises(
            ConfigError, match=r"cannot be written \(No space left on device\)\. Choose another folder\."
        ):
            sole_user(folder).__enter__()
    assert not (folder / heartbeat.NAME).exists()


def fail_for_no_room(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_who_may_write_to_the_folder_may_open_the_lock(folder):
    folder.chmod(0o770)
    before = os.umask(0o077)
    try:
        with sole_user(folder):
            assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o660}
    finally:
        os.umask(before)


def test_a_heartbeat_that_is_a_link_is_not_followed(folder):
    (folder / "precious").write_text("kept")
    (folder / heartbeat.NAME).symlink_to(folder / "precious")
    with pytest.raises(ConfigError, match=r"run/\.heartbeat, which keeps two runs .* is a symbolic link. Remove it"):
        sole_user(folder).__enter__()
    assert (folder / "precious").read_text() == "kept"


def test_a_new_folder_is_made_for_one(tmp_path):
    start, made = threading.Barrier(16), []

    def make():
        start.wait()
        made.append(str(make_new_folder(f"{tmp_path}/runs/a")))

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = ["a", *(f"a-{number}" for number in range(2, 17))]
    assert sorted(made) == sorted(f"{tmp_path}/runs/{name}" for name in names)


def test_jobs_of_one_second_have_folders_of_their_own(tmp_path):
    """As the tasks of a SLURM array, each of which starts itself again."""
    do = "say(workdir); exit(1 if started == 1 else 0)"
    arguments = ("--max_restarts", 2, "--restart_pause_s", 0.01, "--do", do)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(launch_stand_in(*arguments, cwd=tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    places = [result.stdout.split() for result in results]
    assert all(first == second for first, second in places)
    assert len({first for first, _ in places}) == 3


def test_a_job_that_did_not_begin_leaves_no_folder(tmp_path):
    do = "(workdir / 'starts-0').unlink(); exit(2)"
    result = launch_stand_in("--local_processes", 1, "--do", do, cwd=tmp_path)
    assert result.returncode == 2
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("loop", ["sebulba", pytest.param("anakin", marks=pytest.mark.slow)])
def test_a_run_whose_folder_is_moved_stops_at_the_next_boundary(tmp_path, loop):
    make = {"sebulba": short_runs.make_config, "anakin": short_runs.anakin_config}[loop]
    config = make(
        total_env_steps=10**7,
        checkpoint__every_updates=20,
        log__tensorboard=False,
        **(ONE_DEVICE if loop == "sebulba" else {}),
    )
    workdir = tmp_path / "run"

    def move_it():
        wait_for(lambda: checkpoints(workdir))
        workdir.rename(tmp_path / "moved")

    thread = threading.Thread(target=move_it)
    thread.start()
    try:
        with pytest.raises(FolderLostError, match=rf"run, the folder of this run, was moved to {tmp_path}/moved"):
            train.train(config, workdir=str(workdir))
    finally:
        thread.join()
    # What a save in the background leaves there is no run: nobody goes on with it, nor begins anew beside it.
    assert {path.name for path in workdir.parent.glob("run/*")} <= {"checkpoints", "checkpointed.json"}


def test_an_error_that_comes_of_a_lost_folder_is_told_as_that(folder):
    guard, error = FolderGuard(), RuntimeError("could not be saved")
    guard.take(folder)
    move(folder)
    with pytest.raises(FolderLostError, match="was moved") as raised:
        guard.__exit__(RuntimeError, error, None)
    assert raised.value.__cause__ is error


@pytest.mark.slow
def test_whole_runs_without_locks(tmp_path):
    """The second is refused; the first, whose folder is moved, is not started again, and leaves nothing behind."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    (tmp_path / "no.c").write_text("#include <errno.h>\nint flock(int f, int o) { errno = ENOSYS; return -1; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "no.so", "no.c"], cwd=tmp_path, check=True)
    config = ("--config", ROOT / "configs/impala_catch.py", "--config.total_env_steps=1000000000")
    preload = {**os.environ, "LD_PRELOAD": str(tmp_path / "no.so")}
    workdir = tmp_path / "run"
    arguments = (*config, "--max_restarts", 3, "--workdir", workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", preload)
        with running(*arguments, cwd=tmp_path) as first:
            wait_for(lambda: num_rows(workdir) > 0, first)
            with running(*arguments, cwd=tmp_path) as second:
                assert "is in use by another run (process " in finish(second)
                assert second.returncode == 2
            workdir.rename(tmp_path / "moved")
            stderr = finish(first)
    assert first.returncode == 2
    assert "was moved to" in stderr
    assert "restart" not in stderr
    assert not workdir.exists()
