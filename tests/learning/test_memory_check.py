"""What memory cannot hold is answered with bytes and keys before anything is allocated."""

import re

import pytest

from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.learning import memory_check
from tests.short_runs import make_config


@pytest.mark.parametrize(
    ("values", "shown", "part"),
    [
        ({"actors__num_envs": 2_000_000}, "actors.num_envs=2000000", "experience"),
        ({"actors__unroll_length": 1_000_000}, "actors.unroll_length=1000000", "experience"),
        (
            {"actors__num_envs": 3200, "actors__lag": 900, "total_env_steps": 10**8},
            "actors.unroll_length=4, actors.lag=900,",
            "experience",
        ),
        ({"network__frame_stack": 10_000_000}, "network.frame_stack=10000000", "stacks of frames"),
        ({"network__hidden_sizes": (2**31,)}, "network.hidden_sizes=(2147483648,)", "activations"),
        ({"network__core": "lstm", "network__core_size": 2**20}, "core", "parameters, gradients and optimizer"),
    ],
)
def test_sizes_beyond_memory_are_refused_with_bytes_and_keys(monkeypatch, values, shown, part):
    monkeypatch.setattr(memory_check, "host_memory_bytes", lambda: 2**30)
    with pytest.raises(ConfigError) as error:
        assemble(make_config(actors__pools_per_thread=1, **{"actors__num_envs": 32} | values))
    said = str(error.value)
    assert said.startswith("This config needs ")
    assert "iB of memory at least, and this machine has 1.00 GiB (" in said
    assert f"{part} " in said
    assert shown in said
    assert "\n" not in said


def test_a_ring_beyond_memory_is_refused_with_its_capacity(monkeypatch):
    monkeypatch.setattr(memory_check, "host_memory_bytes", lambda: 2**30)
    sizes = {"actors__num_envs": 32, "replay__groups": 8, "replay__capacity": 10**8, "replay__ratio": 40.0}
    sizes |= {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}
    with pytest.raises(ConfigError, match=r"replay \d.* Lower replay.capacity=100000000, actors.num_envs=32"):
        assemble(make_config(agent="r2d2", **sizes))


def test_more_frames_than_a_compiler_takes_are_refused():
    with pytest.raises(ConfigError, match=r"network\.frame_stack=2000 is more than 1024 frames"):
        assemble(make_config(network__frame_stack=2000, actors__num_envs=32))


def test_a_run_of_fewer_updates_than_its_lag_needs_no_more_rollouts_than_updates(monkeypatch):
    monkeypatch.setattr(memory_check, "host_memory_bytes", lambda: 2**30)
    assemble(make_config(actors__num_envs=3200, actors__lag=900, total_env_steps=3 * 3200 * 4))


def test_actors_that_serve_what_is_ready_have_room_for_two_unrolls_of_each_environment(monkeypatch):
    """Without a lag the learner has one batch, and the actors have two."""
    settings = {"actors__num_envs": 3200, "actors__unroll_length": 1000, "actors__max_lag": 0, "determinism": "free"}
    settings |= {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}

    def needed(**further):
        monkeypatch.setattr(memory_check, "host_memory_bytes", lambda: 2**20)
        with pytest.raises(ConfigError) as error:
            assemble(make_config(**settings, **further))
        return dict(re.findall(r"(experience|unrolls of actors) ([\d.,]+ \w+)", str(error.value)))

    without, served = needed(), needed(remote__env_workers=1, remote__timeout_s=10.0)
    assert without.keys() == {"experience"}
    assert served["experience"] == without["experience"] == "711.77 MiB"
    assert served["unrolls of actors"] == "1.39 GiB"


def test_what_fits_is_assembled():
    assert assemble(make_config(actors__num_envs=32)).state_shape is not None


def test_a_control_group_bounds_the_memory(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    whole = memory_check.host_memory_bytes(tmp_path)
    assert whole > 2**28
    (tmp_path / "memory.max").write_text("1048576\n")
    assert memory_check.host_memory_bytes(tmp_path) == 2**20
