"""Users without a name or a home, files of others, and machines without a temporary folder."""

import json
import os
from pathlib import Path
import shutil
import stat
import subprocess
import sys

import pytest

from podrl import train
from podrl.config.config import ConfigError
from podrl.envs.workers.progress import BusyEnvironment
from podrl.runs.run_files import check_rights
from podrl.runtime import temporary
from podrl.runtime.software import find_commit
from podrl.telemetry import plotting
from tests import short_runs
from tests.processes import ROOT, checkpoints

UID = 54321
RIGHTS = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")  # Python may lie in root's home.
NOBODY = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", *RIGHTS, "env", "-i")


def is_root():
    return os.geteuid() == 0 and shutil.which("setpriv") is not None


as_root = pytest.mark.skipif(not is_root(), reason="takes root, who can be anybody, and setpriv")


def say(code, *variables, cwd):
    """What Python prints and complains of as nobody."""
    arguments = [*NOBODY, f"PATH={os.environ['PATH']}", f"PYTHONPATH={ROOT}", "JAX_PLATFORMS=cpu", *variables]
    result = subprocess.run(
        [*arguments, sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip(), result.stderr.strip()


@pytest.fixture
def public(tmp_path):
    """A folder that nobody can reach and write to."""
    folder = Path("/tmp") / f"podrl-{os.urandom(8).hex()}"
    folder.mkdir()
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@as_root
def test_who_has_no_home_has_no_cache_and_is_told(public):
    code = "from podrl.runtime.compilation_cache import use_compilation_cache as use; print(repr(use()))"
    out, err = say(code, cwd=public)
    assert out == "''"
    assert "not kept for the next run: this user has no home folder. JAX_COMPILATION_CACHE_DIR=FOLDER" in err
    assert "Traceback" not in err
    out, err = say(code, "HOME=/", cwd=public)
    assert "/.cache/podrl/compilation cannot be made (Permission denied)" in err


@as_root
def test_a_launcher_needs_no_home(public):
    assert say("import podrl.launch.start; print('started')", cwd=public)[0] == "started"


@as_root
@pytest.mark.skipif(find_commit() is None, reason="no checkout of git's")
def test_the_commit_of_another_users_clone_is_found(public):
    code = "from podrl.runtime.software import find_commit; print(find_commit())"
    assert say(code, cwd=public)[0] == find_commit()


@pytest.mark.skipif(find_commit() is None, reason="no checkout of git's")
def test_a_commit_that_git_does_not_tell_is_missed(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_commit() is None
    assert "The manifest has no commit of podrl: git says: [Errno 2] No such file or directory: 'git'" in caplog.text


@pytest.mark.slow
@as_root
def test_nobody_trains(public):
    arguments = [*NOBODY, f"PATH={os.environ['PATH']}", "JAX_PLATFORMS=cpu", sys.executable]
    command = [str(ROOT / "tools/tpu_launch.py"), f"--config={ROOT}/configs/impala_catch.py", "--smoke"]
    result = subprocess.run([*arguments, *command], cwd=public, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    (folder,) = (public / "runs").iterdir()
    assert json.loads((folder / "manifest.json").read_text())["commit"] == find_commit()


@pytest.mark.slow
@as_root
def test_a_run_of_an_unknown_user_goes_on_and_is_inspected(tmp_path, capsys):
    from podrl.commands import inspect_checkpoint

    overrides = {"checkpoint__every_updates": 2, "log__tensorboard": False}
    devices = {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}
    workdir = tmp_path / "run"
    for updates in (2, 4):
        config = short_runs.make_config(total_env_steps=updates * 8 * 4, **overrides, **devices)
        assert train.train(config, workdir=str(workdir), accept_changes=True).finished
        for path in (workdir, *workdir.rglob("*")):
            os.chown(path, UID, UID)
    assert checkpoints(workdir)[-1] == 4
    assert inspect_checkpoint.main(["", "--workdir", str(workdir)]) == 0
    assert "checkpoint 4" in capsys.readouterr().out


@as_root
def test_what_another_user_keeps_is_told_before_anything_is_written(public):
    (public / "config.json").write_text("{}")
    (public / "metrics.jsonl").write_text("{}\n")
    (public / "metrics.jsonl").chmod(0o644)
    (public / "checkpoints").mkdir(mode=0o700)
    code = (
        "import os, sys; from etils import epath; from podrl.runs.run_files import check_rights; "
        f"from podrl.mistakes import ConfigError; path = epath.Path({str(public)!r})\n"
        "try: check_rights(path)\nexcept ConfigError as error: print(error)"
    )
    out, _ = say(code, cwd=public)
    assert "metrics.jsonl, checkpoints may not be read and written by this one" in out
    assert f"`chmod -R g+rwX {public}`" in out
    (public / "metrics.jsonl").chmod(0o666)
    (public / "checkpoints").chmod(0o777)
    assert say(code, cwd=public)[0] == ""
    check_rights(public)


@as_root
def test_the_lock_of_another_user_is_locked_all_the_same(public):
    (public / ".lock").touch(mode=0o644)
    code = "from podrl.runs.folder_guard import sole_user\nwith sole_user('.'): print('mine')"
    assert say(code, cwd=public)[0] == "mine"
    assert stat.S_IMODE((public / ".lock").stat().st_mode) == 0o644
    (public / ".lock").chmod(0o600)
    code = (
        "from podrl.runs.folder_guard import sole_user; from podrl.mistakes import ConfigError\n"
        "try:\n  with sole_user('.'): print('mine')\nexcept ConfigError as error: print(error)"
    )
    out, _ = say(code, cwd=public)
    # Whoever may read everything, as this nobody, may still not write: the lock is opened to be read.
    assert out == "mine"


class TestWithoutTemporaryFolder:
    @pytest.fixture(autouse=True)
    def none(self, monkeypatch):
        def refuse(*_, **__):
            raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

        monkeypatch.setattr("tempfile.gettempdir", refuse)
        monkeypatch.setattr("tempfile._get_default_tempdir", refuse)
        monkeypatch.setattr("tempfile.tempdir", None)

    def test_what_needs_one_says_so(self):
        with pytest.raises(ConfigError, match=r"No temporary folder can be made \(No usable .*\)\. Set TMPDIR to a fo"):
            temporary.temporary_folder("a").__enter__()

    def test_workers_of_environments_need_none(self):
        progress = BusyEnvironment()
        progress.write(3)
        assert BusyEnvironment(os.dup(progress.fd)).read() == 3
        progress.close()

    def test_matplotlib_says_so(self, monkeypatch):
        monkeypatch.setenv("MPLCONFIGDIR", "/proc/nowhere")
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            monkeypatch.delitem(sys.modules, name)
        with pytest.raises(ConfigError, match=r"Matplotlib cannot begin: .*writable.*Set TMPDIR"):
            plotting.make_figure(1, 1)
