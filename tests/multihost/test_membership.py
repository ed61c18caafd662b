"""Where a process is, from flags and from what each platform sets."""

import subprocess
import sys

import pytest

from podrl.config.config import ConfigError
from podrl.runtime.job.addresses import is_loopback
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.platforms.slurm import expand_nodes

STEP = {  # What SLURM 22 sets in a step of `srun -N2 -n3`.
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_DISTRIBUTION": "block",
    "SLURMD_NODENAME": "node01",
}
MPI4 = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
GKE = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "pod-0.svc,pod-1.svc"}


def find(environ, **flags):
    return find_membership(environ, metadata=lambda key: None, **flags)


def test_a_process_of_its_own_is_alone():
    found = find({"HOME": "/root"})
    assert (found.platform, found.process_index, found.process_count, found.coordinator) == ("alone", 0, 1, None)
    assert found.describe() == "One process"


def test_flags_say_it_all():
    found = find({}, coordinator="node1:41234", process_count=2, process_index=1)
    assert (found.platform, found.process_index, found.process_count) == ("flags", 1, 2)
    assert found.coordinator == "node1:41234"
    assert found.describe().startswith("Process 1 of 2 on ")
    assert found.describe().endswith(", coordinator node1:41234")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"process_count": 2}, "--process_count is given, but --process_index is not. Give both"),
        ({"process_index": 0}, "--process_index is given, but --process_count is not. Give both"),
        ({"coordinator": "a:1"}, "--coordinator=a:1 needs --process_count and --process_index too"),
        ({"process_count": 2, "process_index": 0}, "--process_count=2 needs --coordinator=HOST:PORT"),
        ({"process_count": 2, "process_index": 2, "coordinator": "a:1"}, "--process_index=2 must be between 0 and 1"),
        ({"process_count": 0, "process_index": 0, "coordinator": "a:1"}, "--process_count=0 must be at least 1"),
        ({"process_count": 2, "process_index": 0, "coordinator": "node1"}, "--coordinator=node1 is not of the form"),
        ({"process_count": 2, "process_index": 0, "coordinator": "a:99999"}, "port 99999 is out of range"),
        ({"process_count": 2, "process_index": 0, "coordinator": "::1:80"}, "is not of the form HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_together(flags, complaint):
    with pytest.raises(ConfigError) as error:
        find({}, **flags)
    assert complaint in str(error.value)


def test_one_process_by_flags_needs_no_coordinator():
    assert find({}, process_count=1, process_index=0).coordinator is None


def test_a_step_of_slurm():
    found = find(STEP)
    assert (found.platform, found.process_index, found.process_count) == ("slurm", 1, 3)
    assert found.coordinator == "node01:61452"
    assert found.hosts == ("node01", "node01", "node02")
    assert found.describe() == "SLURM job 12, step 0: process 1 of 3 on node01, coordinator node01:61452"


def test_steps_and_jobs_that_share_a_node_meet_at_different_ports():
    environs = [STEP | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step} for job in ("12", "13") for step in ("0", "1")]
    assert len({find(environ).coordinator for environ in environs}) == 4


def test_a_script_of_sbatch_is_alone():
    script = {name: value for name, value in STEP.items() if "STEP" not in name} | {"SLURM_PROCID": "0"}
    assert find(script).platform == "alone"
    interactive = {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"}
    assert find(STEP | interactive).platform == "alone"


def test_a_step_of_one_task_needs_no_coordinator():
    one = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": "1"}
    found = find(STEP | one | {"SLURM_STEP_NODELIST": "node01"})
    assert (found.platform, found.process_count, found.coordinator) == ("slurm", 1, None)
    assert found.describe() == "SLURM job 12, step 0: the only process"


def test_tasks_that_are_dealt_out_in_turn_have_no_known_hosts():
    assert find(STEP | {"SLURM_DISTRIBUTION": "cyclic"}).hosts == ()
    one_each = {"SLURM_DISTRIBUTION": "cyclic", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    assert find(STEP | one_each).hosts == ("node01", "node02")


def test_flags_that_contradict_slurm():
    with pytest.raises(ConfigError, match=r"contradicts SLURM job 12, step 0, in which this is process 1 of 3\."):
        find(STEP, coordinator="a:1", process_count=2, process_index=0)
    assert find(STEP, coordinator="b:2").coordinator == "b:2"
    one = STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    assert find(one, coordinator="a:1", process_count=2, process_index=1).platform == "flags"


def test_a_variable_that_is_no_number_is_named():
    with pytest.raises(ConfigError, match="SLURM_PROCID='one' is not a whole number"):
        find(STEP | {"SLURM_PROCID": "one"})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ["node1"]),
        ("a,b", ["a", "b"]),
        ("n[08-10],m3", ["n08", "n09", "n10", "m3"]),
        ("n[1,3-4]", ["n1", "n3", "n4"]),
        ("rack-1-n[001-002],rack-2-n5", ["rack-1-n001", "rack-1-n002", "rack-2-n5"]),
    ],
)
def test_names_of_nodes(text, names):
    assert expand_nodes(text) == names


def test_open_mpi_meets_where_it_was_started():
    found = find(MPI4)
    assert (found.platform, found.process_index, found.process_count) == ("openmpi", 1, 2)
    assert found.coordinator.startswith("10.96.0.1:")
    six = find(MPI4 | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp6://[fe80::b9b,2620::2]:43370"})
    assert six.coordinator.startswith("[fe80::b9b]:")


def test_open_mpi_of_one_host_and_of_one_process():
    here = MPI4 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "prterun-a-7@1"}
    del here["OMPI_MCA_orte_hnp_uri"]
    assert is_loopback(find(here).coordinator)
    assert find(here | {"PMIX_NAMESPACE": "prterun-a-8@1"}).coordinator != find(here).coordinator
    one = find(here | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"})
    assert (one.process_count, one.coordinator) == (1, None)


def test_open_mpi_that_does_not_say_where_it_was_started():
    del (environ := dict(MPI4))["OMPI_MCA_orte_hnp_uri"]
    with pytest.raises(ConfigError, match="Add --coordinator=HOST:PORT, an address of that host"):
        find(environ)
    assert find(environ, coordinator="10.0.0.1:500").coordinator == "10.0.0.1:500"


def test_a_pod_of_gke():
    found = find(GKE)
    assert (found.platform, found.process_index, found.process_count) == ("gke", 1, 2)
    assert found.coordinator == "pod-0.svc:8482"
    assert found.hosts == ("pod-0.svc", "pod-1.svc")
    one = find({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"})
    assert (one.process_count, one.coordinator) == (1, None)


@pytest.mark.parametrize("left", sorted(GKE))
def test_a_pod_of_gke_that_knows_half_of_its_place_is_not_alone(left):
    half = {left: GKE[left]}
    with pytest.raises(ConfigError, match="one of several workers of a TPU slice, but not which one"):
        find(half)
    assert find(half, coordinator="a:1", process_count=2, process_index=1).platform == "flags"
    assert find({"TPU_WORKER_ID": "0"}).platform == find({"TPU_WORKER_HOSTNAMES": "localhost"}).platform == "alone"


def test_slices_of_gke_count_on():
    slices = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "job-0:8080"}
    found = find(GKE | slices)
    assert (found.process_index, found.process_count, found.coordinator) == (3, 4, "job-0:8482")


def test_a_tpu_machine_asks_its_metadata():
    metadata = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "uid:8470:10.0.0.4,uid:8470:10.0.0.5",
        "tpu-env": "ACCELERATOR_TYPE: 'v4-16'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '0'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.4:8080'\n",
    }
    found = find_membership({}, metadata=metadata.get)
    assert (found.platform, found.process_index, found.process_count) == ("tpu", 1, 4)
    assert found.coordinator == "10.0.0.4:8482"
    single = {"agent-worker-number": "0", "worker-network-endpoints": "10.0.0.4"}
    assert find_membership({}, metadata=single.get).coordinator is None
    assert find_membership({"TPU_SKIP_MDS_QUERY": "1"}, metadata=metadata.get).platform == "alone"


def test_this_does_not_import_jax():
    code = """import os, sys
from podrl.runtime.job.detection import find_membership
find_membership(os.environ)
assert 'jax' not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)
