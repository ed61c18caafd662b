"""Max-pooling with a custom gradient.

XLA differentiates max-pooling into select-and-scatter, which its GPU backend refuses in deterministic mode and its CPU
backend runs slowly (eight times slower than this file for the IMPALA ResNet). Here the forward pass records which of
the nine places of each window won. The backward pass gathers: each input belongs to at most four windows, and sums the
gradients of those that it won. There is no scatter, and the sums have one fixed order.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

_NO_PLACE = 255
# The places of an even and an odd padded row (or column) in the window before theirs, and in their own window.
_PLACES = (np.array([2, _NO_PLACE]), np.array([0, 1]))


def max_pool_3x3_stride_2(x: jax.Array) -> jax.Array:
    """Max-pooling over 3x3 windows with stride 2 and SAME padding, as `flax.linen.max_pool` computes it.

    Among equal values in a window, the first in row-major order gets the gradient. Value and float32 gradient equal
    XLA's bit for bit, except in windows that mix numbers and NaN, where a number may win under differentiation. A
    window of NaN, as a diverged parameter produces, stays NaN.

    Args:
        x: [N, H, W, C] float.

    Returns:
        [N, ceil(H/2), ceil(W/2), C].
    """
    return _max_pool(x, x.shape[1:3])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    del image_size  # For the backward pass, which does not see the images.
    return lax.reduce_window(x, jnp.array(-jnp.inf, x.dtype), lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def _forward(x: jax.Array, image_size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns the pooled images and, for the backward pass, the winner's place (0 to 8) in each window."""
    places = _window_places(x, image_size)
    best, winner = places[0], jnp.zeros(places[0].shape, jnp.uint8)
    for place, candidate in enumerate(places[1:], start=1):
        # lax.max would keep XLA's CPU backend from vectorising this: four times slower.
        is_better = candidate > best
        winner = jnp.where(is_better, jnp.uint8(place), winner)
        best = jnp.where(is_better, candidate, best)
    return best, winner


def _backward(image_size: tuple[int, int], winner: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    """Sums, for each input, the gradients of the windows that it won.

    With stride 2, padded row 2p+r belongs to window p as place r and, if r is 0, to window p-1 as place 2. The same
    holds for columns. Terms are added in the row-major order of their windows, as XLA adds them.
    """
    # Without the barrier XLA's CPU backend would recompute both, one scalar at a time, for each of the four windows.
    winner, grad = lax.optimization_barrier((winner, grad))
    border = ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0))
    grads = lax.pad(grad, jnp.zeros((), grad.dtype), border)
    winners = lax.pad(winner, jnp.uint8(_NO_PLACE), border)
    n, rows, columns, channels = grad.shape
    padded = jnp.zeros((), grad.dtype)
    for row, row_places in enumerate(_PLACES):
        for column, column_places in enumerate(_PLACES):
            place = _place(row_places[:, None], column_places[None, :])[:, None, :, None]
            window = (slice(None), slice(row, row + rows + 1), None, slice(column, column + columns + 1), None)
            padded += jnp.where(winners[window] == place, grads[window], jnp.zeros((), grad.dtype))
    padded = padded.reshape(n, 2 * (rows + 1), 2 * (columns + 1), channels)
    (_, top, _), (_, left, _) = _geometry(image_size[0]), _geometry(image_size[1])
    return (padded[:, top : top + image_size[0], left : left + image_size[1]],)


def _place(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Returns the place (0 to 8) of a row and a column in a window; a value that never wins where either is outside."""
    outside = (row == _NO_PLACE) | (column == _NO_PLACE)
    return np.where(outside, _NO_PLACE - 1, 3 * row + column).astype(np.uint8)


_max_pool.defvjp(_forward, _backward)


def _window_places(x: jax.Array, image_size: tuple[int, int]) -> list[jax.Array]:
    """Returns nine [N, P, Q, C] views of the padded images, one for each place of the windows in row-major order."""
    (rows, top, bottom), (columns, left, right) = _geometry(image_size[0]), _geometry(image_size[1])
    padding = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)

    def view(row: int, column: int) -> jax.Array:
        limits = (x.shape[0], row + 2 * rows - 1, column + 2 * columns - 1, x.shape[3])
        return lax.slice(padded, (0, row, column, 0), limits, (1, 2, 2, 1))

    return [view(row, column) for row in range(3) for column in range(3)]


def _geometry(size: int) -> tuple[int, int, int]:
    """Returns the number of windows along an axis of this length, and the SAME padding before and after it."""
    windows = -(-size // 2)
    total = 2 * windows + 1 - size
    return windows, total // 2, total - total // 2
