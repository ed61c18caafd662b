"""Max-pooling with a gradient of our own.

XLA differentiates max-pooling into select-and-scatter, which its GPU backend refuses in deterministic mode and its CPU
backend runs slowly (eight times slower than this file for the IMPALA ResNet). Here the forward pass keeps,
for each window, which of its nine places won; the backward pass gathers: each input belongs to at most four windows and
asks each of them whether it won. Nothing scatters, and the sums have one fixed order.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp


def max_pool_3x3_stride_2(x: jax.Array) -> jax.Array:
    """Max-pooling over 3x3 windows with stride 2 and SAME padding, as `flax.linen.max_pool` computes it.

    Of several equal values in a window the first in row-major order gets the gradient. Value and float32 gradient equal
    XLA's bit for bit, but for windows that mix numbers and NaN: under differentiation a number may win there. A window
    of NaN, as a diverged parameter makes it, stays NaN.

    Args:
        x: [N, H, W, C] float.

    Returns:
        [N, ceil(H/2), ceil(W/2), C].
    """
    return _max_pool(x, x.shape[1:3])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    del image_size  # Only the backward pass, which sees no image, has to be told.
    return lax.reduce_window(x, jnp.array(-jnp.inf, x.dtype), lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def _forward(x: jax.Array, image_size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """The pooled images and, as what the backward pass needs, the winner's place (0 to 8) in each window."""
    places = _window_places(x, image_size)
    best, winner = places[0], jnp.zeros(places[0].shape, jnp.uint8)
    for place, candidate in enumerate(places[1:], start=1):
        # Not lax.max, which keeps XLA's CPU backend from vectorising this: four times slower.
        is_better = candidate > best
        winner = jnp.where(is_better, jnp.uint8(place), winner)
        best = jnp.where(is_better, candidate, best)
    return best, winner


def _backward(image_size: tuple[int, int], winner: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    """Sums, for each input, the gradients of the windows it won; even and odd rows and columns apart.

    With stride 2, padded row 2p is place 2 of window p-1 and place 0 of window p, and row 2p+1 is place 1 of window p.
    The same holds for columns. Terms are added in the row-major order of their windows, as XLA adds them.
    """

    def won(row: int, column: int) -> jax.Array:
        """[N, P+1, Q+1, C]: gradients of windows won by this place, at half the place's padded row and column."""
        grads = jnp.where(winner == 3 * row + column, grad, jnp.zeros((), grad.dtype))
        down, right = row // 2, column // 2
        padding = ((0, 0, 0), (down, 1 - down, 0), (right, 1 - right, 0), (0, 0, 0))
        return lax.pad(grads, jnp.zeros((), grad.dtype), padding)

    even_rows = (won(2, 2) + won(2, 0) + won(0, 2) + won(0, 0), won(2, 1) + won(0, 1))
    odd_rows = (won(1, 2) + won(1, 0), won(1, 1))
    quads = jnp.stack([jnp.stack(even_rows, axis=3), jnp.stack(odd_rows, axis=3)], axis=2)
    n, height, _, width, _, channels = quads.shape
    padded = quads.reshape(n, 2 * height, 2 * width, channels)
    (_, top, _), (_, left, _) = _geometry(image_size[0]), _geometry(image_size[1])
    return (padded[:, top : top + image_size[0], left : left + image_size[1]],)


_max_pool.defvjp(_forward, _backward)


def _window_places(x: jax.Array, image_size: tuple[int, int]) -> list[jax.Array]:
    """Nine [N, P, Q, C] views of the padded images: what each place of the windows sees, in row-major order."""
    (rows, top, bottom), (columns, left, right) = _geometry(image_size[0]), _geometry(image_size[1])
    padding = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)

    def view(row: int, column: int) -> jax.Array:
        limits = (x.shape[0], row + 2 * rows - 1, column + 2 * columns - 1, x.shape[3])
        return lax.slice(padded, (0, row, column, 0), limits, (1, 2, 2, 1))

    return [view(row, column) for row in range(3) for column in range(3)]


def _geometry(size: int) -> tuple[int, int, int]:
    """Windows along an axis of this length, and the SAME padding before and after it."""
    windows = -(-size // 2)
    total = 2 * windows + 1 - size
    return windows, total // 2, total - total // 2
