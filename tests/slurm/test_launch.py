"""What `--slurm` submits, on a real SLURM of two nodes."""

import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.commands import SCRIPTED
from tests.faults.sameness import assert_same
from tests.launch.commands import STAND_IN
from tests.processes import LIMIT_S, ROOT, checkpoints, launch, wait_for

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")
TWO = ("--slurm", "--nodes", 2, "--gpus_per_node", 0, "--restart_pause_s", 0, "--workdir", "run")
ONE = ("--slurm", "--nodes", 1, "--gpus_per_node", 0, "--restart_pause_s", 0, "--workdir", "run")
HEED = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
say('ready')
signal.pause()
"""


def submit(cluster, cwd: Path, program: str, *arguments: object) -> int:
    command = [sys.executable, program, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=cluster.environ, capture_output=True, text=True, timeout=LIMIT_S)
    assert result.returncode == 0, result.stderr
    return int(re.search(r"Submitted as SLURM job (\d+);", result.stdout)[1])


def test_runs_a_task_on_each_node(cluster, tmp_path):
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURMD_NODENAME")
    do = f"import os; say('{{}} of {{}} on {{}}'.format(*map(os.environ.get, {names})))"
    job = submit(cluster, tmp_path, STAND_IN, *TWO, "--do", do)
    assert cluster.wait_for_state(job, ENDED) == "COMPLETED"
    first, second = cluster.nodes
    assert {f"0 of 2 on {first}", f"1 of 2 on {second}"} <= set(cluster.output(job).splitlines())
    assert (tmp_path / f"run/slurm-{job}.out").exists()


@pytest.mark.parametrize("to", [(), pytest.param(("--full",), marks=pytest.mark.slow)])
def test_goes_on_after_sigterm(cluster, tmp_path, to):
    """To the tasks, as before the time limit and where preemption has a grace time; or to script and srun as well."""
    do = "import os; exit(0) if os.environ.get('SLURM_RESTART_COUNT') else None" + HEED
    job = submit(cluster, tmp_path, STAND_IN, *TWO, "--do", do)
    cluster.wait_for_output(job, "ready\nready")
    cluster.call("scancel", "--signal=TERM", *to, str(job))
    cluster.wait_for_state(job, ("PENDING",), restarts=1)
    cluster.start_soon(job)
    assert cluster.wait_for_state(job, ENDED) == "COMPLETED"
    assert cluster.output(job).count("ready") == 2
    assert "Stopped by SIGTERM: requeued, to resume later." in cluster.output(job)


def test_stays_cancelled(cluster, tmp_path):
    job = submit(cluster, tmp_path, STAND_IN, *TWO, "--do", HEED)
    cluster.wait_for_output(job, "ready\nready")
    cluster.call("scancel", str(job))
    assert cluster.wait_for_state(job, ENDED) == "CANCELLED"
    assert cluster.restarts(job) == 0


@pytest.mark.slow
def test_goes_on_after_a_node_is_lost(cluster, tmp_path):
    do = "import os; exit(0) if os.environ.get('SLURM_RESTART_COUNT') else None" + HEED
    job = submit(cluster, tmp_path, STAND_IN, *TWO, "--do", do)
    cluster.wait_for_output(job, "ready\nready")
    cluster.kill_node(cluster.nodes[1])
    cluster.wait_for_state(job, ("PENDING",), restarts=1)
    cluster.restart_node(cluster.nodes[1])
    cluster.start_soon(job)
    assert cluster.wait_for_state(job, ENDED) == "COMPLETED"


@pytest.mark.parametrize(
    ("do", "said"),
    [
        ("exit(2)", []),
        pytest.param(
            "exit(1)",
            [
                "Exit code 1, at update 0: restart 1 of 3 in 0 s.",
                "Exit code 1, at update 0, no further than before (0): not started again.",
            ],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_gives_up_where_a_restart_would_not_help(cluster, tmp_path, do, said):
    job = submit(cluster, tmp_path, STAND_IN, *ONE, "--max_restarts", 3, "--do", do)
    assert cluster.wait_for_state(job, ENDED) == "FAILED"
    found = [line.partition("] ")[2] for line in cluster.output(job).splitlines() if "Exit code" in line]
    assert found == said


@pytest.mark.slow
def test_goes_on_after_its_time_limit(cluster, tmp_path):
    """SIGTERM comes two minutes before the limit: here at the controller's next look at its jobs, in half a minute."""
    do = "import os; exit(0) if os.environ.get('SLURM_RESTART_COUNT') else None" + HEED
    job = submit(cluster, tmp_path, STAND_IN, *TWO, "--time", "30", "--do", do)
    cluster.wait_for_output(job, "ready\nready")
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    cluster.wait_for_state(job, ("PENDING",), restarts=1)
    cluster.start_soon(job)
    assert cluster.wait_for_state(job, ENDED) == "COMPLETED"


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "where"), [(1, ONE), (2, TWO)])
def test_real_training_goes_on_bit_for_bit(cluster, tmp_path, nodes, where):
    straight = launch(*SCRIPTED, "--local_processes", nodes, "--workdir", "straight", cwd=tmp_path)
    assert straight.returncode == 0, straight.stderr
    gate = tmp_path / "gate"  # Until it is there, the first process stands still after the boundary.
    held = {"only_in_pool": 3, "hang_at_step": 1, "hang_until": gate}
    options = [f"--config.env.options.{name}={value}" for name, value in held.items()]
    job = submit(cluster, tmp_path, str(ROOT / "tools/tpu_launch.py"), *where, *SCRIPTED, *options)
    wait_for(lambda: checkpoints(tmp_path / "run") == [4])
    cluster.call("scancel", "--signal=TERM", str(job))
    cluster.wait_for_output(job, "Stopping after this update")
    gate.touch()
    cluster.wait_for_state(job, ("PENDING",), restarts=1)
    cluster.start_soon(job)
    assert cluster.wait_for_state(job, ENDED) == "COMPLETED"
    assert "Resumes the run in this folder after update 4" in cluster.output(job)
    assert_same(tmp_path / "run", tmp_path / "straight", SCRIPTED)


@pytest.mark.slow
def test_proxies_of_the_nodes_are_not_for_the_job(cluster, tmp_path):
    proxy = "http://127.0.0.1:9"  # Nobody listens there.
    cluster.environ |= {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": "localhost,127.0.0.1"}
    job = submit(cluster, tmp_path, str(ROOT / "tools/tpu_launch.py"), *TWO, *SCRIPTED)
    assert cluster.wait_for_state(job, ENDED) == "COMPLETED"
    assert "All 2 processes agree" in cluster.output(job)


def start_components(cluster, job):
    """Lets a requeued heterogeneous job start; the scheduler looks at such jobs only when one has changed."""

    def has_started():
        time.sleep(1.5)  # The second of the requeuing is over, too.
        if cluster.state(job) == "PENDING":
            command = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
            subprocess.run(command, env=cluster.environ, capture_output=True, timeout=LIMIT_S)
        return cluster.state(job) != "PENDING"

    wait_for(has_started)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["preempted", "a worker is killed"])
def test_environments_step_on_nodes_of_their_own_and_the_run_goes_on_with_them(cluster, tmp_path, fault):
    straight = launch(*SCRIPTED, "--workdir", "straight", cwd=tmp_path)
    assert straight.returncode == 0, straight.stderr
    gate = tmp_path / "gate"  # Until it is there, workers stand still after the boundary, with their second pools.
    held = {"only_in_pool": 2, "hang_at_step": 1, "hang_until": gate}
    options = [f"--config.env.options.{name}={value}" for name, value in held.items()]
    nodes = ("--cpus_per_task", 8, "--env_nodes", 1, "--env_workers", 2, "--env_cpus_per_task", 4, "--max_restarts", 1)
    job = submit(cluster, tmp_path, str(ROOT / "tools/tpu_launch.py"), *ONE, *nodes, *SCRIPTED, *options)
    cluster.wait_for_output(job, "Environment worker 1 (")
    wait_for(lambda: checkpoints(tmp_path / "run") == [4])
    if fault == "preempted":
        cluster.call("scancel", "--signal=TERM", str(job))
        cluster.wait_for_output(job, "Stopping after this update")
        gate.touch()
        cluster.wait_for_state(job, ("PENDING",), restarts=1)
        start_components(cluster, job)
    else:
        os.kill(int(re.search(r"Environment worker 0 \(.*, process (\d+)\)", cluster.output(job))[1]), signal.SIGKILL)
        cluster.wait_for_output(job, "restart 1 of 1 in 0 s")
    assert cluster.wait_for_state(job, ENDED) == "COMPLETED"
    said = cluster.output(job)
    assert "Resumes the run in this folder after update 4" in said
    assert said.count("Steps environments scripted") == 4
    assert_same(tmp_path / "run", tmp_path / "straight", SCRIPTED)
    assert not list((tmp_path / "run").glob("credentials*"))
