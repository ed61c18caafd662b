"""Whether what devices compute is there."""

import jax
import numpy as np

from podrl.types import PyTree


def is_ready(tree: PyTree) -> bool:
    """Whether the programs that compute these arrays have ended; what is on the host is ready."""
    return all(leaf.is_ready() for leaf in jax.tree.leaves(tree) if not isinstance(leaf, np.ndarray | np.generic))
