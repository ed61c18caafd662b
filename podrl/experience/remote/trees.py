"""Pytrees of arrays as bytes: both sides know shapes and dtypes beforehand, as in `podrl.experience.remote.arrays`.

A large one is sent in pieces, so that a side never has to accept a long message from one that it does not know.
"""

from collections.abc import Iterator
import functools
from typing import Any

import jax
import numpy as np

from podrl.experience.remote.arrays import ArrayLayout, ArraySpec
from podrl.experience.remote.messages import HEAD_BYTES, Head, Kind
from podrl.types import PyTree

PIECE_BYTES = 1 << 20  # Of a message, beside its head.
_GROUP = 200  # Arrays under one header.


class TreeCodec:
    """Pytrees of one structure, with arrays of fixed shapes and dtypes, as bytes."""

    def __init__(self, expected: PyTree):
        """Takes a tree of arrays or `jax.ShapeDtypeStruct`s."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(expected)
        self._structure: Any = structure
        specs = [ArraySpec(_name(path), leaf.dtype.name, tuple(leaf.shape)) for path, leaf in leaves]
        groups = [specs[start : start + _GROUP] for start in range(0, len(specs), _GROUP)]
        self._layouts = [ArrayLayout(tuple(group), 0) for group in groups]

    @functools.cached_property
    def size_bytes(self) -> int:
        """Bytes of a tree."""
        return sum(layout.size_bytes for layout in self._layouts)

    def encode(self, tree: PyTree) -> bytes:
        """Returns a tree's bytes.

        Raises:
            ValueError: If it is not as expected.
        """
        if jax.tree.structure(tree) != self._structure:
            raise ValueError(f"Found {jax.tree.structure(tree)}; expected {self._structure}.")
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        groups = [leaves[start : start + _GROUP] for start in range(0, len(leaves), _GROUP)]
        return b"".join(layout.encode(b"", group) for layout, group in zip(self._layouts, groups, strict=True))

    def decode(self, encoded: bytes) -> tuple[PyTree, bytes]:
        """Returns the tree at the start of these bytes, whose arrays are views of them, and what follows it.

        Raises:
            ValueError: If they hold another.
        """
        leaves: list[np.ndarray] = []
        for layout in self._layouts:
            arrays, encoded = layout.decode(encoded)
            leaves += arrays
        return jax.tree.unflatten(self._structure, leaves), encoded


def to_pieces(last: Kind, part: Kind, channel: int, number: int, content: bytes) -> Iterator[bytes]:
    """Yields the messages that carry some content: all but the last are of kind `part`."""
    starts = range(0, max(1, len(content)), PIECE_BYTES)
    for start in starts:
        kind = last if start == starts[-1] else part
        yield Head(kind, channel, number).pack() + content[start : start + PIECE_BYTES]


class Pieces:
    """Joins the pieces of one content at a time."""

    def __init__(self, longest_bytes: int):
        """Starts without pieces; a content may have up to `longest_bytes`."""
        self._longest_bytes = longest_bytes
        self._pieces: list[bytes] = []
        self._number = 0

    def add(self, head: Head, message: bytes, *, is_last: bool) -> bytes | None:
        """Takes a message, and returns the content if it is its last.

        Raises:
            ValueError: If the content is too long, or the message belongs to another one.
        """
        if self._pieces and head.number != self._number:
            raise ValueError(f"a piece of {head.number} within {self._number}")
        self._number = head.number
        self._pieces.append(message[HEAD_BYTES:])
        if sum(map(len, self._pieces)) > self._longest_bytes:
            raise ValueError(f"more than {self._longest_bytes} bytes")
        if not is_last:
            return None
        content = b"".join(self._pieces)
        self._pieces = []
        return content


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
