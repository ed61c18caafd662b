"""Layers with learned noise on their weights, by which agents explore.

The noise of a weight is the product of one number for its input and one for its output, each drawn anew wherever noise
is wanted. These numbers are given to a network among its parameters (`with_noise`): without them a layer has none.
"""

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
from jax import numpy as jnp

from podrl.types import PyTree

_SIGMA, _INPUT, _OUTPUT = "kernel_sigma", "noise_in", "noise_out"


class NoisyDense(nn.Module):
    """A linear layer with the weights w + sigma f(e_in) f(e_out); [B, ..., F] -> [B, ..., size].

    Both e are normal, and f(e) = sign(e) sqrt(|e|).

    Attributes:
        size: Units of the layer.
        sigma: Scale of the noise at first, in units of 1 / sqrt(F).

    Source: Fortunato et al. 2018, Noisy networks for exploration, arXiv:1706.10295, equations 9 to 11, section 3.2.
    """

    size: int
    sigma: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer, with noise where its parameters have some for these rows."""
        width = x.shape[-1]
        bound = width**-0.5

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        scale = nn.initializers.constant(self.sigma * bound)
        kernel, bias = self.param("kernel", uniform, (width, self.size)), self.param("bias", uniform, (self.size,))
        kernel_sigma = self.param(_SIGMA, scale, (width, self.size))
        bias_sigma = self.param("bias_sigma", scale, (self.size,))
        y = x @ kernel + bias
        if not self.has_variable("params", _INPUT):
            return y
        noise_in, noise_out = (self._noise(name, x.ndim) for name in (_INPUT, _OUTPUT))
        return y + noise_out * ((x * noise_in) @ kernel_sigma + bias_sigma)

    def _noise(self, name: str, num_axes: int) -> jax.Array:
        """Returns noise [N, F] as [N, 1, ..., F], for rows [B, ..., F]."""
        noise: jax.Array = self.get_variable("params", name)
        return noise.reshape(noise.shape[0], *(1,) * (num_axes - 2), noise.shape[1])


def with_noise(params: PyTree, keys: jax.Array) -> PyTree:
    """Returns parameters with noise for each `NoisyDense` among their modules.

    Args:
        params: Nested dicts of parameters.
        keys: [N] typed PRNG keys, consumed; one for each environment [B] that a network is evaluated in, or a single
            one for all of them.
    """
    flat = flatten_dict(params)
    for number, path in enumerate(sorted(path for path in flat if path[-1] == _SIGMA)):
        noise = _draw(jax.vmap(jax.random.fold_in, (0, None))(keys, number), sum(flat[path].shape))
        width = flat[path].shape[0]
        flat[(*path[:-1], _INPUT)], flat[(*path[:-1], _OUTPUT)] = noise[:, :width], noise[:, width:]
    return unflatten_dict(flat)


def _draw(keys: jax.Array, num: int) -> jax.Array:
    """Draws f(e) for `num` normal e of each key; [N, num]."""
    drawn = jax.vmap(lambda key: jax.random.normal(key, (num,)))(keys)
    return jnp.sign(drawn) * jnp.sqrt(jnp.abs(drawn))
