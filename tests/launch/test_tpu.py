"""A TPU slice whose workers are folders of this machine, behind a stand-in for gcloud."""

import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.launch.commands import stop, survivors, under_way, wait_until
from tests.processes import LIMIT_S, ROOT, environment

TPU = ("--tpu", "slice", "--zone", "z")
CREATED = ("--accelerator_type", "v5litepod-8", "--runtime_version", "v2")
WORKDIR = ("--workdir", "gs://bucket/run")
# What the workers have instead of an internet to install from.
PYTHON = f"""#!/bin/bash
[ "$1 $2" = "-m uv" ] || exec {sys.executable} "$@"
[ "$3" = venv ] && ln -s {sys.prefix} .venv
exit 0
"""
MEMBER = """
import os, sys, pathlib
sys.argv[1:1] = ["--process_index", pathlib.Path.home().name.partition("-")[2]]
sys.path.insert(0, {root!r})
from tests.launch.stand_in import main
sys.exit(main(sys.argv))
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The stand-in's folder, and a checkout whose program does what `--do` says."""
    world, tree = tmp_path / "world", tmp_path / "tree"
    (world / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "tests/launch/gcloud", world / "bin/gcloud")
    (world / "bin/python3").write_text(PYTHON)
    (world / "bin/python3").chmod(0o755)
    for name, text in {
        "tools/tpu_launch.py": MEMBER.format(root=str(ROOT)),
        "podrl/launch/worker.py": (ROOT / "podrl/launch/worker.py").read_text(),
        "configs/some.py": "",
        "configs/untracked.py": "",
        ".gitignore": "untracked.py",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tree, check=True)
    monkeypatch.setenv("STAND_IN", str(world))
    monkeypatch.setenv("STAND_IN_TREE", str(tree))
    monkeypatch.setenv("PATH", f"{world / 'bin'}:{os.environ['PATH']}")
    set_state(world, state="READY", workers=2)
    yield world
    for path in (world, *world.glob("worker-*/podrl-*")):
        assert not survivors(path)


def set_state(world, **state):
    path = world / "state.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | state))


def calls(world, *words):
    found = [json.loads(line) for line in (world / "calls").read_text().splitlines()]
    return [call for call in found if set(words) <= set(call)]


def run(world, *arguments):
    cwd = world.parent / "tree"
    with under_way(*arguments, cwd=cwd) as process:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_trains_on_all_workers(world):
    """And gives them a secret, in a file for their user alone."""
    secret = "import os; path = pathlib.Path(os.environ['PODRL_JOB_SECRET_FILE'])"
    do = f"import pathlib; {secret}; say(f'hello from {{index}}: {{path.stat().st_mode:o}} {{path.read_text()}}')"
    result = run(world, *TPU, *WORKDIR, "--do", do)
    assert result.returncode == 0, result.stderr
    told = re.findall(r"\[p(\d)\] hello from (\d): 100600 ([0-9a-f]{64})", result.stdout)
    assert sorted(told) == [("0", "0", told[0][2]), ("1", "1", told[0][2])]
    assert told[0][2] not in (world / "calls").read_text() + result.stderr


def test_exit_code_is_that_of_the_worker_that_failed(world):
    result = run(world, *TPU, *WORKDIR, "--do", "exit([0, 3][index])")
    assert result.returncode == 3
    assert "Exit code 3: p1 ended with exit code 3." in result.stderr


def test_installs_a_tree_once(world):
    for _ in range(2):
        assert run(world, *TPU, *WORKDIR, "--do", "pass").returncode == 0
    assert len(list(world.glob("worker-0/podrl-*/.installed"))) == 1
    (world.parent / "tree/configs/some.py").write_text("changed = True")
    assert run(world, *TPU, *WORKDIR, "--do", "pass").returncode == 0
    assert len(list(world.glob("worker-0/podrl-*/.installed"))) == 2


HEED = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: (say('term'), sys.exit(75)))
signal.signal(signal.SIGINT, lambda *_: (say('int'), sys.exit(130)))
(workdir / f'ready-{index}').touch()
signal.pause()
"""


@pytest.mark.parametrize(("signum", "code", "said"), [(signal.SIGTERM, 75, "term"), (signal.SIGINT, 130, "int")])
def test_signals_reach_the_workers(world, signum, code, said):
    with under_way(*TPU, *WORKDIR, "--do", HEED, cwd=world.parent / "tree") as process:
        folder = world / "bucket/run"
        wait_until(lambda: all((folder / f"ready-{i}").exists() for i in (0, 1)), "not ready", process)
        stdout, _ = stop(process, signum)
    assert process.returncode == code
    assert {f"[p0] {said}", f"[p1] {said}"} <= set(stdout.splitlines())


def test_a_run_that_lost_its_launcher_is_ended_by_the_next(world):
    folder = world / "bucket/run"
    with under_way(*TPU, *WORKDIR, "--do", HEED, cwd=world.parent / "tree") as process:
        wait_until(lambda: all((folder / f"ready-{i}").exists() for i in (0, 1)), "not ready", process)
        process.kill()
    result = run(world, *TPU, *WORKDIR, "--do", "pass")
    assert result.returncode == 0
    assert result.stdout.count("Ending an earlier run") == 2


def test_a_broken_connection_changes_nothing(world):
    """Gcloud makes it again, and gives the same command."""
    do = "(workdir / 'ready').touch(); import time\nwhile not (workdir / 'go').exists(): time.sleep(0.1)\nexit(4)"
    set_state(world, workers=1)
    folder = world / "bucket/run"
    with under_way(*TPU, *WORKDIR, "--do", do, cwd=world.parent / "tree") as process:
        wait_until((folder / "ready").exists, "not ready", process)
        (call,) = [call for call in calls(world, "ssh") if any(" run " in argument for argument in call)]
        with subprocess.Popen([world / "bin/gcloud", *call], env=environment()) as again:
            (folder / "go").touch()
            assert again.wait(LIMIT_S) == 4
        assert process.wait(LIMIT_S) == 4
    assert (folder / "starts-0").read_text() == "x"


def test_a_connection_that_stays_broken_is_made_anew_and_the_run_goes_on(world):
    do = "if started == 1:" + HEED.replace("\n", "\n ")
    folder = world / "bucket/run"
    with under_way(*TPU, *WORKDIR, "--restart_pause_s", 0, "--do", do, cwd=world.parent / "tree") as process:
        wait_until(lambda: all((folder / f"ready-{i}").exists() for i in (0, 1)), "not ready", process)
        (world / "cut").touch()
        while "its connection was lost" not in process.stderr.readline():
            pass
        (world / "cut").unlink()
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, stderr
    assert stdout.count("Ending an earlier run") == 2


def test_exit_code_1_is_no_broken_connection(world):
    result = run(world, *TPU, *WORKDIR, "--do", "exit(index)")
    assert result.returncode == 1
    assert "Exit code 1: p1 ended with exit code 1." in result.stderr


class TestPreemption:
    def preempt(self, world, *, state, **more):
        """What Google does: it takes the machines, and their disks."""
        set_state(world, state=state, **more)
        for home in world.glob("worker-*"):
            for pid in home.glob(".podrl/runs/*/pid"):
                os.killpg(int(pid.read_text()), signal.SIGKILL)

    @pytest.mark.parametrize("queued", [pytest.param((), marks=pytest.mark.slow), ("--queued_resource", "q")])
    def test_a_lost_slice_is_made_anew_and_goes_on(self, world, queued):
        do = "(workdir / 'checkpoints/7').mkdir(parents=True, exist_ok=True)\nif started == 1:" + HEED.replace(
            "\n", "\n "
        )
        folder = world / "bucket/run"
        arguments = (*TPU, *WORKDIR, *CREATED, *queued, "--spot", "--restart_pause_s", 0, "--do", do)
        with under_way(*arguments, cwd=world.parent / "tree") as process:
            wait_until(lambda: all((folder / f"ready-{i}").exists() for i in (0, 1)), "not ready", process)
            if queued:
                self.preempt(world, state="ABSENT", queued="SUSPENDED")
            else:
                self.preempt(world, state="PREEMPTED")
            _, stderr = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, stderr
        assert (folder / "starts-0").read_text() == "xx"
        lost = "SUSPENDED" if queued else "PREEMPTED"
        assert f", and the TPU is {lost}, at update 7: it resumes in 0 s." in stderr
        assert [len(calls(world, word, "--spot")) for word in ("create",)] == [1]
        assert len(calls(world, "delete")) == 1

    def test_one_that_may_not_be_made_is_an_error(self, world):
        set_state(world, state="PREEMPTED")
        result = run(world, *TPU, *WORKDIR, "--do", "pass")
        assert result.returncode == 2
        assert "TPU slice in z is PREEMPTED. Create it first, or add --accelerator_type" in result.stderr


class TestWaiting:
    def test_for_room(self, world):
        set_state(
            world, state="ABSENT", errors=["RESOURCE_EXHAUSTED: no room", "There is no more capacity in the zone"]
        )
        result = run(world, *TPU, *WORKDIR, *CREATED, "--do", "pass")
        assert result.returncode == 0, result.stderr
        assert len(calls(world, "create")) == 3

    def test_has_a_limit(self, world):
        set_state(world, state="CREATING")
        result = run(world, *TPU, *WORKDIR, "--wait_s", 0.1, "--do", "pass")
        assert result.returncode == 2
        assert "TPU slice in z was not ready within --wait_s=0.1: it is CREATING." in result.stderr

    def test_ends_at_an_error_that_stays(self, world):
        set_state(world, state="ABSENT", errors=["ERROR: INVALID_ARGUMENT: no such type"])
        result = run(world, *TPU, *WORKDIR, *CREATED, "--do", "pass")
        assert result.returncode == 2
        assert "INVALID_ARGUMENT: no such type" in result.stderr

    def test_ends_at_a_signal(self, world):
        set_state(world, state="CREATING")
        with under_way(*TPU, *WORKDIR, "--do", "pass", cwd=world.parent / "tree") as process:
            assert "is CREATING." in process.stderr.readline()
            stop(process, signal.SIGTERM)
        assert process.returncode == 75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workdir", "run"), "run: with --tpu it must be in a bucket, gs://BUCKET/FOLDER"),
        ((), "--workdir=None: with --tpu it must be in a bucket"),
        ((*WORKDIR, "--config", "configs/untracked.py"), "git add configs/untracked.py"),
        ((*WORKDIR, "--config=/etc/hosts"), "/etc/hosts is outside of"),
    ],
)
def test_mistakes_are_one_line(world, arguments, message):
    result = run(world, *TPU, *arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_dry_run_prints_every_step(world):
    result = run(world, *TPU, *WORKDIR, *CREATED, "--dry_run", "--config", "configs/some.py", "--do", "a b")
    assert result.returncode == 0, result.stderr
    assert not (world / "calls").exists()
    name = next(word for word in result.stdout.split() if word.startswith("podrl-")).removesuffix(".tar.gz")
    text = result.stdout.replace(name, "NAME").replace(str(world.parent), "")
    assert text == (Path(__file__).parent / "golden.tpu").read_text()


def test_certificates_for_mutual_tls_are_named_to_the_workers(world, monkeypatch):
    monkeypatch.setenv("JAX_MTLS_CERT_FILE", "/etc/my certificates/job.crt")
    result = run(world, *TPU, *WORKDIR, "--dry_run", "--config", "configs/some.py")
    assert result.returncode == 0, result.stderr
    assert "JAX_MTLS_CERT_FILE='\"'\"'/etc/my certificates/job.crt'\"'\"' PODRL_JOB_SECRET_FILE=" in result.stdout


def test_the_workers_know_podrls_own_configs_by_name(world):
    result = run(world, *TPU, *WORKDIR, "--dry_run", "--config", "impala_catch")
    assert result.returncode == 0, result.stderr
    assert "tools/tpu_launch.py --workdir gs://bucket/run --config impala_catch' --zone" in result.stdout


def test_without_gcloud_is_a_mistake(world, monkeypatch):
    (world / "bin/gcloud").unlink()
    (world / "bin/git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(world / "bin"))
    result = run(world, *TPU, *WORKDIR, "--do", "pass")
    assert result.returncode == 2
    assert "--tpu needs gcloud, which is not here." in result.stderr
