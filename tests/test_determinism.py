"""The flags that XLA needs for the same bits on every run."""

import pytest

from podrl.config import ConfigError
from podrl.determinism import GPU_FLAG, require_determinism

CUDA = ["xla_cuda13"]


def flags_after(plugins=CUDA, **environ):
    require_determinism(environ, plugins)
    return environ.get("XLA_FLAGS")


def test_the_flag_is_appended_to_those_of_the_user():
    assert flags_after() == f"{GPU_FLAG}=true"
    assert flags_after(XLA_FLAGS="--xla_dump_to=x") == f"--xla_dump_to=x {GPU_FLAG}=true"


@pytest.mark.parametrize("given", [f"{GPU_FLAG}=true", GPU_FLAG, f"{GPU_FLAG}=1 --xla_dump_to=x"])
def test_a_flag_that_is_there_stays_as_it_is(given):
    assert flags_after(XLA_FLAGS=given) == given


def test_flags_that_say_the_opposite_are_a_mistake():
    with pytest.raises(ConfigError, match=r"XLA_FLAGS has --xla_gpu_deterministic_ops=false, .*determinism='free'"):
        flags_after(XLA_FLAGS=f"{GPU_FLAG}=true {GPU_FLAG}=false")


@pytest.mark.parametrize(
    ("plugins", "platforms", "expected"),
    [
        ([], "", False),
        (["libtpu"], "", False),
        (CUDA, "cpu", False),
        (CUDA, "cuda,cpu", True),
        (["rocm7"], "", True),
    ],
)
def test_only_where_there_may_be_a_gpu(plugins, platforms, expected):
    assert (flags_after(plugins, JAX_PLATFORMS=platforms) is not None) == expected
