"""What the other tests of this folder stand on: the cluster is SLURM, JAX finds its way in it, and nodes can die."""

from pathlib import Path
import re
import shutil
import subprocess
from subprocess import PIPE
import sys
import textwrap

import pytest

from tests.processes import LIMIT_S, environment, wait_for
from tests.slurm.hostnames import HOSTS

GATHER = """
import os
import jax
from jax.experimental import multihost_utils

jax.distributed.initialize()
gathered = multihost_utils.process_allgather(jax.numpy.asarray(10 * (jax.process_index() + 1)))
print(os.environ["SLURMD_NODENAME"], jax.process_index(), gathered.tolist(), jax.device_count(), flush=True)
"""
OTHER_TESTS = """
from tests.slurm.cluster import Cluster

with Cluster() as cluster:
    cluster.call("sbatch", "--nodes=2", "--output=/dev/null", "--wrap", "srun sleep 1000")
    print(cluster.environ["SLURM_CONF"], cluster.nodes[0], flush=True)
    input()
"""


def write_script(folder, body, *options):
    path = folder / "job.sh"
    lines = [f"#SBATCH {option}" for option in ("--nodes=2", "--ntasks-per-node=1", *options)]
    path.write_text("\n".join(["#!/bin/bash", *lines, textwrap.dedent(body)]))
    return path


def processes_of(configuration):
    """Processes, zombies apart, that have a cluster's configuration in their environment: its daemons and its jobs."""
    mark = f"SLURM_CONF={configuration}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [path.parent.name] if mark in path.read_bytes() else []
        except OSError:  # It has just ended.
            continue
    return found


def test_jax_joins_the_processes_of_a_step_by_itself(cluster):
    said = cluster.call("srun", "--nodes=2", "--ntasks=2", sys.executable, "-c", GATHER)
    ranks = [f"{node} {rank} [10, 20] 2" for rank, node in enumerate(cluster.nodes)]
    assert sorted(line for line in said.splitlines() if line.startswith("podrl")) == ranks


@pytest.mark.slow
def test_a_job_that_is_requeued_runs_again(cluster, tmp_path):
    script = write_script(
        tmp_path,
        """
        echo "start ${SLURM_RESTART_COUNT:-0} on $(scontrol show hostnames | paste -sd,)"
        [ "${SLURM_RESTART_COUNT:-0}" = 0 ] && srun sleep 1000
        exit 3
        """,
        "--requeue",
        "--open-mode=append",
    )
    job = cluster.submit(script)
    cluster.wait_for_output(job, "start 0")
    cluster.call("scontrol", "requeue", str(job))
    cluster.wait_for_state(job, {"FAILED"}, restarts=1)  # By itself, after the delay.
    assert re.findall("^start.*", cluster.output(job), re.M) == [
        f"start {count} on {','.join(cluster.nodes)}" for count in (0, 1)
    ]
    assert "ExitCode=3:0" in cluster.call("scontrol", "show", "job", str(job))


@pytest.mark.slow
def test_a_job_outlives_the_death_of_a_node(cluster, tmp_path):
    script = write_script(
        tmp_path,
        """
        srun bash -c 'echo "run ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"
                      [ "$SLURM_RESTART_COUNT" ] || sleep 1000'
        echo done
        """,
        "--requeue",
        "--open-mode=append",
    )
    _, second = cluster.nodes
    job = cluster.submit(script)
    for node in cluster.nodes:
        cluster.wait_for_output(job, f"run 0 on {node}")
    cluster.kill_node(second)
    cluster.wait_for_state(job, {"PENDING"}, restarts=1)
    cluster.restart_node(second)
    cluster.start_soon(job)
    cluster.wait_for_state(job, {"COMPLETED"}, restarts=1)
    for node in cluster.nodes:
        assert f"run 1 on {node}" in cluster.output(job)


def test_a_killed_node_takes_its_tasks_along_and_nothing_else(cluster, tmp_path):
    script = write_script(tmp_path, "srun bash -c 'echo up on $SLURMD_NODENAME; setsid sleep 1000 & wait'")
    _, second = cluster.nodes
    job = cluster.submit(script)
    for node in cluster.nodes:
        cluster.wait_for_output(job, f"up on {node}")

    def sleepers(node):
        found = []
        for pid in processes_of(cluster.environ["SLURM_CONF"]):
            environ = Path("/proc", pid, "environ")
            command = environ.with_name("cmdline")
            if command.read_bytes().startswith(b"sleep") and f"SLURMD_NODENAME={node}".encode() in environ.read_bytes():
                found.append(pid)
        return found

    assert [len(sleepers(node)) for node in cluster.nodes] == [1, 1]
    cluster.kill_node(second, noticed=False)
    assert [len(sleepers(node)) for node in cluster.nodes] == [1, 0]
    assert cluster.state(job) == "RUNNING"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_no_process_outlives_the_tests_even_if_they_are_killed(cluster, killed):
    """`cluster` is there to skip this test where there can be none, and to show that clusters live side by side."""
    command = [sys.executable, "-c", OTHER_TESTS]
    with subprocess.Popen(command, env=environment(), stdin=PIPE, stdout=PIPE, text=True) as tests:
        configuration, node = tests.stdout.readline().split()
        assert len(processes_of(configuration)) > 6
        assert node in HOSTS.read_text()
        if killed:
            tests.kill()
        else:
            tests.communicate("stop\n", timeout=LIMIT_S)
            assert tests.returncode == 0
    wait_for(lambda: not processes_of(configuration))
    if killed:  # Files stay, as nobody is there to delete them.
        shutil.rmtree(Path(configuration).parent)
    else:
        assert not Path(configuration).parent.exists()
        assert node not in HOSTS.read_text()
    assert cluster.nodes[0] in HOSTS.read_text()
    assert cluster.call("srun", "hostname")
