"""The one table of what chips and hosts can do, with where each figure comes from.

Rates are peaks that vendors state; what a program reaches of them is `podrl.performance.planning.model`'s business.
FLOP/s are those of matrix products at JAX's default precision: bfloat16 passes on a TPU whatever the arrays' type, TF32
for float32 on a GPU. Rates are in units of 1e9 bytes. Memory is in GiB where vendors write GB: that is what devices
have, as a v5e's compiler does that counts 15.75 GiB for programs.
"""

import dataclasses

from podrl.config.config import ConfigError, did_you_mean

_GB = 1e9
_TERA = 1e12
_GIB = 2**30

_TPU_DOCS = "Google Cloud TPU docs"
_SCALING_BOOK = "jax-ml.github.io/scaling-book"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostSpec:
    """A machine with some chips in it.

    Attributes:
        chips: in it.
        vcpus: hardware threads.
        link_bytes_per_s: between host memory and each chip, one way.
        network_bytes_per_s: of the host's network cards together, one way.
    """

    chips: int
    vcpus: int
    link_bytes_per_s: float
    network_bytes_per_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """An accelerator and the hosts it comes in.

    Attributes:
        name: as in a topology's name.
        title: for people.
        platform: 'tpu' or 'gpu'.
        flops: FLOP/s of bfloat16 matrix products.
        flops_float32: FLOP/s of float32 matrix products at JAX's default precision.
        memory_bytes: of the chip.
        memory_bytes_per_s: of its memory.
        interconnect_bytes_per_s: to its neighbours, over all its links, one way.
        interconnect_spans_hosts: whether that reaches chips of other hosts; else the hosts' network does.
        largest_slice: chips in the largest that one job gets; None where hosts are joined by a network.
        hosts: that it comes in, by number of chips; the last is that of slices of many hosts.
        source: of all of this.
    """

    name: str
    title: str
    platform: str
    flops: float
    flops_float32: float
    memory_bytes: float
    memory_bytes_per_s: float
    interconnect_bytes_per_s: float
    interconnect_spans_hosts: bool
    largest_slice: int | None
    hosts: tuple[HostSpec, ...]
    source: str

    @property
    def slice_host(self) -> HostSpec:
        """The host of slices that have more than one."""
        return self.hosts[-1]


def _tpu_host(chips: int, vcpus: int, link_bytes_per_s: float) -> HostSpec:
    return HostSpec(chips=chips, vcpus=vcpus, link_bytes_per_s=link_bytes_per_s, network_bytes_per_s=25 * _GB)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            title="TPU v4",
            platform="tpu",
            flops=275 * _TERA,
            flops_float32=275 * _TERA,
            memory_bytes=32 * _GIB,
            memory_bytes_per_s=1200 * _GB,
            interconnect_bytes_per_s=6 * 45 * _GB,
            interconnect_spans_hosts=True,
            largest_slice=4096,
            hosts=(_tpu_host(4, 240, 16 * _GB),),
            source=f"{_TPU_DOCS}, v4: 275 TFLOP/s, 32 GiB at 1,200 GB/s, 240 vCPUs a host. {_SCALING_BOOK}, chapter 2: "
            "45 GB/s one way on each of 6 links, PCIe 16 GB/s.",
        ),
        Chip(
            name="v5e",
            title="TPU v5e",
            platform="tpu",
            flops=197 * _TERA,
            flops_float32=197 * _TERA,
            memory_bytes=16 * _GIB,
            memory_bytes_per_s=819 * _GB,
            interconnect_bytes_per_s=200 * _GB,
            interconnect_spans_hosts=True,
            largest_slice=256,
            hosts=(_tpu_host(1, 24, 16 * _GB), _tpu_host(8, 224, 16 * _GB), _tpu_host(4, 112, 16 * _GB)),
            source=f"{_TPU_DOCS}, v5e: 197 TFLOP/s, 16 GB at 819 GB/s, 400 GB/s both ways between chips; 24, 112 and "
            f"224 vCPUs with 1, 4 and 8 chips, 2 x 100 Gb/s a host. {_SCALING_BOOK}, chapter 2: PCIe 16 GB/s.",
        ),
        Chip(
            name="v5p",
            title="TPU v5p",
            platform="tpu",
            flops=459 * _TERA,
            flops_float32=459 * _TERA,
            memory_bytes=95 * _GIB,
            memory_bytes_per_s=2765 * _GB,
            interconnect_bytes_per_s=600 * _GB,
            interconnect_spans_hosts=True,
            largest_slice=6144,
            hosts=(_tpu_host(4, 208, 16 * _GB),),
            source=f"{_TPU_DOCS}, v5p: 459 TFLOP/s, 95 GB at 2,765 GB/s, 1,200 GB/s both ways between chips, 208 vCPUs "
            f"a host. {_SCALING_BOOK}, chapter 2: PCIe 16 GB/s.",
        ),
        Chip(
            name="v6e",
            title="TPU v6e",
            platform="tpu",
            flops=918 * _TERA,
            flops_float32=918 * _TERA,
            memory_bytes=32 * _GIB,
            memory_bytes_per_s=1638 * _GB,
            interconnect_bytes_per_s=400 * _GB,
            interconnect_spans_hosts=True,
            largest_slice=256,
            hosts=(_tpu_host(1, 44, 32 * _GB), _tpu_host(8, 180, 32 * _GB), _tpu_host(4, 180, 32 * _GB)),
            source=f"{_TPU_DOCS}, v6e: 918 TFLOP/s, 32 GB at 1,638 GB/s, 800 GB/s both ways between chips, PCIe 5; 44, "
            f"180 and 180 vCPUs with 1, 4 and 8 chips. {_SCALING_BOOK}, chapter 2: PCIe 32 GB/s.",
        ),
        Chip(
            name="a100",
            title="NVIDIA A100 80GB SXM",
            platform="gpu",
            flops=312 * _TERA,
            flops_float32=156 * _TERA,
            memory_bytes=80 * _GIB,
            memory_bytes_per_s=2039 * _GB,
            interconnect_bytes_per_s=300 * _GB,
            interconnect_spans_hosts=False,
            largest_slice=None,
            hosts=(HostSpec(chips=8, vcpus=96, link_bytes_per_s=25 * _GB, network_bytes_per_s=12.5 * _GB),),
            source="NVIDIA's A100 data sheet (dense): 312 TFLOP/s bfloat16, 156 TF32, 80 GB at 2,039 GB/s, NVLink 600 "
            "GB/s both ways, PCIe 4. Host as Google Cloud's a2-ultragpu-8g: 96 vCPUs, 100 Gb/s.",
        ),
        Chip(
            name="h100",
            title="NVIDIA H100 SXM",
            platform="gpu",
            flops=989 * _TERA,
            flops_float32=495 * _TERA,
            memory_bytes=80 * _GIB,
            memory_bytes_per_s=3350 * _GB,
            interconnect_bytes_per_s=450 * _GB,
            interconnect_spans_hosts=False,
            largest_slice=None,
            hosts=(HostSpec(chips=8, vcpus=208, link_bytes_per_s=50 * _GB, network_bytes_per_s=125 * _GB),),
            source="NVIDIA's H100 data sheet (dense): 989 TFLOP/s bfloat16, 495 TF32, 80 GB at 3,350 GB/s, NVLink 900 "
            "GB/s both ways, PCIe 5. Host as Google Cloud's a3-highgpu-8g: 208 vCPUs, 1,000 Gb/s.",
        ),
        Chip(
            name="h200",
            title="NVIDIA H200 SXM",
            platform="gpu",
            flops=989 * _TERA,
            flops_float32=495 * _TERA,
            memory_bytes=141 * _GIB,
            memory_bytes_per_s=4800 * _GB,
            interconnect_bytes_per_s=450 * _GB,
            interconnect_spans_hosts=False,
            largest_slice=None,
            hosts=(HostSpec(chips=8, vcpus=224, link_bytes_per_s=50 * _GB, network_bytes_per_s=400 * _GB),),
            source="NVIDIA's H200 data sheet (dense): 989 TFLOP/s bfloat16, 495 TF32, 141 GB at 4,800 GB/s, NVLink 900 "
            "GB/s both ways, PCIe 5. Host as Google Cloud's a3-ultragpu-8g: 224 vCPUs, 3,200 Gb/s between GPUs.",
        ),
    )
}


def find_chip(name: str) -> Chip:
    """A chip by the first part of a topology's name, as in `v5e:16x16`.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in CHIPS:
        raise ConfigError(
            f"--topology: there is no chip {name!r}{did_you_mean(name, CHIPS)} The table has {', '.join(CHIPS)}."
        )
    return CHIPS[name]
