"""The launch flags: taken off the command line, checked, explained."""

import subprocess
import sys

import pytest

from podrl.config.config import ConfigError
from podrl.launch.options import FLAGS, Options, help_text, split
from tests.processes import ROOT, environment, launch

SLURM = ("--slurm", "--nodes=1", "--gpus_per_node=0")
TPU = ("--tpu", "slice", "--zone", "z")


def test_come_off_and_the_rest_stays_as_it_is():
    argv = [
        "x.py",
        "--config",
        "a.py",
        "--local_processes",
        "2",
        "--config.total_env_steps=1e6",
        "--dry_run",
        "-profile",
    ]
    options, rest = split(argv)
    assert options == Options(local_processes=2, dry_run=True)
    assert rest == ["x.py", "--config", "a.py", "--config.total_env_steps=1e6", "-profile"]


def test_without_them_nothing_is_launched():
    options, rest = split(["x.py", "--config=a.py", "--smoke"])
    assert not options.launches
    assert rest == ["x.py", "--config=a.py", "--smoke"]


def test_every_flag_has_a_field_and_a_line_of_help():
    assert set(FLAGS) == set(vars(Options()))
    assert all(f"--{name}" in help_text() for name in FLAGS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*SLURM, *TPU), "--slurm and --tpu exclude each other: a job runs in one place. Give one of them."),
        (("--local_processes=2", *SLURM), "--local_processes and --slurm exclude each other"),
        (("--nodes=2",), "--nodes goes with --slurm, which is not given. Add that, or drop --nodes."),
        ((*SLURM, "--zone=z"), "--zone goes with --tpu, which is not given."),
        (("--devices_per_process=2",), "--devices_per_process goes with --local_processes"),
        (("--local_processes=0",), "--local_processes=0 must lie in [1, 2**20]."),
        (("--local_processes=two",), "Argument --local_processes: invalid int value: 'two'."),
        (("--max_restarts=-1",), "--max_restarts=-1 must lie in [0, 1e6]."),
        (("--slurm", "--nodes=2"), "--slurm needs --gpus_per_node G (0 for nodes without)."),
        (("--slurm", "--gpus_per_node=2"), "--slurm needs --nodes N."),
        (("--tpu=slice",), "--tpu needs its --zone"),
        ((*TPU, "--spot"), "--spot and --queued_resource are for a TPU to create."),
        ((*TPU, "--accelerator_type=v5litepod-8"), "takes both --accelerator_type and --runtime_version"),
        (("--dry_run",), "--dry_run shows what would be launched."),
    ],
)
def test_contradictions_are_one_line(arguments, message):
    with pytest.raises(ConfigError) as error:
        split(["x.py", *arguments])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--local_proceses=2",), "Unknown flag --local_proceses; did you mean 'local_processes'? See --help."),
        (("--local_processes=2", "--config.sed=1"), "Unknown config key 'sed'; did you mean 'seed'?"),
        (("--local_processes=2", "--process_index=1"), "--process_index is for one member of a job"),
    ],
)
def test_mistakes_show_before_anything_starts(tmp_path, arguments, message):
    result = launch("--config", ROOT / "configs/impala_catch.py", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("podrl: error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_help_explains_them(tmp_path):
    result = launch("--help", cwd=tmp_path)
    assert result.returncode == 0
    assert help_text() in result.stdout


def test_a_launcher_starts_without_jax():
    code = "import sys, podrl.launch.start; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0
