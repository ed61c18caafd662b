"""A long short-term memory over time, with a custom gradient.

The gradient that JAX derives sums the recurrent kernel's gradient in the loop over time: with the batch split over
devices, that is one sum over all devices per time step. Here the loop back through time computes the gradients of the
gates only, and one matrix product after it gives the kernel's gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class LSTMState(NamedTuple):
    """The state of an LSTM between rows.

    Attributes:
        hidden: [B, H] float32; the last output.
        cell: [B, H] float32; the memory cells.
    """

    hidden: jax.Array
    cell: jax.Array


class _Residuals(NamedTuple):
    """The values that the backward pass needs: the kernel, `first`, and each row's initial state and gates."""

    kernel: jax.Array
    first: jax.Array
    state: LSTMState
    gates: jax.Array


def initial_state(batch_size: int, size: int) -> LSTMState:
    """Returns a state of zeros [B, H]."""
    return LSTMState(jnp.zeros((batch_size, size)), jnp.zeros((batch_size, size)))


@jax.custom_vjp
def lstm(kernel: jax.Array, inputs: jax.Array, first: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
    """Computes the hidden states of T rows; the state is reset to zero before a row that opens an episode.

    With gates (i, f, g, o) = inputs[t] + kernel * hidden[t-1]: cell[t] = sigmoid(f) cell[t-1] + sigmoid(i) tanh(g), and
    hidden[t] = sigmoid(o) tanh(cell[t]). Products are in the kernel's dtype, the rest in float32.

    Args:
        kernel: [H, 4, H], from the last hidden state to the gates.
        inputs: [T, B, 4, H] float32, the gates' other inputs, bias included.
        first: [T, B] bool; the row opens an episode.
        state: The state before row 0.

    Returns:
        Hidden states [T, B, H] float32, and the state after the last row.

    Source: Hochreiter and Schmidhuber 1997, Long short-term memory, Neural Computation 9(8), with the forget gate of
    Gers et al. 2000, Learning to forget, Neural Computation 12(10).
    """
    return _forward(kernel, inputs, first, state)[0]


def _forward(
    kernel: jax.Array, inputs: jax.Array, first: jax.Array, state: LSTMState
) -> tuple[tuple[jax.Array, LSTMState], _Residuals]:
    def step(state: LSTMState, row: tuple[jax.Array, jax.Array]) -> tuple[LSTMState, tuple]:
        inputs_t, first_t = row
        before = _forget(state, first_t)
        gates = inputs_t + _product("bh,hgk->bgk", before.hidden, kernel)
        after = _update(gates, before.cell)
        return after, (after.hidden, before, gates)

    # Not unrolled: on CPU that takes ten times as long to compile and runs slower. See docs/performance.md.
    last, (hidden, before, gates) = jax.lax.scan(step, state, (inputs, first))
    return (hidden, last), _Residuals(kernel, first, before, gates)


def _backward(residuals: _Residuals, grads: tuple[jax.Array, LSTMState]) -> tuple:
    kernel, first, before, gates = residuals
    grad_hidden, grad_last = grads

    def step(grad: LSTMState, row: tuple[jax.Array, ...]) -> tuple[LSTMState, jax.Array]:
        grad_hidden_t, first_t, cell, gates_t = row
        _, pull_back = jax.vjp(_update, gates_t, cell)
        grad_gates, grad_cell = pull_back(LSTMState(grad.hidden + grad_hidden_t, grad.cell))
        grad = LSTMState(_product("bgk,hgk->bh", grad_gates, kernel), grad_cell)
        return _forget(grad, first_t), grad_gates

    rows = (grad_hidden, first, before.cell, gates)
    grad_state, grad_gates = jax.lax.scan(step, grad_last, rows, reverse=True)
    hidden, grad_gates_in_dtype = before.hidden.astype(kernel.dtype), grad_gates.astype(kernel.dtype)
    grad_kernel = jnp.einsum("tbh,tbgk->hgk", hidden, grad_gates_in_dtype)
    return grad_kernel, grad_gates, None, grad_state


lstm.defvjp(_forward, _backward)


def _forget(state: LSTMState, first: jax.Array) -> LSTMState:
    """Resets the state to zero where `first` [B]."""
    return LSTMState(*(jnp.where(first[:, None], 0.0, x) for x in state))


def _update(gates: jax.Array, cell: jax.Array) -> LSTMState:
    """Computes the next state from gates [B, 4, H] and the last cell [B, H]."""
    enter, keep, new, leave = (gates[:, index] for index in range(4))
    cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return LSTMState(jax.nn.sigmoid(leave) * jnp.tanh(cell), cell)


def _product(dimensions: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies in the kernel's dtype and sums in float32."""
    return jnp.einsum(dimensions, x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
