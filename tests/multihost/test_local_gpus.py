"""Who takes which GPU of a host, by what SLURM and Open MPI say; no GPU is needed."""

import pytest

from podrl.config.config import ConfigError
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.local_gpus import check_gpus, share_gpus
from tests.multihost.test_membership import MPI4, STEP


def task(local=0, tasks=2, **environ):
    return STEP | {
        "SLURM_STEP_TASKS_PER_NODE": f"{tasks},1",
        "SLURM_STEP_NUM_TASKS": str(tasks + 1),
        "SLURM_LOCALID": str(local),
        "SLURM_PROCID": str(local),
        "SLURM_NODEID": "0",
        "SLURMD_NODENAME": "node01",
        **environ,
    }


def look(environ, plugins=("xla_cuda13",), **more):
    check_gpus(environ, find_membership(environ), plugins, **more)


@pytest.mark.parametrize(
    ("environ", "gpus"),
    [
        (task(1), (1,)),  # Nobody says how many there are.
        (task(1, CUDA_VISIBLE_DEVICES="0,1,2,3"), (2, 3)),
        (task(1, CUDA_VISIBLE_DEVICES="4,5,6,7", SLURM_GPUS_ON_NODE="8"), (2, 3)),  # The user's choice of them.
        (task(1, SLURM_GPUS_ON_NODE="4"), (2, 3)),
        (task(1, CUDA_VISIBLE_DEVICES="0,1,2"), (1,)),
        (task(1, CUDA_VISIBLE_DEVICES="0"), None),  # Each sees its own, as number 0.
        (task(3, 4, CUDA_VISIBLE_DEVICES="0,1", SLURM_GPUS_PER_TASK="2", SLURM_GPUS_ON_NODE="8"), None),
        (
            task(1, CUDA_VISIBLE_DEVICES="0,1", SLURM_GPUS_PER_TASK="1", SLURM_GPU_BIND="none", SLURM_GPUS_ON_NODE="2"),
            (1,),
        ),
        (task(0, 1, CUDA_VISIBLE_DEVICES="0,1,2,3"), None),  # Alone on its host: all of them.
        ({"SLURM_JOB_ID": "12", "CUDA_VISIBLE_DEVICES": "0,1"}, None),
        (task(1, CUDA_VISIBLE_DEVICES="-1"), None),  # To be hidden from all.
        (task(1, CUDA_VISIBLE_DEVICES=""), None),
        (task(1, CUDA_VISIBLE_DEVICES="0,1,-1,2,3"), (1,)),  # CUDA reads no further than -1.
    ],
)
def test_gpus_are_shared_out(environ, gpus):
    assert share_gpus(environ, find_membership(environ, metadata=lambda key: None)) == gpus


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            task(4, 8, CUDA_VISIBLE_DEVICES="0,1,2,3"),
            r"8 processes .* node01, which has 4 GPU.* \(CUDA_VISIBLE_DEVICES=0",
        ),
        (task(4, 8, SLURM_GPUS_ON_NODE="4"), r"8 processes .* has 4 GPU.* \(SLURM_GPUS_ON_NODE=4\)"),
        (
            task(1, 2, CUDA_VISIBLE_DEVICES="0", SLURM_GPUS_ON_NODE="1"),
            r"2 processes .* has 1 GPU.* Start at most 1 on a",
        ),
        (
            task(1, 4, CUDA_VISIBLE_DEVICES="0", SLURM_NTASKS_PER_GPU="2", SLURM_GPUS_ON_NODE="2"),
            r"4 processes .* has 2",
        ),
        (
            MPI4
            | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "0,1"},
            r"4 processes .* has 2 GPU",
        ),
    ],
)
def test_more_processes_than_gpus_are_a_mistake(environ, said):
    with pytest.raises(ConfigError, match=said):
        look(environ)
    look(environ, plugins=())  # JAX has only the CPU here.
    look(environ | {"JAX_PLATFORMS": "cpu"})


def test_where_nobody_says_the_driver_is_asked(tmp_path):
    (tmp_path / "0000:00:04.0").mkdir()
    with pytest.raises(ConfigError, match=r"2 processes .* has 1 GPU"):
        look(task(), driver=tmp_path)
    look(task(), driver=tmp_path / "none")


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_a_job_on_the_cpus_of_a_host_with_gpus_is_left_alone(tmp_path, hidden, caplog):
    (tmp_path / "0000:00:04.0").mkdir()
    look(task(1, 4, CUDA_VISIBLE_DEVICES=hidden), driver=tmp_path)
    look(task(1, 4, CUDA_VISIBLE_DEVICES=hidden, SLURM_GPUS_ON_NODE="1"), driver=tmp_path)
    assert not caplog.text


def test_parts_of_one_gpu_that_ranks_are_shown_are_no_whole_ones(tmp_path):
    (tmp_path / "0000:00:04.0").mkdir()
    ranks = MPI4 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    look(ranks | {"CUDA_VISIBLE_DEVICES": "MIG-4a5b"}, driver=tmp_path)


@pytest.mark.parametrize(
    ("environ", "unused"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, 1),
        ({"SLURM_GPUS_ON_NODE": "5"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_PER_TASK": "1", "SLURM_GPUS_ON_NODE": "4"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_PER_TASK": "1", "SLURM_GPUS_ON_NODE": "2"}, 0),
    ],
)
def test_gpus_that_no_process_uses_are_told_once_a_host(environ, unused, caplog):
    for local in (0, 1):
        look(task(local, **environ))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == bool(unused)
    assert all(text.startswith(f"{unused} of the ") and "are used by no process" in text for text in said)
