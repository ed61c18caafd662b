"""Slices by name: `v5e:16x16` is 256 chips in a 16 x 16 torus, `h100:4x8` is 4 hosts of 8 GPUs.

The devices of a TPU slice that is not there come from libtpu, which compiles for them on any machine.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import importlib.util
import math
import os
from typing import Any

import jax

from podrl.config.config import ConfigError, check, did_you_mean
from podrl.config.extras import install_command
from podrl.performance.planning.chips import CHIPS, Chip, HostSpec

# What libtpu would look up in the metadata of a TPU machine; none of it reaches a compiled program. The first keeps it
# from a lock that two processes with the same chips would fight for: there are none.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
    """Chips that one job would have."""

    name: str  # as given: `v5e:16x16`
    chip: Chip
    shape: tuple[int, ...]  # chips along each axis of a TPU's torus; (hosts, chips of each) of GPUs
    host: HostSpec  # what each of its machines is

    @property
    def chips(self) -> int:
        """Chips in all."""
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        """Machines, each one process of the job."""
        return max(1, self.chips // self.host.chips)

    @property
    def chips_per_host(self) -> int:
        """Chips of each process."""
        return self.chips // self.hosts


def parse_slice(name: str) -> Slice:
    """Finds a slice by its name."""
    chip_name, _, shape_text = name.partition(":")
    known = f"{did_you_mean(chip_name, CHIPS)} The table has {', '.join(CHIPS)}."
    check(chip_name in CHIPS, f"--topology: there is no chip {chip_name!r}{known}")
    chip = CHIPS[chip_name]
    shape = parse_shape(shape_text)
    example = "v5e:2x4" if chip.platform == "tpu" else "h100:2x8 for 2 hosts of 8"
    check(bool(shape), f"--topology {name!r} must be a chip and a shape, such as {example}.")
    if chip.platform == "gpu":
        return _gpus(name, chip, shape)
    rank = 2 if chip.name in ("v5e", "v6e") else 3
    check(len(shape) == rank, f"--topology {name!r}: slices of {chip.name} have {rank} axes; found {len(shape)}.")
    return _tpus(name, chip, shape)


def parse_shape(text: str) -> tuple[int, ...]:
    """Positive whole numbers written as `2x4`; none of anything else."""
    axes = text.split("x")
    fits = all(axis.isdecimal() and axis.isascii() and int(axis) > 0 for axis in axes)
    return tuple(map(int, axes)) if fits else ()


def _gpus(name: str, chip: Chip, shape: tuple[int, ...]) -> Slice:
    check(len(shape) <= 2, f"--topology {name!r} must be the number of GPUs, or hosts x GPUs of each.")
    (hosts, gpus), full = shape if len(shape) == 2 else (1, shape[0]), chip.hosts[-1]
    use = f"Use {name.split(':')[0]}:HOSTSx{full.chips}."
    check(gpus <= full.chips, f"--topology {name!r}: a host has at most {full.chips} of them. {use}")
    share = gpus / full.chips
    network = full.network_bytes_per_s * share
    host = dataclasses.replace(full, chips=gpus, vcpus=int(full.vcpus * share), network_bytes_per_s=network)
    return Slice(name=name, chip=chip, shape=(hosts, gpus), host=host)


def _tpus(name: str, chip: Chip, shape: tuple[int, ...]) -> Slice:
    chips = math.prod(shape)
    check(
        chips <= (chip.largest_slice or chips),
        f"--topology {name!r} has {chips:,} chips; the largest slice of {chip.name} has {chip.largest_slice:,}.",
    )
    host = next((host for host in chip.hosts if host.chips == chips), chip.hosts[-1])
    check(
        chips % host.chips == 0 and (chips == host.chips or all(axis % 2 == 0 for axis in shape[:2])),
        f"--topology {name!r} does not divide into hosts of {host.chips} chips, 2 x 2. Use even axes.",
    )
    return Slice(name=name, chip=chip, shape=shape, host=host)


@contextlib.contextmanager
def _as_on_a_tpu_machine() -> Iterator[None]:
    """Sets what libtpu reads when it is loaded, and takes it back: podrl itself would believe it too."""
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name in _ENVIRONMENT:
            del os.environ[name]
        os.environ.update({name: before[name] for name in _ENVIRONMENT if name in before})


def check_libtpu(slice_: Slice) -> None:
    """Raises ConfigError if a slice is of TPUs and nothing is here that compiles for it."""
    check(
        slice_.chip.platform != "tpu" or importlib.util.find_spec("libtpu") is not None,
        f"--topology {slice_.name!r} needs libtpu, which compiles for it. Install it: {install_command('plan')}.",
    )


def tpu_devices(tpus: Slice) -> Sequence[jax.Device]:
    """The devices of a TPU slice, one for each chip, which programs can be compiled for and not run on."""
    check_libtpu(tpus)
    from jax.experimental import topologies

    bounds = (*tpus.shape, 1) if len(tpus.shape) == 2 else tpus.shape
    options: dict[str, Any] = {"chips_per_host_bounds": bounds} if tpus.hosts == 1 else {}
    try:
        with _as_on_a_tpu_machine():
            found = topologies.get_topology_desc(platform="tpu", topology_name=tpus.name, **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--topology {tpus.name!r}: libtpu does not know this slice: {reason}") from None
    # libtpu describes a v4 chip as its two cores; a program for one core stands for one of the chip that they share.
    per_chip = len(found.devices) // tpus.chips
    return found.devices[::per_chip] if per_chip > 1 else found.devices
