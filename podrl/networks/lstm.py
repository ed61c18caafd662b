"""A long short-term memory over time, with a gradient of its own.

What XLA would derive sums the recurrent kernel's gradient in the loop over time: with the batch split over devices that
is one sum over all devices for each time step. Here the loop back through time only leaves behind the gradients of the
gates, of which the kernel's is one matrix product at the end.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class LSTMState(NamedTuple):
    """What an LSTM keeps from row to row.

    Attributes:
        hidden: [B, H] float32; its last output.
        cell: [B, H] float32.
    """

    hidden: jax.Array
    cell: jax.Array


class _Residuals(NamedTuple):
    """What the way back needs: the kernel, `first`, and what each row began with and computed."""

    kernel: jax.Array
    first: jax.Array
    state: LSTMState
    gates: jax.Array


def initial_state(batch_size: int, size: int) -> LSTMState:
    """Zeros [B, H]."""
    return LSTMState(jnp.zeros((batch_size, size)), jnp.zeros((batch_size, size)))


@jax.custom_vjp
def lstm(kernel: jax.Array, inputs: jax.Array, first: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
    """Hidden states of T rows; before a row that opens an episode the state is zero.

    With gates (i, f, g, o) = inputs[t] + kernel * hidden[t-1]: cell[t] = sigmoid(f) cell[t-1] + sigmoid(i) tanh(g), and
    hidden[t] = sigmoid(o) tanh(cell[t]). Products are in the kernel's dtype, all else in float32.

    Args:
        kernel: [H, 4, H], from the last hidden state to the gates.
        inputs: [T, B, 4, H] float32, what the gates take from elsewhere, bias included.
        first: [T, B] bool.
        state: before row 0.

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

    # Not unrolled: on CPU that compiles ten times as long for a slower program. See docs/performance.md.
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
    """Zeros in rows [B] that open an episode."""
    return LSTMState(*(jnp.where(first[:, None], 0.0, x) for x in state))


def _update(gates: jax.Array, cell: jax.Array) -> LSTMState:
    """The next state, of gates [B, 4, H] and the last cell [B, H]."""
    enter, keep, new, leave = (gates[:, index] for index in range(4))
    cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return LSTMState(jax.nn.sigmoid(leave) * jnp.tanh(cell), cell)


def _product(dimensions: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A product in the kernel's dtype, summed in float32."""
    return jnp.einsum(dimensions, x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
