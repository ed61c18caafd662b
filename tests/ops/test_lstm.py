"""The LSTM against Flax's own cell in a loop over time: results, and gradients of everything."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.networks.lstm import LSTMState, initial_state, lstm

LENGTH, BATCH, SIZE = 7, 5, 6
CELL = nn.OptimizedLSTMCell(SIZE)


def draw(seed=0, scale=1.0):
    keys = jax.random.split(jax.random.key(seed), 6)
    kernel = scale * jax.random.normal(keys[0], (SIZE, 4, SIZE))
    inputs = scale * jax.random.normal(keys[1], (LENGTH, BATCH, 4, SIZE))
    first = jax.random.bernoulli(keys[2], 0.3, (LENGTH, BATCH))
    state = LSTMState(*(jax.random.normal(key, (BATCH, SIZE)) for key in keys[3:5]))
    return kernel, inputs, first, state


def loop(kernel, inputs, first, state):
    """Flax's cell, whose kernel of the inputs is the identity."""
    params = {f"h{gate}": {"kernel": kernel[:, index], "bias": jnp.zeros(SIZE)} for index, gate in enumerate("ifgo")}
    params |= {f"i{gate}": {"kernel": jnp.eye(4 * SIZE)[:, i * SIZE : (i + 1) * SIZE]} for i, gate in enumerate("ifgo")}
    cell, hidden, rows = state.cell, state.hidden, []
    for t in range(LENGTH):
        before = tuple(jnp.where(first[t][:, None], 0.0, x) for x in (cell, hidden))
        (cell, hidden), row = CELL.apply({"params": params}, before, inputs[t].reshape(BATCH, -1))
        rows.append(row)
    return jnp.stack(rows), LSTMState(hidden, cell)


def test_equals_flax():
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), lstm(*draw()), loop(*draw()))


def test_gradients_equal_those_of_flax():
    kernel, inputs, first, state = draw()
    weights = jax.random.normal(jax.random.key(9), (LENGTH + 2, BATCH, SIZE))

    def gradients(run):
        def loss(kernel, inputs, state):
            hidden, last = run(kernel, inputs, first, state)
            return jnp.sum(weights * jnp.concatenate([hidden, jnp.stack(last)]))

        return jax.grad(loss, argnums=(0, 1, 2))(kernel, inputs, state)

    found, expected = gradients(lstm), gradients(loop)
    assert all(np.abs(x).max() > 0.1 for x in jax.tree.leaves(expected))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)


def test_nothing_passes_the_opening_of_an_episode():
    kernel, inputs, first, state = draw()
    first = first.at[3].set(True)

    def late(inputs, state):
        return jnp.sum(lstm(kernel, inputs, first, state)[0][3:] ** 2)

    grad_inputs, grad_state = jax.grad(late, argnums=(0, 1))(inputs, state)
    assert not grad_inputs[:3].any()
    assert grad_inputs[3:].any(axis=(1, 2, 3)).all()
    assert not any(x.any() for x in grad_state)
    jax.tree.map(
        np.testing.assert_array_equal,
        lstm(kernel, inputs[3:], first[3:], initial_state(BATCH, SIZE)),
        (lstm(kernel, inputs, first, state)[0][3:], lstm(kernel, inputs, first, state)[1]),
    )


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_bfloat16_products_keep_float32_states_and_finite_gradients(scale):
    kernel, inputs, first, state = draw(scale=scale)

    def loss(kernel):
        hidden, last = lstm(kernel.astype(jnp.bfloat16), inputs, first, state)
        assert hidden.dtype == last.hidden.dtype == last.cell.dtype == jnp.float32
        return jnp.sum(hidden**2), hidden

    grad, hidden = jax.grad(loss, has_aux=True)(kernel)
    assert np.isfinite(grad).all()
    np.testing.assert_allclose(hidden, lstm(kernel, inputs, first, state)[0], atol=0.1 if scale == 1 else 2)
