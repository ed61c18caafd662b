"""Sequences that reach behind an episode's end: which of their rows are known, and their returns."""

import numpy as np
import pytest

from podrl.ops.absorbing import absorbing_returns, follow_episodes

Y, N = True, False


def rows_of(discounts, is_transition):
    return follow_episodes(
        *(np.array(x, kind)[:, None] for x, kind in ((discounts, np.float32), (is_transition, bool)))
    )


@pytest.mark.parametrize(
    ("discounts", "is_transition", "is_real", "is_absorbed", "is_step"),
    [
        ([1, 1, 1], [Y, Y, Y], [Y, Y, Y, Y], [N, N, N, N], [Y, Y, Y]),
        ([1, 0, 1], [Y, Y, N], [Y, Y, N, N], [N, N, Y, Y], [Y, Y, N]),  # Terminates: absorbed from then on.
        ([0, 1, 1], [Y, N, Y], [Y, N, N, N], [N, Y, Y, Y], [Y, N, N]),  # And the next episode is not seen.
        ([1, 1, 1], [Y, N, Y], [Y, Y, N, N], [N, N, N, N], [Y, N, N]),  # Truncated: the final state is the last known.
        ([0, 0, 0], [N, Y, Y], [N, N, N, N], [N, N, N, N], [N, N, N]),  # Begins with a reset row.
    ],
    ids=["goes on", "terminates", "at once", "truncated", "reset"],
)
def test_rows_are_known_until_a_truncation_and_behind_a_termination(
    discounts, is_transition, is_real, is_absorbed, is_step
):
    rows = rows_of(discounts, is_transition)
    np.testing.assert_array_equal(rows.is_real[:, 0], is_real)
    np.testing.assert_array_equal(rows.is_absorbed[:, 0], is_absorbed)
    np.testing.assert_array_equal(rows.is_step[:, 0], is_step)
    np.testing.assert_array_equal(rows.is_known[:, 0], np.array(is_real) | is_absorbed)
    np.testing.assert_array_equal(rows.is_known_step[:, 0], np.array(is_step) | is_absorbed[:-1])


def loop_over_returns(values, rewards, discounts, is_transition, num_steps):
    """From each row walk on until n steps, a reset row or the sequence's end; nothing is earned once it is over."""
    length, batch = rewards.shape
    returns = np.zeros((length + 1, batch))
    for b in range(batch):
        over = False
        for t in range(length + 1):
            if t > 0 and is_transition[:t, b].all() and discounts[t - 1, b] == 0:
                over = True
            if over:
                continue
            total, weight, row = 0.0, 1.0, t
            for _ in range(num_steps):
                if row == length or not is_transition[row, b]:
                    break
                total += weight * rewards[row, b]
                weight *= discounts[row, b]
                row += 1
            returns[t, b] = total + weight * values[row, b]
    return returns


@pytest.mark.parametrize("num_steps", [1, 3])
def test_returns_equal_a_loop(num_steps):
    rng, shape = np.random.default_rng(num_steps), (6, 200)
    is_transition = rng.random(shape) > 0.2
    discounts = np.where(is_transition & (rng.random(shape) < 0.3), 0, 0.9).astype(np.float32)
    is_transition[1:] &= (discounts[:-1] > 0) | ~is_transition[:-1]  # A reset row comes behind each termination.
    discounts = np.where(is_transition, discounts, 0.9).astype(np.float32)
    values, rewards = rng.normal(size=(7, 200)).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    found = absorbing_returns(values, rewards, discounts, is_transition, num_steps=num_steps)
    expected = loop_over_returns(values, rewards, discounts, is_transition, num_steps)
    assert (expected == 0).any()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
