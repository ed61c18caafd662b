"""What devices compute: whether it is there, and which errors come from it."""

import re

import jax
import numpy as np

from podrl.types import PyTree

_STATUS = re.compile(
    "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): "
)  # How the runtime's errors begin.


def is_ready(tree: PyTree) -> bool:
    """Returns whether the programs that compute these arrays have ended; arrays on the host are always ready."""
    return all(leaf.is_ready() for leaf in jax.tree.leaves(tree) if not isinstance(leaf, np.ndarray | np.generic))


def is_of_the_runtime(error: BaseException) -> bool:
    """Whether an error may come of a reduction that lost a process: on CPU not all of those are `JaxRuntimeError`s."""
    errors = (error, error.__cause__)
    return any(isinstance(e, jax.errors.JaxRuntimeError) or _STATUS.match(str(e)) for e in errors if e is not None)
