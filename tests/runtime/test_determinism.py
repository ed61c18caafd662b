"""What XLA needs for the same bits on every run."""

import os

import pytest

from podrl.config.config import ConfigError
from podrl.runtime.machine import available_cores, busy_core_seconds, jax_plugins
from podrl.runtime.xla_flags import (
    GPU_FLAG,
    convolve_on_all_cores,
    give_xla_two_threads,
    has_ynnpack_convolutions,
    require_determinism,
    suit_xla_to_cpu,
)
from tests.processes import ROOT, launch, read_rows

CUDA = ["xla_cuda13"]
NO_YNNPACK = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"


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


def install(folder, *files):
    for name, text in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


ENTRY_POINT = (
    ("podrl_test-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: podrl-test\nVersion: 1\n"),
    ("podrl_test-1.dist-info/entry_points.txt", "[jax_plugins]\nxla_cuda_a = anywhere\n[console_scripts]\nb = c:d\n"),
)
NAMESPACE = (("jax_plugins/xla_cuda_b/__init__.py", "raise RuntimeError('JAX alone imports it')"),)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (ENTRY_POINT, {"xla_cuda_a"}),
        (NAMESPACE, {"xla_cuda_b"}),
        (ENTRY_POINT + NAMESPACE, {"xla_cuda_a", "xla_cuda_b"}),
    ],
    ids=["entry point", "namespace", "both"],
)
def test_plugins_are_found_however_they_are_installed(tmp_path, monkeypatch, files, names):
    before = set(jax_plugins())
    install(tmp_path, *files)
    monkeypatch.syspath_prepend(tmp_path)
    assert set(jax_plugins()) - before == names


@pytest.mark.parametrize(
    ("cores", "environ", "expected"), [(1, {}, "2"), (1, {"NPROC": ""}, "2"), (1, {"NPROC": "1"}, "1"), (2, {}, None)]
)
def test_xla_has_no_fewer_than_two_threads(cores, environ, expected):
    give_xla_two_threads(environ, cores)
    assert environ.get("NPROC") == expected


@pytest.mark.parametrize("jaxlib", ["0.10.2", "0.12.0.1"])
@pytest.mark.parametrize(
    ("features", "flags", "expected"),
    [
        ("sse4_2 avx2 bmi2", None, NO_YNNPACK),
        ("sse4_2 avx2 bmi2", "--xla_x=1", f"--xla_x=1 {NO_YNNPACK}"),
        ("sse4_2 avx2 bmi2", "--xla_cpu_experimental_ynn_fusion_type=", "--xla_cpu_experimental_ynn_fusion_type="),
        ("sse4_2 avx2 bmi2", "flags.txt", "flags.txt"),  # XLA reads them there.
        ("asimd sve", None, None),
        (None, None, None),
    ],
)
def test_convolutions_take_the_path_that_suits_the_processor(tmp_path, jaxlib, features, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    if features:
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {features}\n\n")
    environ = {} if flags is None else {"XLA_FLAGS": flags}
    for _ in range(2):  # A process that another one started has its flags.
        convolve_on_all_cores(environ, cpuinfo, jaxlib=jaxlib)
        assert environ.get("XLA_FLAGS") == expected


@pytest.mark.parametrize(("jaxlib", "expected"), [("0.10.2", None), ("0.11.0", None), ("0.12.0.1", NO_YNNPACK)])
def test_with_avx_512_the_path_is_that_of_the_version(tmp_path, jaxlib, expected):
    """XLA of a version that was not measured may not know the flag, and is left alone."""
    (tmp_path / "cpuinfo").write_text("flags\t\t: avx2 avx512f avx512bw\n")
    environ = {}
    convolve_on_all_cores(environ, tmp_path / "cpuinfo", jaxlib=jaxlib)
    assert environ.get("XLA_FLAGS") == expected


def test_only_a_cpu_is_told_how_to_convolve(monkeypatch):
    told = []
    monkeypatch.setattr("podrl.runtime.xla_flags.convolve_on_all_cores", told.append)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for environ, plugins in (({"JAX_PLATFORMS": "cuda"}, []), ({}, CUDA), ({"JAX_PLATFORMS": "tpu,cpu"}, [])):
        suit_xla_to_cpu(environ, plugins)
    assert not told
    for environ, plugins in (({"JAX_PLATFORMS": "cpu"}, CUDA), ({}, []), ({}, None)):
        suit_xla_to_cpu(environ, plugins)
    assert len(told) == 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", False),
        ("-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION", False),
        ("-LIBRARY_FUSION_TYPE_REDUCE", True),
        ("+LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION", True),
        ("LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT", False),
        ("LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION", True),
    ],
)
def test_which_flags_leave_convolutions_to_ynnpack(value, expected):
    flags = f"--xla_x=1 --xla_cpu_experimental_ynn_fusion_type={value}"
    assert has_ynnpack_convolutions({"XLA_FLAGS": flags}) == expected
    assert has_ynnpack_convolutions({"XLA_FLAGS": "--xla_x=1"})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or available_cores() < 2, reason="needs two cores to choose")
def test_a_process_that_is_bound_to_one_core_does_the_same_bit_for_bit(tmp_path):
    config = (
        "--config",
        ROOT / "configs/impala_catch.py",
        "--config.total_env_steps=6400",
        "--config.log.every_updates=1",
    )
    allowed = os.sched_getaffinity(0)
    fingerprints = []
    try:
        for count in (1, 2):
            os.sched_setaffinity(0, sorted(allowed)[:count])
            result = launch(*config, "--workdir", f"run{count}", cwd=tmp_path)
            assert result.returncode == 0, result.stderr
            fingerprints.append([row["fingerprint"] for row in read_rows(tmp_path / f"run{count}")])
    finally:
        os.sched_setaffinity(0, allowed)
    assert len(fingerprints[0]) == 10
    assert fingerprints[0] == fingerprints[1]


def test_busy_time_is_that_of_the_cores_of_this_process(tmp_path, monkeypatch):
    """User, nice, system, idle, waiting for disks, interrupts hard and soft, steal, and two that are counted before."""
    stat, tick = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    cores = "".join(f"cpu{core} {busy} {tick} 0 77 88 0 {tick} {tick} 9 10\n" for core, busy in enumerate((tick, 0, 0)))
    stat.write_text(f"cpu 1 2 3 4 5 6 7 8 9 10\n{cores}intr 5\n")
    monkeypatch.setattr("podrl.runtime.machine.os.sched_getaffinity", lambda _: {0, 2}, raising=False)
    assert busy_core_seconds(stat) == 4 + 3
    monkeypatch.setattr("podrl.runtime.machine.os.sched_getaffinity", lambda _: {1}, raising=False)
    assert busy_core_seconds(stat) == 3
    assert busy_core_seconds(tmp_path / "elsewhere") == 0
