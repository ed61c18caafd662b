"""A process that is to be alone, and those that take themselves for alone and are not."""

import dataclasses

import pytest

from podrl.config.commandline import parse_command_line
from podrl.config.config import ConfigError
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.messages import did_not_come, has_no_coordinator
from podrl.runtime.job.place import find_place, warn_of_unread_launcher
from tests.multihost.test_membership import MPI4, STEP
from tests.processes import ROOT

ALONE = Membership(platform="alone")


def place(environ, *flags):
    return find_place(environ, parse_command_line(["podrl", "--config", str(ROOT / "configs/impala_catch.py"), *flags]))


@pytest.mark.parametrize("environ", [STEP, MPI4, {}])
def test_alone_whatever_a_platform_says(environ):
    """As in a shell of `srun --pty`, which has the variables of its whole step."""
    found = place(environ, "--alone")
    assert dataclasses.replace(found, host="") == dataclasses.replace(ALONE, host="")
    assert found.processes_here == 1


def test_else_what_the_platform_says():
    assert place(STEP) == find_membership(STEP)
    flags = ("--coordinator=a:1", "--process_count=2", "--process_index=1")
    assert place({}, *flags).coordinator == "a:1"


@pytest.mark.parametrize("flag", ["--coordinator=a:1", "--process_count=2", "--process_index=0"])
def test_alone_in_a_job_is_a_contradiction(flag):
    with pytest.raises(ConfigError, match=rf"--alone is for a single process, but {flag} is of a job"):
        place({}, "--alone", flag)


def test_who_waits_in_vain_is_told_of_it():
    step = find_membership(STEP)
    hint = "If this process is to train by itself, whatever SLURM job 12, step 0 says, add --alone."
    assert did_not_come(step, [0], 300).endswith(hint)
    assert has_no_coordinator(step, "refused", 300).endswith(hint)
    by_flags = find_membership({}, coordinator="a:1", process_count=2, process_index=1)
    assert "--alone" not in did_not_come(by_flags, [0], 300)
    with pytest.raises(ConfigError, match=r"contradicts SLURM job 12.* Remove these flags, or take --alone\."):
        place(STEP, "--process_count=1", "--process_index=0")


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "podrl does not read JAX_COORDINATOR_ADDRESS=a:1. A job's"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "not read JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=0. A job's"),
        (
            {"JAX_COORDINATOR_PORT": "tcp://10.0.0.1:1234", "JAX_COORDINATOR_SERVICE_HOST": "10.0.0.1"},
            "JAX_COORDINATOR_PORT=tcp://10.0.0.1:1234 (JAX_COORDINATOR_PORT: Kubernetes sets it for a service of that "
            "name). A job's processes meet where --coordinator=HOST:PORT says",
        ),
        ({"JAX_COORDINATOR_PORT": "1234"}, "podrl does not read JAX_COORDINATOR_PORT=1234."),
        ({"JAX_PLATFORMS": "cpu"}, ""),
    ],
)
def test_what_only_jax_would_read_of_a_place_is_told(environ, said, caplog):
    warn_of_unread_launcher(environ, ALONE, alone=True)
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


POD = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}


def test_a_port_that_kubernetes_made_of_a_service_is_none(caplog):
    assert find_membership(POD | {"JAX_COORDINATOR_PORT": "1234"}).coordinator == "a:1234"
    environ = POD | {"JAX_COORDINATOR_PORT": "tcp://10.0.0.1:1234"}
    found = find_membership(environ)
    assert found.coordinator == "a:8482"
    warn_of_unread_launcher(environ, found, alone=False)
    assert "Kubernetes sets it for a service of that name" in caplog.text
    caplog.clear()
    warn_of_unread_launcher(POD | {"JAX_COORDINATOR_PORT": "1234"}, found, alone=False)
    assert not caplog.text
    with pytest.raises(ConfigError, match=r"JAX_COORDINATOR_PORT='12x' is not a port\. Unset it, or give a number"):
        find_membership(POD | {"JAX_COORDINATOR_PORT": "12x"})


@pytest.mark.parametrize(
    ("environ", "launcher"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "none"}, "torchrun"),
        ({"PMI_RANK": "1", "PMI_SIZE": "4"}, "MPICH or Intel MPI"),
        ({"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}, "MPICH or Intel MPI"),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "4"}, "MVAPICH"),
    ],
)
def test_variables_of_a_launcher_that_is_not_read_are_a_warning(environ, launcher, caplog):
    warn_of_unread_launcher(environ, ALONE, alone=False)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"as {launcher} sets them, say that this is one of 4 processes, but podrl does not read them" in line
    assert "4 runs of one process each would start" in line
    rank, size = list(environ)[:2]
    assert "export one PODRL_JOB_SECRET" in line
    inner = f"--coordinator=HOST:PORT --process_count=${size} --process_index=${rank}"
    assert f" sh -c 'exec python tools/tpu_launch.py ... {inner}'; " in line  # Quoted: the calling shell has no such.
    assert line.endswith("add --alone.")


@pytest.mark.parametrize(
    ("environ", "membership", "alone"),
    [
        ({"RANK": "0", "WORLD_SIZE": "1"}, ALONE, False),
        ({"RANK": "0", "WORLD_SIZE": "4"}, ALONE, True),
        ({"PMI_RANK": "1", "PMI_SIZE": "3"}, find_membership(STEP), False),
        ({"RANK": "first", "WORLD_SIZE": "all"}, ALONE, False),
        ({}, ALONE, False),
    ],
)
def test_else_there_is_nothing_to_warn_of(environ, membership, alone, caplog):
    warn_of_unread_launcher(environ, membership, alone=alone)
    assert not caplog.records
