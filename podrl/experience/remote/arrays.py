"""Arrays as raw bytes under a typed header: name, dtype and shape of each.

Both sides know beforehand which arrays a message has. So a receiver compares the header with the one that it expects,
byte by byte, before it reads or allocates anything, and takes the arrays as views of the message. Nothing in a message
is ever executed: there is no pickle.

A header is the number of arrays, and for each: length of the name, name, code of the dtype, number of dimensions, and
the dimensions. Data begin at multiples of 8 bytes, so that the views are aligned.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
import struct

import numpy as np

# An array's dtype is sent as its place in this list. Append, and do not reorder.
DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "bfloat16"),
)
_MOST_ARRAYS, _MOST_DIMENSIONS, _LONGEST_NAME = 255, 16, 255
_ALIGNMENT = 8


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """An array in a message.

    Attributes:
        name: its name.
        dtype: the name of its dtype.
        shape: its dimensions.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"

    @property
    def num_bytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class ArrayLayout:
    """Where the arrays of one kind of message lie in it.

    Attributes:
        specs: the arrays, in order.
        start: bytes of the message before the header.
    """

    specs: tuple[ArraySpec, ...]
    start: int

    @functools.cached_property
    def header(self) -> bytes:
        """The typed header.

        Raises:
            ValueError: if an array cannot be sent.
        """
        if len(self.specs) > _MOST_ARRAYS:
            raise ValueError(f"Found {len(self.specs)} arrays in a timestep; at most {_MOST_ARRAYS} can be sent.")
        return bytes([len(self.specs)]) + b"".join(map(_entry, self.specs))

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """The first byte of each array's data, and of what follows the last."""
        offsets = [_aligned(self.start + len(self.header))]
        for spec in self.specs:
            offsets.append(_aligned(offsets[-1] + spec.num_bytes))
        return tuple(offsets)

    @property
    def size_bytes(self) -> int:
        """Bytes of a message with these arrays and nothing after them."""
        return self.offsets[-1]

    def encode(self, head: bytes, arrays: Sequence[np.ndarray], more: bytes = b"") -> bytes:
        """Returns a message.

        Args:
            head: its first `start` bytes.
            arrays: One for each of `specs`.
            more: Bytes that follow the arrays.

        Raises:
            ValueError: if an array is not what its spec says.
        """
        message = bytearray(self.size_bytes + len(more))
        message[: len(head)] = head
        message[self.start : self.start + len(self.header)] = self.header
        for spec, offset, array in zip(self.specs, self.offsets, arrays, strict=False):
            if array.dtype.name != spec.dtype or array.shape != spec.shape:
                raise ValueError(f"Found {spec.name} {array.dtype.name}{list(array.shape)}; expected {spec}.")
            view = np.frombuffer(message, spec.dtype, count=array.size, offset=offset)
            view.reshape(spec.shape)[...] = array
        message[self.size_bytes :] = more
        return bytes(message)

    def decode(self, message: bytes) -> tuple[list[np.ndarray], bytes]:
        """Returns the arrays of a message, as read-only views of it, and what follows them.

        Raises:
            ValueError: if the message has other arrays.
        """
        end = self.start + len(self.header)
        if message[self.start : end] != self.header or len(message) < self.size_bytes:
            raise ValueError(
                f"found {describe_arrays(message, self.start)}; expected {', '.join(map(str, self.specs))}"
            )
        arrays = [
            np.frombuffer(message, spec.dtype, count=math.prod(spec.shape), offset=offset).reshape(spec.shape)
            for spec, offset in zip(self.specs, self.offsets, strict=False)
        ]
        return arrays, message[self.size_bytes :]


def describe_arrays(message: bytes, start: int) -> str:
    """Describes what a message says of its arrays, for error messages; allocates nothing for them."""
    try:
        specs = _read_header(message, start)
    except (ValueError, IndexError, struct.error):
        return f"{len(message)} bytes that are no arrays"
    if len(message) < ArrayLayout(specs, start).size_bytes:
        return f"{len(message)} bytes, too few for {', '.join(map(str, specs))}"
    return ", ".join(map(str, specs)) or "no arrays"


def _entry(spec: ArraySpec) -> bytes:
    """Returns the part of a header that describes one array."""
    name = spec.name.encode()
    if spec.dtype not in DTYPES:
        raise ValueError(f"Found {spec}; arrays of {', '.join(DTYPES)} can be sent.")
    if len(name) > _LONGEST_NAME or len(spec.shape) > _MOST_DIMENSIONS:
        raise ValueError(
            f"Found {spec}; a name has at most {_LONGEST_NAME} bytes, and an array {_MOST_DIMENSIONS} dimensions."
        )
    sizes = struct.pack(f"<{len(spec.shape)}I", *spec.shape)
    return bytes([len(name)]) + name + bytes([DTYPES.index(spec.dtype), len(spec.shape)]) + sizes


def _read_header(message: bytes, start: int) -> tuple[ArraySpec, ...]:
    """Returns the arrays that a message says it has.

    Raises:
        ValueError, IndexError, struct.error: if it is no header.
    """
    specs, place = [], start + 1
    for _ in range(message[start]):
        length = message[place]
        name = message[place + 1 : place + 1 + length].decode()
        place += 1 + length
        dtype, ndim = DTYPES[message[place]], message[place + 1]
        if ndim > _MOST_DIMENSIONS or not name.isprintable():
            raise ValueError("no header")
        specs.append(ArraySpec(name, dtype, struct.unpack_from(f"<{ndim}I", message, place + 2)))
        place += 2 + 4 * ndim
    return tuple(specs)


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT
