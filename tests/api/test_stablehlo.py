"""A policy as StableHLO plays without podrl, and does what podrl's own does."""

import json
import re
import subprocess
import sys
import zipfile

import gymnasium
import numpy as np
import pytest

import podrl
from tests.api.short import train
from tests.processes import LIMIT_S, ROOT
from tools import inspect_checkpoint

pytest.importorskip("flatbuffers")

# What docs/python.md shows, for 8 environments, and what follows. It runs where podrl cannot be imported.
(SHOWN,) = re.findall(r"```python\n([^`]*export\.deserialize.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
BEFORE = """
import importlib.util
import os

import numpy as np

assert importlib.util.find_spec("podrl") is None
data = np.load("seen.npz")
observation, first, reward = data["observation"][0], data["first"][0], np.zeros(8, np.float32)
"""
AFTER = """
actions = [np.asarray(action)]
for observation, first in zip(data["observation"][1:], data["first"][1:]):
    action, carry = act.call(observation, reward, first, carry)
    actions.append(np.asarray(action))
actions, units = np.stack(actions), spec["action"]
if "center" in units:
    moved = np.array(units["center"]) + np.array(units["half"]) * actions.astype(np.float64)
    moved = np.clip(moved, units["low"], units["high"])
    actions = moved.reshape(*actions.shape[:2], *units["space_shape"]).astype(units["space_dtype"])
np.save("actions.npy", actions + units.get("start", 0))
assert not [name for name in sys.modules if name.startswith(("podrl", "flax", "gymnasium"))]
"""
HIDE = """
import os
import sys

sys.path[:] = [folder for folder in sys.path if not os.path.exists(os.path.join(folder, "podrl"))]
sys.meta_path[:] = [finder for finder in sys.meta_path if "podrl" not in repr(finder)]
"""
RUNS = {
    "lstm": {
        **{"env__source": "gymnasium", "env__id": "CartPole-v1", "network__core": "lstm", "network__core_size": 8},
        **{"network__last_action": True, "network__normalize_observations": True},
    },
    "continuous": {"env__source": "gymnasium", "env__id": "Pendulum-v1", "network__frame_stack": 2},
}


@pytest.fixture(scope="module", params=["lstm", pytest.param("continuous", marks=pytest.mark.slow)])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder / "run", **RUNS[request.param])
    return folder / "run"


@pytest.mark.parametrize("policy", [pytest.param("greedy", marks=pytest.mark.slow), "sampled"])
def test_a_process_without_podrl_acts_alike(run, tmp_path, policy):
    file = tmp_path / "policy.stablehlo"
    facts = podrl.export_policy(run, file, policy=policy)
    loaded = podrl.load_policy(run, policy=policy)
    space = gymnasium.make(facts["env"]["id"]).observation_space
    size, steps = 8, 6
    rng = np.random.default_rng(5)
    observation = rng.normal(size=(steps, size, *space.shape)).astype(np.float32)
    first = rng.random((steps, size)) < 0.3
    first[0] = True
    loaded.reset(size)
    expected = [loaded.act(seen, first=opens) for seen, opens in zip(observation, first, strict=True)]

    np.savez(tmp_path / "seen.npz", observation=observation, first=first)
    env = {"PATH": "/usr/bin", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)}
    # -I: neither PYTHONPATH nor this folder; an installed podrl is hidden by a finder that refuses it.
    (tmp_path / "player.py").write_text(HIDE + BEFORE + SHOWN + AFTER)
    ended = subprocess.run(
        [sys.executable, "-I", "player.py"],
        **{"env": env, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": LIMIT_S},
    )
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_allclose(np.load(tmp_path / "actions.npy"), np.stack(expected), rtol=1e-5, atol=1e-6)
    assert policy == "greedy" or len(np.unique(np.stack(expected))) > 1


def test_it_refuses_settings_of_jax_with_which_the_agent_would_compute_something_else(run, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    with pytest.raises(podrl.ConfigError, match="The environment has JAX_DISABLE_JIT=1"):
        podrl.export_policy(run, tmp_path / "policy.stablehlo")


def test_the_file_says_what_it_is_and_is_written_once(run, tmp_path, capsys):
    file = tmp_path / "policy.stablehlo"
    assert inspect_checkpoint.main(["inspect_checkpoint.py", "--workdir", str(run), "--export", str(file)]) == 0
    assert "Wrote the greedy policy of checkpoint 4" in capsys.readouterr().out
    with zipfile.ZipFile(file) as archive:
        facts = json.loads(archive.read("policy.json"))
        assert sorted(archive.namelist()) == ["act", "policy.json", "start"]
    assert facts["format"] == 1
    assert facts["platforms"] == ["cpu", "cuda", "tpu"]
    assert facts["num_envs"] is None
    assert facts["podrl"]
    assert facts["update"] == 4
    assert facts["observation"]["dtype"] == "float32"
    with pytest.raises(podrl.ConfigError, match="is there already"):
        podrl.export_policy(run, file)
    with pytest.raises(podrl.ConfigError, match=r"expected .npz, .safetensors or .stablehlo"):
        podrl.export_policy(run, tmp_path / "policy.onnx")
