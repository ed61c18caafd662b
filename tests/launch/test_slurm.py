"""The batch script as text; tests/slurm/test_launch.py submits it."""

import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

from tests.launch.commands import run

OPTIONS = ("--slurm", "--nodes", 2, "--gpus_per_node", 4, "--cpus_per_task", 16, "--partition", "gpu")
WITH_WORKERS = (*OPTIONS, "--env_nodes", 2, "--env_workers", 4, "--env_cpus_per_task", 8, "--env_partition", "cpu")
SHARED = ("--workdir", "run 1%", "--do", "say('x')")


def script(tmp_path, *arguments):
    result = run(*arguments, "--dry_run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
    return result.stdout


def test_is_what_the_documentation_shows(tmp_path):
    text = script(tmp_path, *OPTIONS, "--max_restarts", 3, *SHARED)
    text = re.sub(r"(?<=python=).*", "PYTHON", text.replace(str(tmp_path), "CWD"))
    text = re.sub(r"\S+/(stand_in|progress).py", r"\1.py", text)
    assert text == (Path(__file__).parent / "golden.sbatch").read_text()


def test_environment_workers_have_nodes_of_their_own(tmp_path):
    text = script(tmp_path, *WITH_WORKERS, *SHARED)
    first, second = text.split("#SBATCH hetjob\n")
    assert "--partition=gpu" in first
    assert second.startswith(
        "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2\n#SBATCH --cpus-per-task=8\n#SBATCH --partition=cpu\n\n"
    )
    (workers,) = re.findall(r"srun --het-group=1 .*\n.*", second)
    assert "--nodes=2 --ntasks-per-node=2 --cpus-per-task=8 --ntasks=4 " in workers
    assert "--wait=0 " in workers  # With determinism=free one may end without the others.
    assert 'env_worker.py --connect "$learners" --worker_certificates "$credentials"' in workers
    (training,) = re.findall(r"srun --het-group=0 .*\n.*", second)
    assert "--config.remote.env_workers=4 --config.remote.address=0.0.0.0:" in training


def test_each_worker_is_told_where_all_processes_listen(tmp_path):
    """Here are stand-ins for what the script calls: they say what they are told."""
    text = script(tmp_path, *WITH_WORKERS, "--workdir", tmp_path / "run", "--do", "say('x')")
    folder = tmp_path / "bin"
    folder.mkdir()
    said = 'echo "secret=${PODRL_JOB_SECRET:+given} $*" >> "$OUT"\n'
    said += '[ -e "$PODRL_CREDENTIALS" ] && ls "$PODRL_CREDENTIALS" >> "$OUT"\nexit 0\n'
    for name, does in (("srun", said), ("scontrol", "echo node1; echo node2\n")):
        (folder / name).write_text("#!/bin/bash\n" + does)
        (folder / name).chmod(0o755)
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "OUT": str(tmp_path / "out")}
    environ |= {
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NODELIST_HET_GROUP_0": "node[1-2]",
    }
    environ["PODRL_CREDENTIALS"] = str(tmp_path / "run/credentials-12345")
    ended = subprocess.run(["bash"], input=text, capture_output=True, text=True, env=environ)
    assert ended.returncode == 0, ended.stderr
    out = (tmp_path / "out").read_text()
    assert "--connect node1:22345,node2:22346 " in out
    assert "secret= --het-group=1 " in out  # Workers have no part in the secret of the processes that train.
    assert "secret=given --het-group=0 " in out
    assert "--config.remote.address=0.0.0.0:22345 " in out
    assert {"cert.pem", "key.pem", "secret"} <= set(out.splitlines())
    assert not (tmp_path / "run/credentials-12345").exists()


@pytest.mark.parametrize("options", [OPTIONS, WITH_WORKERS, ("--slurm", "--nodes", 1, "--gpus_per_node", 0)])
def test_is_valid_shell(tmp_path, options):
    text = script(tmp_path, *options, "--max_restarts", 3, *SHARED)
    checkers = [["bash", "-n"]] + ([["shellcheck", "-"]] if shutil.which("shellcheck") else [])
    for checker in checkers:
        result = subprocess.run(checker, input=text, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_each_start_has_a_secret_that_stands_in_no_file(tmp_path):
    """Everybody may read a job's script; here are stand-ins for what it calls."""
    text = script(tmp_path, *OPTIONS, "--max_restarts", 1, "--restart_pause_s", 0, *SHARED)
    srun = tmp_path / "bin/srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/bash\necho "$PODRL_JOB_SECRET"\nexit 1\n')
    srun.chmod(0o755)
    environ = {**os.environ, "PATH": f"{srun.parent}:{os.environ['PATH']}", "PODRL_JOB_SECRET": "of another job"}
    environ |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]"}
    ended = subprocess.run(["bash"], input=text, capture_output=True, text=True, env=environ)
    first, second = [line for line in ended.stdout.splitlines() if not line.startswith("[launcher")]
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert re.fullmatch("[0-9a-f]{64}", second)
    assert first != second


def test_how_far_a_run_got_is_found_by_a_podrl_that_is_not_installed(tmp_path):
    (program,) = re.findall(r"\S+/progress\.py", script(tmp_path, *OPTIONS, *SHARED))
    environ = {"PYTHONPATH": sysconfig.get_path("purelib")}  # As it is no `site` folder, nothing in it adds podrl's.
    command = [sys.executable, "-S", program, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_without_gpus_asks_for_none(tmp_path):
    assert "gres=" not in script(tmp_path, "--slurm", "--nodes", 1, "--gpus_per_node", 0, *SHARED)


def test_without_slurm_is_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run(*OPTIONS, *SHARED, cwd=tmp_path)
    assert result.returncode == 2
    assert "--slurm needs sbatch, which is not here." in result.stderr


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="SLURM is not installed")
def test_where_there_is_no_cluster_says_so_in_one_line(tmp_path, monkeypatch):
    nobody = "ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=1\nNodeName=none\nMessageTimeout=2\n"
    (tmp_path / "slurm.conf").write_text(nobody)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    result = run("--slurm", "--nodes", 1, "--gpus_per_node", 0, *SHARED, cwd=tmp_path)
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith("podrl: error: sbatch finds no cluster from here (")
    assert "Run this where `sinfo` lists nodes" in line
    assert "sbatch: " not in line
