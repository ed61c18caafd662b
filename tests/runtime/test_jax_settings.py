"""Settings of JAX's own that would change what an agent computes are refused by all that run one."""

import importlib

import jax
import pytest

from podrl.config.config import ConfigError
from podrl.runtime.jax_settings import HARMLESS, check_jax_settings
from tests.processes import ROOT

CONFIG = ("--config", str(ROOT / "configs/impala_catch.py"), "--smoke")
TOOLS = {
    "tpu_launch": CONFIG,
    "evaluate": ("--workdir", "run"),
    "benchmark": CONFIG,
    "simulate": CONFIG,
    "plan": (*CONFIG[:2], "--topology", "this"),
}
REFUSED = {
    "JAX_ENABLE_X64": ("1", "true", "True"),
    "JAX_NUMPY_DTYPE_PROMOTION": ("strict",),
    "JAX_NUMPY_RANK_PROMOTION": ("raise",),
    "JAX_DISABLE_JIT": ("1", "yes"),
    "JAX_DEBUG_NANS": ("1",),
    "JAX_DEFAULT_PRNG_IMPL": ("rbg",),
    "JAX_THREEFRY_PARTITIONABLE": ("0",),
    "JAX_TRANSFER_GUARD": ("disallow",),
    "JAX_RANDOM_SEED_OFFSET": ("1", "-1"),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": ("1", "True"),
    "JAX_OPTIMIZATION_LEVEL": ("O0", "O3"),
    "JAX_SOFTMAX_CUSTOM_JVP": ("1",),
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": ("1",),
    "JAX_USE_DIRECT_LINEARIZE": ("0",),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_what_would_change_the_numbers_is_refused(name, value):
    with pytest.raises(ConfigError) as error:
        check_jax_settings({name: value}, [])
    assert str(error.value).startswith(f"The environment has {name}={value}, with which JAX computes something else")
    assert f"`unset {name}`" in str(error.value)


@pytest.mark.parametrize(
    "setting",
    [
        *("JAX_ENABLE_X64=0", "JAX_ENABLE_X64=", "JAX_NUMPY_DTYPE_PROMOTION=standard", "JAX_DISABLE_JIT=False"),
        *("JAX_NUMPY_RANK_PROMOTION=warn", "JAX_LOG_COMPILES=1", "JAX_NUM_CPU_DEVICES=4", "JAX_PLATFORMS=cpu"),
    ],
)
def test_what_changes_nothing_is_left_alone(setting):
    name, _, value = setting.partition("=")
    check_jax_settings({name: value}, [])


def test_the_values_that_this_version_of_jax_has_by_itself_are_left_alone():
    found = {name.upper(): value for name, value in jax.config.values.items()}
    settings = {
        name: getattr(found[name], "name", str(found[name])) for name in HARMLESS if found.get(name) is not None
    }
    assert len(settings) > 30
    assert settings["JAX_RANDOM_SEED_OFFSET"] == "0"
    check_jax_settings(settings, [])


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_that_runs_an_agent_refuses_it(tool, monkeypatch, capsys):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    assert importlib.import_module(f"tools.{tool}").main([tool, *TOOLS[tool]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: The environment has JAX_ENABLE_X64=1" in line


@pytest.mark.parametrize(
    ("platforms", "what", "install"),
    [
        ("cuda", "NVIDIA GPUs", "'.[cuda]'"),
        ("cuda,cpu", "NVIDIA GPUs", "'.[cuda]'"),
        ("gpu", "GPUs", "'.[cuda]'"),
        ("rocm", "AMD GPUs", "the plugin for ROCm"),
        ("tpu", "TPUs", "'.[tpu]'"),
    ],
)
def test_a_platform_without_its_plugin_says_what_to_install(platforms, what, install, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        check_jax_settings({"JAX_PLATFORMS": platforms}, [])
    assert str(error.value).startswith(
        f"JAX_PLATFORMS={platforms} asks for {what}, but JAX has no plugin for them here."
    )
    assert install in str(error.value)
    plugins = ["xla_cuda13", "xla_rocm7", "libtpu"]
    check_jax_settings({"JAX_PLATFORMS": platforms}, plugins)
