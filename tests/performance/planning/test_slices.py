"""Slices by name, and the chips they are made of."""

from collections import Counter

import pytest

from podrl.config.config import ConfigError, TopologyConfig
from podrl.mesh import make_topology
from podrl.performance.planning.chips import CHIPS
from podrl.performance.planning.slices import parse_slice, tpu_devices


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "vcpus"),
    [
        ("v5e:1x1", 1, 1, 24),
        ("v5e:2x4", 8, 1, 224),
        ("v5e:16x16", 256, 64, 112),
        ("v5p:4x4x4", 64, 16, 208),
        ("v4:2x2x1", 4, 1, 240),
        ("v6e:16x16", 256, 64, 180),
        ("h100:8", 8, 1, 208),
        ("h200:4x8", 32, 4, 224),
        ("a100:2", 2, 1, 24),
    ],
)
def test_chips_and_hosts_follow_from_the_name(name, chips, hosts, vcpus):
    found = parse_slice(name)
    assert (found.chips, found.hosts, found.host.vcpus) == (chips, hosts, vcpus)
    assert found.chips_per_host * hosts == chips


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("v5ee:2x4", "did you mean 'v5e'"),
        ("v5e", "a chip and a shape"),
        ("v5e:2xfour", "a chip and a shape"),
        ("v5e:4x4x4", "have 2 axes; found 3"),
        ("v5p:4x4", "have 3 axes; found 2"),
        ("v5e:32x32", "the largest slice of v5e has 256"),
        ("v5e:3x4", "does not divide into hosts"),
        ("h100:2x16", "at most 8"),
        ("h100:1x2x3", "hosts x GPUs"),
    ],
)
def test_a_name_that_cannot_be_is_one_clear_line(name, complaint):
    with pytest.raises(ConfigError, match=complaint) as error:
        parse_slice(name)
    assert "\n" not in str(error.value)


def test_every_chip_says_where_its_figures_come_from():
    for chip in CHIPS.values():
        assert "docs" in chip.source or "data sheet" in chip.source
        assert f"{chip.flops / 1e12:g}" in chip.source
        assert f"{chip.memory_bytes_per_s / 1e9:,g}" in chip.source
        assert all(str(host.vcpus) in chip.source for host in chip.hosts)


@pytest.fixture
def libtpu():
    pytest.importorskip("libtpu")


@pytest.mark.usefixtures("libtpu")
class TestDevices:
    @pytest.mark.parametrize("name", ["v5e:1x1", "v5e:2x4", "v5e:16x16", "v5p:4x4x4", "v4:2x2x2", "v6e:8x8"])
    def test_one_for_each_chip_in_processes_of_a_host(self, name):
        expected = parse_slice(name)
        devices = tpu_devices(expected)
        assert len(devices) == expected.chips
        per_process = Counter(device.process_index for device in devices)
        assert set(per_process.values()) == {expected.chips_per_host}

    @pytest.mark.parametrize(
        ("name", "split"),
        [("v5e:2x4", "4 act, 4 learn"), ("v5p:4x4x4", "2 act, 2 learn"), ("v5e:4x8", "all act and learn")],
    )
    def test_on_large_v5e_slices_every_device_learns(self, name, split):
        topology = make_topology(TopologyConfig(), tpu_devices(parse_slice(name)), process_index=0)
        assert topology.describe().endswith(split)

    def test_they_take_no_other_split(self):
        config = TopologyConfig(learner_devices_per_process=2)
        make_topology(config, tpu_devices(parse_slice("v5e:4x4")), process_index=0)
        with pytest.raises(ConfigError, match="learner_devices_per_process=2 leaves devices that do not learn"):
            make_topology(config, tpu_devices(parse_slice("v5e:4x8")), process_index=0)
