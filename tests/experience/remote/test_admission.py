"""What learner and worker compare before a worker is admitted, and how each says what differs."""

import dataclasses
import os

import pytest

from podrl.experience.remote import roles
from podrl.experience.remote.admission import RefusedError, admit, apply
from podrl.experience.remote.messages import Head, Kind, pack_fields, read_fields
from podrl.experience.remote.roles import ACTORS, ENVIRONMENTS
from podrl.runtime.xla_flags import convolve_on_all_cores
from tests.experience.remote.places import SECRET
from tests.short_runs import make_config


def introduce(role, theirs):
    """Both sides up to the point where each knows of the other, whose facts are changed to `theirs`."""
    config = make_config()
    learner = admit(SECRET, dataclasses.asdict(config if role is ACTORS else config.env), role)
    worker = apply(SECRET, role)
    next(worker)
    welcome = read_fields(learner.send(worker.send(next(learner))))
    ready = read_fields(worker.send(pack_fields(Head(Kind.WELCOME), **{**welcome, **theirs})))
    return (learner, ready | theirs, Kind.READY), (worker, {"index": 0}, Kind.ADMITTED)


@pytest.mark.parametrize(
    ("software", "said"),
    [
        ({"jax": "0.1"}, r"has jax 0\.1, and this side \d.*; install the same JAX on both"),
        ({"jaxlib": "0.1"}, r"has jaxlib 0\.1, and this side \d.*; install the same JAX on both"),
        ({"XLA_FLAGS": "--xla_x=1"}, r"has XLA_FLAGS --xla_x=1, and this side .*; set it to the same on both"),
        ({"JAX_ENABLE_X64": "1"}, r"has JAX_ENABLE_X64 1, and this side nothing; set it to the same on both"),
        ({"JAX_DEFAULT_MATMUL_PRECISION": "high"}, r"has JAX_DEFAULT_MATMUL_PRECISION high, and this side nothing"),
        (None, r"has jax None, and this side"),
    ],
)
def test_another_jax_is_named_by_both_sides_of_an_actor_worker(software, said):
    theirs = {"software": software and ACTORS.software() | software}
    for dialogue, fields, kind in introduce(ACTORS, theirs):
        with pytest.raises(RefusedError, match=said):
            dialogue.send(pack_fields(Head(kind), **fields))


@pytest.mark.parametrize("role", [ACTORS, ENVIRONMENTS])
def test_who_fits_is_admitted(role):
    (learner, ready, kind), _ = introduce(role, {})
    with pytest.raises(StopIteration):
        learner.send(pack_fields(Head(kind), **ready))


def test_an_environment_worker_may_have_another_jax():
    """It computes nothing that is learned from."""
    (learner, ready, kind), _ = introduce(ENVIRONMENTS, {"software": {"jax": "0.1"}})
    with pytest.raises(StopIteration):
        learner.send(pack_fields(Head(kind), **ready))


def test_flags_that_podrl_adds_and_those_of_accelerators_may_differ(monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags: avx2")
    monkeypatch.setenv("XLA_FLAGS", "--xla_b=2 --xla_a=1")
    plain = ACTORS.software()
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_gpu_deterministic_ops=true --xla_b=2 --xla_dump_to=/x")
    convolve_on_all_cores(os.environ, cpuinfo, "0.10.2")
    assert "--xla_cpu_" in os.environ["XLA_FLAGS"]
    assert ACTORS.software() == plain
    monkeypatch.setenv("XLA_FLAGS", "--xla_b=2")
    assert ACTORS.software() != plain


def test_an_agent_that_cannot_be_imported_is_one_line(monkeypatch):
    def find_config_type(section):
        raise ImportError("No module named 'lacking'")

    learner, worker = admit(SECRET, dataclasses.asdict(make_config()), ACTORS), apply(SECRET, ACTORS)
    next(worker)
    welcome = learner.send(worker.send(next(learner)))
    monkeypatch.setattr(roles, "find_config_type", find_config_type)
    with pytest.raises(RefusedError, match="does not read the learner's config: No module named 'lacking'"):
        worker.send(welcome)
