"""What a run from a data set is charged for and holds: its rows, its samples, and nothing of actors."""

import dataclasses
import gc
import weakref

import jax
import numpy as np
import pytest

from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.data.reader import HostSampler
from podrl.learning import feed, memory_check
from podrl.learning.recorded import given_shapes
from tests.offline_runs import offline_config, write_pendulum


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pendulum(tmp_path_factory.mktemp("data") / "set")


def needs(monkeypatch, data, **settings):
    """Bytes of each part, by what a refusal says of a machine with nearly none."""
    found = {}
    with monkeypatch.context() as patch:
        patch.setattr(memory_check, "_check", lambda config, devices, needs: found.update(needs))
        assemble(offline_config(data, **settings))
    return found


def test_samples_are_charged_where_they_are_made(monkeypatch, data):
    ahead, alone, both = (
        needs(monkeypatch, data, **settings)["samples"]
        for settings in (
            {"data__memory": "host", "data__prefetch": 3},
            {"data__memory": "device", "data__prefetch": 3},
            {"data__memory": "device", "data__rebalance": "decouple"},
        )
    )
    assert (ahead, both) == (5 * alone, 2 * alone)


def test_rows_are_charged_on_devices_and_actors_never(monkeypatch, data):
    there = [needs(monkeypatch, data, data__memory=memory, actors__num_envs=10**6) for memory in ("device", "host")]
    rows = 40 + sum(5 + number % 7 for number in range(40))
    row_bytes = 3 * 4 + 4 + 4 + 4 + 4
    assert [each["data set"] for each in there] == [rows * row_bytes, 0]
    assert all("actors" not in name for each in there for name in each)


@pytest.mark.parametrize("memory", ["host", "device"])
def test_rows_beyond_the_memory_of_the_host_are_refused(monkeypatch, data, memory):
    monkeypatch.setattr(memory_check, "_check", lambda *arguments: None)
    monkeypatch.setattr(memory_check, "host_memory_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match=r"data\.path has .* of rows to hold, and this machine has 1,000 B"):
        assemble(offline_config(data, data__memory=memory))


def test_rows_on_devices_leave_the_memory_of_the_host(monkeypatch, data):
    made = []

    def make(*arguments):
        sampler = HostSampler(*arguments)
        made.append(weakref.ref(sampler))
        return sampler

    monkeypatch.setattr(feed, "HostSampler", make)
    parts = assemble(offline_config(data, data__memory="device"), jax.devices()[:1])
    opened = feed.open_feed(parts.config, parts.recorded, parts.layout, parts.topology, update=0)
    assert made[0]() is not None
    opened.start(first=0, last=6)
    gc.collect()
    assert made[0]() is None


def test_a_set_of_more_rows_than_32_bits_count_is_traced(data):
    parts = assemble(offline_config(data, data__memory="host"), jax.devices()[:1])
    facts = dataclasses.replace(parts.recorded.data.facts, length=np.full(40, 2**30))
    many = dataclasses.replace(parts.recorded, data=dataclasses.replace(parts.recorded.data, facts=facts))
    mesh = parts.topology.learner
    assert given_shapes(many, mesh) == given_shapes(parts.recorded, mesh)
