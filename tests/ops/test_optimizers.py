"""Optimizers against two steps worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops import optimizers


def updates_of(optimizer, grads):
    """What the optimizer adds to one parameter, for a sequence of its gradients."""
    params = {"w": jnp.zeros(1)}
    state = optimizer.init(params)
    updates = []
    for grad in grads:
        update, state = optimizer.update({"w": jnp.array([grad])}, state, params)
        updates.append(float(update["w"][0]))
    return updates


@pytest.mark.parametrize(
    ("epsilon_inside_root", "expected"),
    [
        # v = 0.1 * 2^2 = 0.4, then 0.9 * 0.4 + 0.1 * 1^2 = 0.46.
        (False, [-0.1 * 2 / (0.4**0.5 + 0.01), -0.1 * 1 / (0.46**0.5 + 0.01)]),
        (True, [-0.1 * 2 / (0.4 + 0.01) ** 0.5, -0.1 * 1 / (0.46 + 0.01) ** 0.5]),
    ],
)
def test_rmsprop_two_steps(epsilon_inside_root, expected):
    optimizer = optimizers.make_rmsprop(
        0.1, decay=0.9, epsilon=0.01, epsilon_inside_root=epsilon_inside_root, max_grad_norm=100.0
    )
    np.testing.assert_allclose(updates_of(optimizer, [2.0, 1.0]), expected, rtol=1e-6)


def test_adam_two_steps():
    # m = 0.2, 0.28; v = 0.004, 0.004996; corrected by 1 - 0.9^t and 1 - 0.999^t.
    optimizer = optimizers.make_adam(0.1, b1=0.9, b2=0.999, epsilon=0.01, max_grad_norm=100.0)
    second = (0.28 / (1 - 0.9**2)) / ((0.004996 / (1 - 0.999**2)) ** 0.5 + 0.01)
    np.testing.assert_allclose(updates_of(optimizer, [2.0, 1.0]), [-0.1 * 2 / 2.01, -0.1 * second], rtol=1e-5)


def test_clips_the_global_norm_first():
    # The gradient (3, 4) has norm 5; clipped to 1 it is (0.6, 0.8).
    optimizer = optimizers.make_rmsprop(1.0, decay=0.0, epsilon=1.0, max_grad_norm=1.0)
    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    update, _ = optimizer.update({"a": jnp.array(3.0), "b": jnp.array(4.0)}, optimizer.init(params), params)
    np.testing.assert_allclose([update["a"], update["b"]], [-0.6 / 1.6, -0.8 / 1.8], rtol=1e-6)


def test_linear_decay_reaches_zero():
    schedule = optimizers.linear_decay(0.4, 8)
    np.testing.assert_allclose([schedule(i) for i in (0, 2, 8, 9)], [0.4, 0.3, 0.0, 0.0], rtol=1e-6)
    optimizer = optimizers.make_rmsprop(optimizers.linear_decay(1.0, 2), decay=0.0, epsilon=0.0, max_grad_norm=10.0)
    np.testing.assert_allclose(updates_of(optimizer, [1.0, 1.0, 1.0]), [-1.0, -0.5, 0.0], rtol=1e-6)
