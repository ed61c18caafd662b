"""The one table of what chips and hosts can do, with where each figure comes from.

Rates are peaks that vendors state; what a program reaches of them is `podrl.performance.planning.model`'s business.
FLOP/s are those of matrix products at JAX's default precision: bfloat16 passes on a TPU whatever the arrays' type, TF32
for float32 on a GPU. Rates are in units of 1e9 bytes, one way. Memory is in GiB where vendors write GB: that is what
devices have, as a v5e's compiler does that counts 15.75 GiB for programs.
"""

import dataclasses

_GIB = 2**30
_GOOGLE = "Google Cloud TPU docs"
_BOOK = "jax-ml.github.io/scaling-book, chapter 2"


@dataclasses.dataclass(frozen=True)
class HostSpec:
    """A machine with some chips in it."""

    chips: int
    vcpus: int  # hardware threads
    link_bytes_per_s: float  # between host memory and each chip
    network_bytes_per_s: float = 25e9  # of the host's network cards together


@dataclasses.dataclass(frozen=True)
class Chip:
    """An accelerator and the hosts it comes in."""

    name: str  # as in a topology's name
    title: str
    platform: str
    flops: float  # of bfloat16 matrix products
    flops_float32: float
    memory_bytes: float
    memory_bytes_per_s: float
    interconnect_bytes_per_s: float  # to its neighbours, over all its links
    largest_slice: int | None  # chips that one job gets; None where hosts are joined by a network
    hosts: tuple[HostSpec, ...]  # that it comes in; the last is that of slices of many hosts
    source: str


# fmt: off
_TABLE = (
    # name, title, platform, bfloat16 and float32 FLOP/s, memory, its rate, interconnect, largest slice, hosts, source
    Chip("v4", "TPU v4", "tpu", 275e12, 275e12, 32 * _GIB, 1200e9, 6 * 45e9, 4096,
         (HostSpec(4, 240, 16e9),),
         f"{_GOOGLE}, v4: 275 TFLOP/s, 32 GiB at 1,200 GB/s, 240 vCPUs a host. {_BOOK}: 45 GB/s one way on each of 6 "
         "links, PCIe 16 GB/s."),
    Chip("v5e", "TPU v5e", "tpu", 197e12, 197e12, 16 * _GIB, 819e9, 200e9, 256,
         (HostSpec(1, 24, 16e9), HostSpec(8, 224, 16e9), HostSpec(4, 112, 16e9)),
         f"{_GOOGLE}, v5e: 197 TFLOP/s, 16 GB at 819 GB/s, 400 GB/s both ways between chips; 24, 112 and 224 vCPUs "
         f"with 1, 4 and 8 chips, 2 x 100 Gb/s a host. {_BOOK}: PCIe 16 GB/s."),
    Chip("v5p", "TPU v5p", "tpu", 459e12, 459e12, 95 * _GIB, 2765e9, 600e9, 6144,
         (HostSpec(4, 208, 16e9),),
         f"{_GOOGLE}, v5p: 459 TFLOP/s, 95 GB at 2,765 GB/s, 1,200 GB/s both ways between chips, 208 vCPUs a host. "
         f"{_BOOK}: PCIe 16 GB/s."),
    Chip("v6e", "TPU v6e", "tpu", 918e12, 918e12, 32 * _GIB, 1638e9, 400e9, 256,
         (HostSpec(1, 44, 32e9), HostSpec(8, 180, 32e9), HostSpec(4, 180, 32e9)),
         f"{_GOOGLE}, v6e: 918 TFLOP/s, 32 GB at 1,638 GB/s, 800 GB/s both ways between chips, PCIe 5; 44, 180 and 180 "
         f"vCPUs with 1, 4 and 8 chips. {_BOOK}: PCIe 32 GB/s."),
    Chip("a100", "NVIDIA A100 80GB SXM", "gpu", 312e12, 156e12, 80 * _GIB, 2039e9, 300e9, None,
         (HostSpec(8, 96, 25e9, 12.5e9),),
         "NVIDIA's A100 data sheet (dense): 312 TFLOP/s bfloat16, 156 TF32, 80 GB at 2,039 GB/s, NVLink 600 GB/s both "
         "ways, PCIe 4. Host as Google Cloud's a2-ultragpu-8g: 96 vCPUs, 100 Gb/s."),
    Chip("h100", "NVIDIA H100 SXM", "gpu", 989e12, 495e12, 80 * _GIB, 3350e9, 450e9, None,
         (HostSpec(8, 208, 50e9, 125e9),),
         "NVIDIA's H100 data sheet (dense): 989 TFLOP/s bfloat16, 495 TF32, 80 GB at 3,350 GB/s, NVLink 900 GB/s both "
         "ways, PCIe 5. Host as Google Cloud's a3-highgpu-8g: 208 vCPUs, 1,000 Gb/s."),
    Chip("h200", "NVIDIA H200 SXM", "gpu", 989e12, 495e12, 141 * _GIB, 4800e9, 450e9, None,
         (HostSpec(8, 224, 50e9, 400e9),),
         "NVIDIA's H200 data sheet (dense): 989 TFLOP/s bfloat16, 495 TF32, 141 GB at 4,800 GB/s, NVLink 900 GB/s both "
         "ways, PCIe 5. Host as Google Cloud's a3-ultragpu-8g: 224 vCPUs, 3,200 Gb/s between GPUs."),
)
# fmt: on
CHIPS = {chip.name: chip for chip in _TABLE}
