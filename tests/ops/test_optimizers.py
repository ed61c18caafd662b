"""Optimizers against two steps worked by hand, and against two other implementations over many."""

import jax
from jax.example_libraries import optimizers as other_optimizers
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


def test_radam_is_momentum_at_first_and_then_a_shorter_step_of_adams():
    """The rectification of the paper's algorithm 2; in float32 it is coarse where few gradients have come."""
    grads = [2.0, 1.0, *np.random.default_rng(0).normal(size=38)]
    found = updates_of(optimizers.make_radam(0.1, epsilon=1e-12, max_grad_norm=100.0), grads)
    adam = updates_of(optimizers.make_adam(0.1, epsilon=1e-12, max_grad_norm=100.0), grads)
    np.testing.assert_allclose(found[:2], [-0.1 * 2, -0.1 * (0.9 * 0.2 + 0.1) / (1 - 0.9**2)], rtol=1e-5)
    longest, power = 2 / (1 - 0.999) - 1, 0.999 ** len(grads)
    length = longest - 2 * len(grads) * power / (1 - power)
    part = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    assert part < 0.5
    np.testing.assert_allclose(found[-1], adam[-1] * part**0.5, rtol=2e-3)


def test_adamw_is_adam_with_decay_of_kernels_by_the_learning_rate():
    params = {"kernel": jnp.array([[2.0]]), "bias": jnp.array([2.0])}
    grads = jax.tree.map(jnp.ones_like, params)
    plain, decaying = optimizers.make_adam(0.1), optimizers.make_adamw(0.1, weight_decay=0.3)
    update, _ = plain.update(grads, plain.init(params), params)
    found, _ = decaying.update(grads, decaying.init(params), params)
    np.testing.assert_allclose(found["kernel"], update["kernel"] - 0.1 * 0.3 * 2, rtol=1e-6)
    np.testing.assert_array_equal(found["bias"], update["bias"])


@pytest.mark.parametrize("decays", [False, True])
def test_a_learning_rate_warms_up_over_updates(decays):
    steady = optimizers.rate_over_run(0.4, decays=decays, num_updates=8, steps_per_update=1, ahead=0.0)
    warm = optimizers.warm_up(steady, 4)
    assert optimizers.warm_up(steady, 0) is steady
    found = [float(warm(jnp.int32(step))(step)) for step in (0, 1, 3, 6)]
    full = np.array([0.4, 0.35, 0.25, 0.1]) if decays else np.full(4, 0.4)
    np.testing.assert_allclose(found, np.array([0.25, 0.5, 1, 1]) * full, rtol=1e-6)


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


def test_rescaled_counts_keep_a_schedules_place_and_nothing_else():
    optimizer = optimizers.make_adam(optimizers.linear_decay(1.0, 8), epsilon=1.0, max_grad_norm=10.0)
    params = {"w": jnp.ones(())}
    state = optimizer.init(params)
    for _ in range(3):
        _, state = optimizer.update(params, state, params)
    longer = optimizers.make_adam(optimizers.linear_decay(1.0, 16), epsilon=1.0, max_grad_norm=10.0)
    update, state_after = optimizer.update(params, state, params)
    update_of_longer, after = longer.update(params, optimizers.rescale_counts(state, 2.0), params)
    np.testing.assert_allclose(update_of_longer["w"], update["w"])
    assert [int(leaf) for leaf in jax.tree.leaves(after) if leaf.dtype == jnp.int32] == [4, 7]
    far = optimizers.rescale_counts(state_after, 1e12)
    assert [int(leaf) for leaf in jax.tree.leaves(far) if leaf.dtype == jnp.int32] == [4, 2**31 - 1]


def float64_updates(grads, step):
    """The updates that `step(grad, moments, t)` makes of gradients [T, N], with moments (m, v) from zero; t from 1."""
    moments, updates = (np.zeros(grads.shape[1]), np.zeros(grads.shape[1])), []
    for t, grad in enumerate(np.float64(grads), start=1):
        update, moments = step(grad, moments, t)
        updates.append(update)
    return np.array(updates)


def adam_step(grad, moments, t, rate=0.1, b1=0.9, b2=0.999, epsilon=1e-8):
    m, v = b1 * moments[0] + (1 - b1) * grad, b2 * moments[1] + (1 - b2) * grad**2
    return -rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + epsilon), (m, v)


def rmsprop_step(inside):
    def step(grad, moments, t, rate=0.1, decay=0.9, epsilon=0.01):
        v = decay * moments[1] + (1 - decay) * grad**2
        return -rate * grad / (np.sqrt(v + epsilon) if inside else np.sqrt(v) + epsilon), (0, v)

    return step


CASES = {
    "adam": (optimizers.make_adam(0.1, max_grad_norm=1e9), adam_step, other_optimizers.adam(0.1)),
    "rmsprop_inside": (
        optimizers.make_rmsprop(0.1, decay=0.9, epsilon_inside_root=True, max_grad_norm=1e9),
        rmsprop_step(inside=True),
        other_optimizers.rmsprop(0.1, gamma=0.9, eps=0.01),
    ),
    "rmsprop_outside": (optimizers.make_rmsprop(0.1, decay=0.9, max_grad_norm=1e9), rmsprop_step(inside=False), None),
}


@pytest.mark.parametrize("name", CASES)
def test_many_steps_with_gradients_over_six_magnitudes_equal_other_implementations(name):
    """float64 for all; JAX's example library, which knows no RMSProp with epsilon outside the root, for two."""
    ours, step, other = CASES[name]
    rng = np.random.default_rng(0)
    grads = (rng.normal(size=(60, 12)) * 10.0 ** rng.uniform(-3, 3, size=(60, 12))).astype(np.float32)
    params = jnp.zeros(12)

    def next_update(state, grad):
        update, state = ours.update(grad, state, params)
        return state, update

    _, updates = jax.lax.scan(next_update, ours.init(params), grads)
    np.testing.assert_allclose(updates, float64_updates(grads, step), rtol=1e-4, atol=1e-8)
    if other is not None:
        state = other.init_fn(params)
        for t, grad in enumerate(grads):
            state = other.update_fn(t, grad, state)
        np.testing.assert_allclose(np.sum(updates, axis=0), other.params_fn(state), rtol=1e-4, atol=1e-5)


def test_a_gradient_of_any_size_is_clipped_by_its_global_norm():
    for magnitude in 10.0 ** np.arange(-3, 4):
        grad = magnitude * jnp.array([3.0, 4.0])
        optimizer = optimizers.make_rmsprop(1.0, decay=0.0, epsilon=1e6, max_grad_norm=1.0)
        update, _ = optimizer.update(grad, optimizer.init(grad))
        clipped = np.array([3.0, 4.0]) * magnitude * min(1.0, 1 / (5 * magnitude))
        np.testing.assert_allclose(update, -clipped / (clipped + 1e6), rtol=1e-5)
