"""The recurrent core between the encoder and the heads: the encoder sees all rows at once, the core one by one."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from podrl.config.config import NetworkConfig
from podrl.networks.lstm import LSTMState, initial_state, lstm
from podrl.types import PyTree


class LSTM(nn.Module):
    """A long short-term memory; features [B, T, D] -> [B, T, size] in float32.

    The forget gate's bias starts at one, so that a new core forgets slowly.

    Source: Jozefowicz et al. 2015, An empirical exploration of recurrent network architectures, ICML.
    """

    size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, first: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
        """Runs over T rows, from the `state` before row 0; `first` is [B, T] bool."""
        # Gates have their own axis, so that devices that share a layer split every gate the same way.
        input_init = nn.initializers.lecun_normal(in_axis=0, out_axis=2, batch_axis=1)
        input_kernel = self.param("input_kernel", input_init, (features.shape[-1], 4, self.size))
        recurrent_kernel = self.param("recurrent_kernel", _orthogonal_gates, (self.size, 4, self.size))
        bias = self.param("bias", _remembering, (4, self.size))
        batch, length, width = features.shape
        rows = features.reshape(batch * length, width).astype(self.dtype)  # [B, T]: see `rows`.
        product = jnp.einsum("nd,dgk->ngk", rows, input_kernel.astype(self.dtype), preferred_element_type=jnp.float32)
        inputs = (product + bias).reshape(batch, length, 4, self.size)
        kernel = recurrent_kernel.astype(self.dtype)
        hidden, state = lstm(kernel, jnp.swapaxes(inputs, 0, 1), jnp.swapaxes(first, 0, 1), state)
        return jnp.swapaxes(hidden, 0, 1), state


def make_core(config: NetworkConfig) -> LSTM | None:
    """Returns the core that `config` describes; None if the network has none."""
    return LSTM(config.core_size, jnp.dtype(config.compute_dtype)) if config.core == "lstm" else None


def initial_core_state(config: NetworkConfig, batch_size: int) -> PyTree:
    """Returns the core's state before an episode's first row; `()` without a core."""
    return initial_state(batch_size, config.core_size) if config.core == "lstm" else ()


def _orthogonal_gates(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Initializes each gate with an orthogonal matrix; [H, 4, H]."""
    make: Callable = nn.initializers.orthogonal()
    return jnp.stack([make(key, (shape[0], shape[2]), dtype) for key in jax.random.split(key, shape[1])], axis=1)


def _remembering(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Initializes the biases [4, H] to one for the forget gate, the second, and to zero for the others."""
    return jnp.zeros(shape, dtype).at[1].set(1.0)
