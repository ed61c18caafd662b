"""tools/plan.py as its users meet it."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from podrl.commands import plan as tool
from podrl.runtime.machine import skip_absent_tpu
from tests.processes import LIMIT_S, ROOT, running

CATCH = f"--config={ROOT}/configs/impala_catch.py"
ATARI = f"--config={ROOT}/configs/impala_atari.py"


def plan(*arguments):
    command = [sys.executable, str(ROOT / "tools/plan.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((CATCH,), "--topology"),
        ((CATCH, "--measured", "nowhere.json", "--topology", "this"), "Leave out one of the two."),
        ((CATCH, "--measured", "nowhere.json", "--topology", "this", "--check"), "without --measured"),
        ((CATCH, "--topology", "v9:2x2"), "there is no chip 'v9'"),
        ((CATCH, "--topology", "v5e:2x2x2"), "have 2 axes; found 3"),
        ((CATCH, "--topology", "h100:8", "--achieved", "2"), "--achieved=2.0 must lie in (0, 1]"),
        ((CATCH, "--topology", "h100:8", "--env_workers", "0"), "--env_workers=0 must lie in [1, 1e6]"),
        ((CATCH, "--topology", "h100:8", "--wire_ms", "1"), "--wire_ms is of --env_workers"),
        ((CATCH, "--topology", "this", "--env_workers", "1"), "--env_workers is for slices"),
        ((CATCH, "--topology", "h100:8", "--price", "-1"), "--price=-1.0 must be positive"),
        ((CATCH, "--topology", "this", "--price", "2"), "--price is for slices"),
        ((CATCH, "--topology", "this:2x1", "--topology", "this", "--achieved=0.5"), "Drop --achieved, or add a slice"),
        ((CATCH, "--topology", "h100:8", "--check"), "--check runs on this machine"),
        ((CATCH, "--topology", "this:2"), "processes x devices"),
        ((CATCH, "--topology", "h100:8", "--json", "."), " is a folder"),
        ((CATCH, "--topology", "v5e:²x4"), "a chip and a shape"),
        ((CATCH, "--topology", "h100:8", "--confg.seed=1"), "Unknown argument '--confg.seed=1'"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(arguments, complaint, monkeypatch, capfd):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # The tool sets it.
    assert tool.main(["plan.py", *arguments]) == 2
    check_complaint(capfd.readouterr().err, complaint)


def test_a_mistake_that_is_found_with_jax_ends_the_command_alike():
    found = plan(CATCH, "--topology", "h100:8", "--config.actors.num_envs=7", "--env_steps_per_vcpu=9")
    assert found.returncode == 2
    check_complaint(found.stderr, "num_envs=7")


def check_complaint(stderr, complaint):
    errors = [line for line in stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert complaint in errors[0]
    assert "Traceback" not in stderr


def test_a_plan_for_gpus_is_printed_and_written(tmp_path):
    written = tmp_path / "plan.json"
    arguments = ("--topology", "h100:1", "--topology", "h100:2x8", "--price", "2", "--json", str(written))
    found = plan(ATARI, "--env_steps_per_vcpu=1000", "--config.actors.num_envs=1024", *arguments)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("Predicted:") == 2
    plans = json.loads(written.read_text())
    assert [one["topology"] for one in plans] == ["h100:1", "h100:2x8"]
    assert all(one["fits"] for one in plans)


def test_what_was_planned_before_a_mistake_is_written(tmp_path):
    written = tmp_path / "plan.json"
    written.write_text("of before")
    arguments = ("--env_steps_per_vcpu=1000", "--config.actors.num_envs=8", "--json", str(written))
    found = plan(CATCH, *arguments, "--topology=h100:1", "--topology=h100:8")
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith("plan: error: actors.num_envs=8 does not divide")
    assert "plan.json has 1 of 2 plans." in found.stderr
    assert [one["topology"] for one in json.loads(written.read_text())] == ["h100:1"]


@pytest.mark.parametrize(
    ("topology", "processes"),
    [pytest.param("this", 1, marks=pytest.mark.slow), pytest.param("this:2x1", 2, marks=pytest.mark.long)],
)
def test_a_prediction_for_this_machine_is_held_against_a_run(tmp_path, topology, processes):
    written = tmp_path / "plan.json"
    found = plan(CATCH, "--topology", topology, "--check", "--json", str(written))
    assert found.returncode == 0, found.stderr
    (row,) = json.loads(written.read_text())
    assert (row["processes"], row["devices"]) == (processes, 1)
    assert ("reduce" in row["core_s"]) == (processes > 1)
    assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1)
    assert row["error_min"] <= row["error"] <= row["error_max"]
    assert f"{row['error']:+.0%} (" in found.stdout


@pytest.mark.slow
def test_a_plan_for_a_tpu_is_compiled(tmp_path):
    pytest.importorskip("libtpu")
    written = tmp_path / "plan.json"
    arguments = ("--topology", "v5e:2x4", "--topology", "v5e:4x8", "--json", str(written))
    found = plan(CATCH, "--env_steps_per_vcpu=1000", "--config.actors.num_envs=64", *arguments)
    assert found.returncode == 0, found.stderr
    one, two = json.loads(written.read_text())
    assert one["compiled"]
    assert two["note"].endswith("planned with as many on each host, 512 in all.")
    assert two["update"]["traffic"].keys() == {"all-reduce"}


@pytest.mark.slow
def test_a_batch_that_a_tpu_cannot_hold_is_the_answer():
    pytest.importorskip("libtpu")
    large = ("--config.actors.num_envs=65536", "--config.actors.unroll_length=128", "--config.network.encoder=nature")
    found = plan(ATARI, "--topology", "v5e:1x1", "--env_steps_per_vcpu=1000", *large)
    assert found.returncode == 0, found.stderr
    assert "Does not fit: needs" in found.stdout
    assert "15.75 GiB" in found.stdout
    assert "--config.topology.micro_batches=" in found.stdout


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
class TestAbsentTpus:
    """JAX does not look for a TPU where none can be."""

    @pytest.fixture
    def sys_folder(self, tmp_path):
        vendor = tmp_path / "bus/pci/devices/0000:00:04.0/vendor"
        vendor.parent.mkdir(parents=True)
        vendor.write_text("0x8086\n")
        return tmp_path

    def test_without_one_the_cpu_is_enough(self, sys_folder, tmp_path):
        environ = {}
        skip_absent_tpu(environ, [], sys_folder, tmp_path / "dev")
        assert environ == {"JAX_PLATFORMS": "cpu"}

    @pytest.mark.parametrize("device", ["0x001f", "0x0042"])
    def test_a_disk_or_a_network_card_of_the_vendor_of_tpus_is_none(self, sys_folder, tmp_path, device):
        card, environ = sys_folder / "bus/pci/devices/0000:00:04.0", {}
        (card / "vendor").write_text("0x1ae0\n")
        (card / "device").write_text(f"{device}\n")
        skip_absent_tpu(environ, [], sys_folder, tmp_path / "dev")
        assert environ == {"JAX_PLATFORMS": "cpu"}
        (card / "device").write_text("0x0063\n")
        environ = {}
        skip_absent_tpu(environ, [], sys_folder, tmp_path / "dev")
        assert environ == {}

    @pytest.mark.parametrize("file", ["accel0", "vfio/0", "TPU_WORKER_ID"])
    def test_a_device_file_or_a_variable_of_a_tpu_is_enough_to_look_for_it(self, sys_folder, tmp_path, file):
        environ = {file: "0"} if file.isupper() else {}
        (tmp_path / "dev/vfio").mkdir(parents=True)
        if not environ:
            (tmp_path / "dev" / file).touch()
        before = dict(environ)
        skip_absent_tpu(environ, [], sys_folder, tmp_path / "dev")
        assert environ == before

    @pytest.mark.parametrize(
        ("environ", "plugins", "vendor"),
        [({"JAX_PLATFORMS": "tpu"}, [], "0x8086"), ({}, ["xla_cuda13"], "0x8086"), ({}, [], "0x1ae0")],
    )
    def test_where_there_may_be_one_or_the_user_has_said_it_is_left_alone(self, sys_folder, environ, plugins, vendor):
        (sys_folder / "bus/pci/devices/0000:00:04.0/vendor").write_text(f"{vendor}\n")
        before = dict(environ)
        skip_absent_tpu(environ, plugins, sys_folder)
        assert environ == before

    def test_a_run_is_silent_about_them(self, tmp_path, monkeypatch):
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        arguments = ("--config", ROOT / "configs/impala_catch.py", "--smoke", "--config.total_env_steps=64")
        with running(*arguments, "--workdir", "run", cwd=tmp_path, anew=True) as process:
            said = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, said
        assert "TPU" not in "".join(said)
        strange = [line for line in said[1].splitlines() if not re.match(r"\[p0 [\d:]+\] ", line)]
        assert not strange
