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
SHOWN, UNITS = re.findall(
    r"```python\n([^`]*export\.deserialize[^`]*|[^`]*def in_units[^`]*)```", (ROOT / "docs/python.md").read_text()
)
BEFORE = """
import importlib.util
import os

import numpy as np

assert importlib.util.find_spec("podrl") is None
data = np.load("seen.npz")


def observed(step):
    parts = {name.removeprefix("observation/"): data[name][step] for name in data if name != "first"}
    return parts.get("", parts)


observation, first, reward = observed(0), data["first"][0], np.zeros(8, np.float32)
"""
AFTER = """
actions = []
for step in range(len(data["first"])):
    if step:
        action, carry = act.call(observed(step), reward, data["first"][step], carry)
    moved = in_units(np.asarray(action), spec["action"])
    actions.append(moved if isinstance(moved, dict) else {(): moved})
np.savez("actions.npz", **{"/".join(("action", *path)): np.stack([a[path] for a in actions]) for path in actions[0]})
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
    "parts": {
        **{"env__source": "gymnasium", "env__id": "tests.envs.sides:Limited", "network__encoder": "minatar"},
        **{"network__hidden_sizes": (8,), "env__options": {"start": 5, "middle": 4.0, "reach": 2.0}},
    },
    "continuous": {"env__source": "gymnasium", "env__id": "Pendulum-v1", "network__frame_stack": 2},
}


@pytest.fixture(scope="module", params=["lstm", "parts", pytest.param("continuous", marks=pytest.mark.slow)])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder / "run", **RUNS[request.param])
    return folder / "run"


def draw(env_id, rng, shape):
    """Observations [T, B] as the environment gives them, and as the policy's file takes them."""
    if "sides" not in env_id:
        seen = rng.normal(size=(*shape, *gymnasium.make(env_id).observation_space.shape)).astype(np.float32)
        return list(seen), {"": seen}
    image, switch = rng.integers(256, size=(*shape, 12, 12, 1)).astype(np.uint8), rng.integers(2, size=shape)
    mask = rng.random((*shape, 3)) < 0.6
    mask[1:3] = False  # As where an episode has ended.
    raw = [
        {"image": pixels, "switch": on, "action_mask": allowed.astype(np.int8)}
        for pixels, on, allowed in zip(image, switch, mask, strict=True)
    ]
    return raw, {"image": image, "vector": np.eye(2, dtype=np.float32)[switch], "action_mask": mask}


def arrays_of(actions):
    """Arrays [T, B, ...] of actions of T steps, by name."""
    steps = [action if isinstance(action, dict) else {"": action} for action in actions]
    return {f"action/{name}".rstrip("/"): np.stack([step[name] for step in steps]) for name in steps[0]}


@pytest.mark.parametrize("policy", [pytest.param("greedy", marks=pytest.mark.slow), "sampled"])
def test_a_process_without_podrl_acts_alike(run, tmp_path, policy):
    file = tmp_path / "policy.stablehlo"
    facts = podrl.export_policy(run, file, policy=policy)
    loaded = podrl.load_policy(run, policy=policy)
    size, steps = 8, 6
    rng = np.random.default_rng(5)
    raw, seen = draw(facts["env"]["id"], rng, (steps, size))
    first = rng.random((steps, size)) < 0.3
    first[0] = True
    loaded.reset(size)
    expected = arrays_of([loaded.act(each, first=opens) for each, opens in zip(raw, first, strict=True)])

    np.savez(tmp_path / "seen.npz", first=first, **{f"observation/{name}": part for name, part in seen.items()})
    env = {"PATH": "/usr/bin", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)}
    # -I: neither PYTHONPATH nor this folder; an installed podrl is hidden by a finder that refuses it.
    (tmp_path / "player.py").write_text(HIDE + BEFORE + SHOWN + UNITS + AFTER)
    ended = subprocess.run(
        [sys.executable, "-I", "player.py"],
        **{"env": env, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": LIMIT_S},
    )
    assert ended.returncode == 0, ended.stderr
    played = np.load(tmp_path / "actions.npz")
    assert sorted(played) == sorted(expected)
    for name, action in expected.items():
        np.testing.assert_allclose(played[name], action, rtol=1e-5, atol=1e-6)
        assert policy == "greedy" or len(np.unique(action)) > 1
    if "action_mask" in seen:
        mask, side = seen["action_mask"], expected["action/side"] - 5
        assert np.take_along_axis(mask, side[..., None], -1)[mask.any(-1)].all()
        assert 2 <= expected["action/aim"].min() < expected["action/aim"].max() <= 6


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
    assert (facts["observation"].get("vector") or facts["observation"])["dtype"] == "float32"
    with pytest.raises(podrl.ConfigError, match="is there already"):
        podrl.export_policy(run, file)
    with pytest.raises(podrl.ConfigError, match=r"expected .npz, .safetensors or .stablehlo"):
        podrl.export_policy(run, tmp_path / "policy.onnx")
