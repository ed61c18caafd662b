"""Configs that users have are bit for bit the same with environment workers, however long these and the wire take."""

import contextlib
import dataclasses
import random

import pytest

from podrl.assembly import resolve
from podrl.config.commandline import parse_command_line
from podrl.experience.remote.endpoint import Endpoint
from tests.experience.remote.in_process import env_workers
from tests.experience.remote.wire import Wire
from tests.processes import ROOT
from tests.short_runs import facts, run, shared_programs

FRAME_BYTES, MORE_BYTES = 84 * 84, 16  # Of one environment's step, from a worker to the learner.
OTHER_BYTES = 16_384  # Of two workers: their admission, the ends of pools, and pings.


def smoke(name, *settings):
    """The smoke form of a config."""
    flags = [f"--config.{setting}" for setting in settings]
    return resolve(parse_command_line(["program", "--config", f"{ROOT}/configs/{name}.py", "--smoke", *flags]).config)


def run_alone_and_with_workers(tmp_path, monkeypatch, name, *settings, **env):
    """The rows of the run with workers, and the bytes that these have sent; `env` changes fields of their `env`."""
    target = f"unix:{tmp_path}/s"
    wire = Wire(Endpoint(target), delay_s=lambda: random.choice((0, 0, 0.01)))
    theirs = smoke(name, *settings, "remote.env_workers=2", f"remote.address={target}")
    theirs = dataclasses.replace(theirs, env=dataclasses.replace(theirs.env, **env))
    with shared_programs(), contextlib.closing(wire):
        _, expected = run(smoke(name, *settings))
        with env_workers(tmp_path, monkeypatch, endpoint=wire.endpoint) as said:
            _, found = run(theirs)
    assert not said
    assert len(expected) > 5
    assert facts(found) == facts(expected)
    return found, wire.to_learner


@pytest.mark.slow
def test_states_of_recurrent_networks_stay_with_the_environments_of_workers(tmp_path, monkeypatch):
    pytest.importorskip("gymnax")
    run_alone_and_with_workers(tmp_path, monkeypatch, "seed_r2d2_memory")


@pytest.mark.slow
def test_frames_of_atari_arrive_as_they_are_with_few_bytes_more(tmp_path, monkeypatch):
    """Whatever the wire carries counts, HTTP/2's own bytes included."""
    settings = ("actors.num_envs=32", "network.encoder=nature", "checkpoint.every_updates=3")
    rows, size_bytes = run_alone_and_with_workers(
        tmp_path, monkeypatch, "impala_atari", *settings, source="tests.envs.delayed"
    )
    assert rows[-1]["env_steps"] == 960
    timesteps = 960 + 2 * 32  # All environments were opened twice: at the start, and after the boundary.
    assert timesteps * FRAME_BYTES < size_bytes < timesteps * (FRAME_BYTES + MORE_BYTES) + OTHER_BYTES
