"""The inspector sees what a checkpoint of any topology holds, and exports it."""

import json
import os
import shutil
import subprocess
import sys
import threading

from etils import epath
import jax
from jax import numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.flax

from podrl.commands import inspect_checkpoint as tool
from podrl.config.config import ConfigError, TopologyConfig
from podrl.config.config_dict import to_dict
from podrl.learning.learner import Learner
from podrl.mesh import make_topology
from podrl.runs import export, inspection
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_errors import DamagedError
from podrl.types import Counters, Snapshot
from tests.launch.test_launcher import ROOT
from tests.runs.test_checkpoint import at_update
from tests.short_runs import make_agent, make_config

MANIFEST = {"commit": "abc123", "versions": {"jax": "1.2.3"}, "devices": ["a", "b"], "device_kind": "TPU v5e"}


@pytest.fixture(scope="module")
def config():
    return make_config(checkpoint__every_updates=4, checkpoint__keep=1, checkpoint__keep_every=8)


@pytest.fixture(scope="module")
def state(config):
    """On four devices, with a parameter in bfloat16."""
    topology = TopologyConfig(actor_devices_per_process=1, learner_devices_per_process=4)
    agent, _ = make_agent(config)
    state = Learner(agent, make_topology(topology, jax.devices()[:4]).learner).init(3)
    params = dict(state.params)
    params["policy"] = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["policy"])
    return state.replace(params=params)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, config, state):
    """A run with checkpoints of updates 8, 12 and 14, the newest without its config and manifest."""
    run = tmp_path_factory.mktemp("saved") / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(to_dict(config)))
    (run / "manifest.json").write_text(json.dumps(MANIFEST | {"commit": "of the folder"}))
    with Checkpointer(run, keep=1, every=4, keep_every=8) as checkpointer:
        for step, newest in ((8, []), (12, [[1.5, 7], [2.5, 9]])):
            counters = Counters(learner_steps=step, env_steps=1000 * step, frames=4000 * step)
            snapshot = Snapshot(
                state=at_update(state, step), counters=counters, episodes={"newest": newest, "count": 2}
            )
            checkpointer.save(snapshot, config=to_dict(config) | {"name": "other"}, manifest=MANIFEST)
        checkpointer.save(Snapshot(state=at_update(state, 14), counters=Counters(learner_steps=14), episodes={}))
    (run / "checkpoints/16.orbax-checkpoint-tmp").mkdir()
    return run


@pytest.fixture
def workdir(tmp_path, saved):
    """A copy of that run, for the test to damage."""
    return shutil.copytree(saved, tmp_path / "run")


def inspect(workdir, *arguments):
    return tool.main(["inspect_checkpoint.py", "--workdir", str(workdir), *map(str, arguments)])


def rows(text):
    """The cells of all Markdown tables, by their first one."""
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {cells[0]: cells[1:] for cells in table}


def plain_params(state):
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state.params))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def test_lists_the_checkpoints(workdir, capsys):
    assert inspect(workdir) == 0
    output = capsys.readouterr().out
    cells = rows(output)
    assert [cells[step][:2] + cells[step][3:] for step in ("8", "12", "14")] == [
        ["8,000", "-", "permanent"],
        ["12,000", "2.00", "newest"],
        ["0", "-", "latest"],
    ]
    assert all(cells[step][2].endswith("KiB") for step in ("8", "12", "14"))
    assert "Not counted, since half-written or put aside as damaged: 16.orbax-checkpoint-tmp" in output


def test_describes_one(workdir, capsys):
    assert inspect(workdir, "--step", 12) == 0
    output = capsys.readouterr().out
    cells = rows(output)
    facts = {line[2:12].strip(): line[12:] for line in output.splitlines() if line[:2] == "  "}
    assert facts["updates"] == "12"
    assert facts["frames"] == "48,000"
    assert facts["return"] == "2.00 (mean of the newest 2 episodes)"
    assert facts["run"] == "other on Catch-v0 (envpool), seed 1"
    assert facts["agent"] == "impala"
    assert facts["network"].startswith("mlp, parts [], width 1, hidden_sizes [16]")
    assert facts["commit"] == "abc123"
    assert facts["versions"] == "jax 1.2.3"
    assert cells["params/encoder/Dense_0/kernel"] == ["float32", "50 x 16", "800", "3,200"]
    assert cells["params/policy/kernel"] == ["bfloat16", "16 x 3", "48", "96"]
    assert cells["step"] == ["int32", "scalar", "1", "4"]
    arrays = list(cells)[list(cells).index("array") :]
    assert [name.startswith("params/") for name in arrays[2:9]] == [True] * 6 + [False]
    assert "884 parameters in 6 arrays, 3.4 KiB; the whole state: " in output


def test_a_step_is_shown_without_a_look_at_the_others(workdir, capsys):
    """A run may have thousands; a named pipe that nobody writes would hold up whoever reads it."""
    for path in (workdir / "checkpoints/8").glob("*/metadata"):
        path.unlink()
        os.mkfifo(path)
    assert inspect(workdir, "--step", 12) == 0
    assert not {"8", "12", "14"} & set(rows(capsys.readouterr().out))


def test_one_of_before_takes_config_and_manifest_from_the_folder_and_says_so(workdir, capsys):
    assert inspect(workdir) == 0
    output = capsys.readouterr().out
    assert "checkpoint 14" in output
    assert "test on Catch-v0" in output
    assert "of the folder" in output
    assert "Config and manifest are those of the folder" in output


def test_a_machine_of_one_device_without_envpool_shows_and_exports_the_same(workdir, state, tmp_path):
    out = tmp_path / "params.npz"
    arguments = ["inspect_checkpoint.py", "--workdir", str(workdir), "--export", str(out)]
    program = (
        "import sys; sys.modules['envpool'] = None\n"
        "from podrl.commands import inspect_checkpoint\n"
        f"code = inspect_checkpoint.main({arguments})\n"
        "import jax; assert jax.device_count() == 1\n"
        "sys.exit(code)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(ROOT)
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    with np.load(out) as file:
        exported = dict(file)
    for path, array in plain_params(state).items():
        if array.dtype == jnp.bfloat16:
            array, path = array.view(np.uint16), f"{path}.bfloat16"
        np.testing.assert_array_equal(exported.pop(path), array, strict=True)
    assert not exported


def test_safetensors_have_the_parameters_bit_for_bit(workdir, state, tmp_path):
    assert inspect(workdir, "--export", tmp_path / "params.safetensors") == 0
    exported = jax.device_get(safetensors.flax.load_file(tmp_path / "params.safetensors"))
    expected = plain_params(state)
    assert exported.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(exported[path], array, strict=True)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "params.safetensors"}


@pytest.mark.parametrize("suffix", export.EXPORT_SUFFIXES)
def test_arrays_with_gaps_in_memory_are_exported_whole(tmp_path, suffix):
    array = np.arange(12, dtype=ml_dtypes.bfloat16).reshape(3, 4).T
    path = tmp_path / f"params{suffix}"
    export.write_params(export.epath.Path(path), {"w": array})
    if suffix == ".npz":
        read = np.load(path)["w.bfloat16"].view(ml_dtypes.bfloat16)
    else:
        read = jax.device_get(safetensors.flax.load_file(path)["w"])
    np.testing.assert_array_equal(read, array, strict=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir", "nowhere"], "--workdir={here}/nowhere is not there, or no folder."),
        (["--workdir", "."], "--workdir={here} is not the folder of a run: it has no config.json."),
        (["--workdir", "empty"], "--workdir={here}/empty has no whole checkpoint yet, only 4.orbax-checkpoint-tmp."),
        (["--workdir", "run", "--step", "9"], "--step=9 has no checkpoint in {here}/run. There are: 8, 12, 14."),
        (["--workdir", "run", "--step", "last"], "Argument --step: invalid int value: 'last'."),
        (
            ["--workdir", "run", "--export", "p.bin"],
            "--export={here}/p.bin ends in '.bin'; expected .npz, .safetensors or .stablehlo.",
        ),
        (["--workdir", "run", "--export", "there.npz"], "--export={here}/there.npz is there already."),
        (["--workdir", "run", "--export", "no/p.npz"], "--export={here}/no/p.npz: there is no folder {here}/no."),
        (["--workdir", "run", "--export", "/proc/p.npz"], "--export=/proc/p.npz cannot be written ("),
        (["--workdir", "run", "--extra"], "Unrecognized arguments: --extra. See --help."),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(workdir, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").touch()
    (tmp_path / "empty/checkpoints/4.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "empty/config.json").write_text("{}")
    assert tool.main(["inspect_checkpoint.py", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"inspect_checkpoint: error: {message.format(here=tmp_path)}")
    assert error.count("\n") == 1


def test_a_missing_package_is_named(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert inspect(workdir, "--export", tmp_path / "p.safetensors") == 2
    assert "needs the package safetensors: pip install safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("item", ["counters", "episodes", "state"])
def test_a_damaged_checkpoint_is_listed_and_named(workdir, capsys, item):
    shutil.rmtree(workdir / "checkpoints/14")
    for path in (workdir / "checkpoints/12" / item).rglob("*"):
        if path.is_file():
            path.write_text("{")
    assert inspect(workdir) == 1
    output = capsys.readouterr()
    assert set(rows(output.out)) >= {"8", "12"}
    assert output.err.count("\n") == 1
    assert "damaged" in output.err


def test_an_array_that_is_not_what_was_saved_is_damage_also_where_nothing_is_exported(workdir, capsys):
    shutil.rmtree(workdir / "checkpoints/12/state")
    shutil.copytree(workdir / "checkpoints/8/state", workdir / "checkpoints/12/state")
    assert inspect(workdir, "--step", 12) == 1
    error = capsys.readouterr().err
    assert "is damaged: step of 16 arrays: the hash is not that of what was saved." in error
    assert inspect(workdir, "--step", 8) == 0
    assert "all 16 match the hashes that were saved with them" in capsys.readouterr().out


class TestARunUnderWay:
    """It deletes checkpoints while they are read; each of these tests deletes one at the worst moment."""

    @pytest.fixture
    def deletes(self, workdir, monkeypatch):
        """Deletes the checkpoints of these updates, each as soon as its facts have been read."""
        doomed = []
        read_shapes = inspection.read_shapes

        def delete_and_read(folder, step, facts):
            if step in doomed:
                shutil.rmtree(workdir / f"checkpoints/{step}")
            return read_shapes(folder, step, facts)

        monkeypatch.setattr(inspection, "read_shapes", delete_and_read)
        return doomed.append

    def test_the_next_one_is_taken(self, workdir, deletes, capsys, tmp_path):
        deletes(14)
        assert inspect(workdir, "--export", tmp_path / "params.npz") == 0
        printed = capsys.readouterr()
        assert "checkpoint 12" in printed.out
        assert f"Wrote the parameters of checkpoint 12 to {tmp_path}/params.npz." in printed.out
        assert printed.err == ""

    def test_one_that_was_asked_for_is_told_of(self, workdir, deletes, capsys):
        deletes(12)
        assert inspect(workdir, "--step", 12) == 1
        expected = f"Checkpoint 12 in {workdir} was deleted meanwhile by its run. There are: 8, 14."
        assert capsys.readouterr().err == f"inspect_checkpoint: error: {expected}\n"

    @pytest.mark.parametrize("is_in_a_bucket", [True, False])
    def test_one_that_is_just_being_deleted_is_not_damaged(self, workdir, is_in_a_bucket, monkeypatch):
        if is_in_a_bucket:  # There is no heartbeat there.
            monkeypatch.setattr(inspection, "_may_be_under_way", lambda workdir: True)
        else:
            (workdir / ".heartbeat").touch()
        seen = []

        def read(step):
            seen.append(step)
            if step == 14:
                shutil.rmtree(workdir / "checkpoints/14/state")
                threading.Timer(0.2, shutil.rmtree, [workdir / "checkpoints/14"]).start()
                raise DamagedError("its arrays are not there")
            return step

        assert inspection.read_checkpoint(epath.Path(workdir), None, read) == 12
        assert seen == [14, 12]

    @pytest.mark.parametrize("is_under_way", [True, False])
    def test_damage_is_damage_all_the_same(self, workdir, is_under_way, capsys):
        if is_under_way:
            (workdir / ".heartbeat").touch()
        shutil.rmtree(workdir / "checkpoints/14/counters")
        assert inspect(workdir) == 1
        assert f"Checkpoint 14 in {workdir}/checkpoints is damaged: its counters" in capsys.readouterr().err

    def test_none_is_left(self, workdir):
        def read(step):
            shutil.rmtree(workdir / "checkpoints")
            raise DamagedError("its arrays are not there")

        with pytest.raises(ConfigError, match="has no whole checkpoint any more"):
            inspection.read_checkpoint(epath.Path(workdir), None, read)

    def test_a_list_leaves_out_what_is_deleted(self, workdir, monkeypatch, capsys):
        def delete(folder, step):
            if step == 8:
                shutil.rmtree(workdir / "checkpoints/8")

        monkeypatch.setattr(inspection, "read_return", delete)
        assert inspect(workdir) == 0
        assert {"12", "14"} < set(cells := rows(capsys.readouterr().out))
        assert "8" not in cells


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_of_a_user_without_a_name(workdir, capsys):
    for path in (workdir, *workdir.rglob("*")):
        os.chown(path, 54321, 54321)
    assert inspect(workdir) == 0
    assert "checkpoint 14" in capsys.readouterr().out
