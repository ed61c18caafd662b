"""Advantages and returns of a policy from its own steps, and the clipping of rewards."""

from flax import struct
import jax
import jax.numpy as jnp


def clip_reward(reward: jax.Array, max_reward: float) -> jax.Array:
    """Clips rewards to [-max_reward, max_reward]; `max_reward=0` leaves them unchanged."""
    return jnp.clip(reward, -max_reward, max_reward) if max_reward else reward


def gae(
    values: jax.Array, rewards: jax.Array, discounts: jax.Array, is_transition: jax.Array, *, lambda_: float = 0.95
) -> jax.Array:
    """Generalized advantage estimates: exponentially weighted sums of temporal differences.

    A_t = delta_t + discount_t lambda A_{t+1}, with delta_t = r_t + discount_t V_{t+1} - V_t. `lambda_=0` gives the
    temporal difference (little variance, the values' bias), `lambda_=1` the return minus the value. The sum stops at
    reset rows, so that a truncated episode bootstraps from the value of its final observation and nothing later.

    Args:
        values: [T+1, B] estimates; the last row bootstraps.
        rewards: [T, B] in the units of the return, after any clipping by the agent.
        discounts: [T, B] in [0, 1]; zero where the episode terminated, not where it was truncated.
        is_transition: [T, B] bool; false on reset rows, whose values are ignored.
        lambda_: Decay of the sum per step, in [0, 1].

    Returns:
        Advantages [T, B], zero on reset rows; no gradient flows through them. Values should move to
        `advantages + values[:-1]`, the lambda-return.

    Source: Schulman et al. 2016, arXiv:1506.02438, equation 16.
    """
    values, rewards, discounts = jax.lax.stop_gradient((values, rewards, discounts))
    deltas = jnp.where(is_transition, rewards + discounts * values[1:] - values[:-1], 0.0)
    traces = jnp.where(is_transition, discounts * lambda_, 0.0)

    def accumulate(advantage_t: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, trace = row
        advantage_tm1 = delta + trace * advantage_t
        return advantage_tm1, advantage_tm1

    _, advantages = jax.lax.scan(accumulate, jnp.zeros_like(deltas[0]), (deltas, traces), reverse=True)
    return advantages


def lambda_returns(
    values: jax.Array, rewards: jax.Array, discounts: jax.Array, is_transition: jax.Array, *, lambda_: float
) -> jax.Array:
    """Lambda-returns: exponentially weighted means of the returns over one step, two steps and so on.

    G_t = r_t + discount_t ((1 - lambda) V_{t+1} + lambda G_{t+1}). `lambda_=0` looks one step ahead, `lambda_=1` to the
    end of the unroll. With V = max_a Q these are the targets of Peng's Q(lambda), which is not cut where an action was
    not the best. The return stops at reset rows, so that a truncated episode bootstraps from the value of its final
    observation and nothing later.

    Args:
        values: [T+1, B] estimates; the last row bootstraps.
        rewards: [T, B] in the units of the return, after any clipping by the agent.
        discounts: [T, B] in [0, 1]; zero where the episode terminated, not where it was truncated.
        is_transition: [T, B] bool; false on reset rows, whose values are those of no transition.
        lambda_: Weight of the longer returns, in [0, 1].

    Returns:
        Returns [T, B], on reset rows the values; no gradient flows through them.

    Source: Peng & Williams 1996, Incremental multi-step Q-learning, Machine Learning 22, equation 11; Sutton & Barto
    2018, Reinforcement learning: an introduction, equation 12.18.
    """
    values, rewards, discounts = jax.lax.stop_gradient((values, rewards, discounts))

    def accumulate(return_t: jax.Array, row: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        reward, discount, is_real, value_tm1, value_t = row
        return_tm1 = reward + discount * (value_t + lambda_ * (return_t - value_t))
        return_tm1 = jnp.where(is_real, return_tm1, value_tm1)
        return return_tm1, return_tm1

    rows = (rewards, discounts, is_transition, values[:-1], values[1:])
    return jax.lax.scan(accumulate, values[-1], rows, reverse=True)[1]


def n_step_returns(
    values: jax.Array, rewards: jax.Array, discounts: jax.Array, is_transition: jax.Array, *, num_steps: int
) -> jax.Array:
    """Returns over `num_steps` steps: their discounted rewards, then the value of the row behind them.

    G_t = r_t + discount_t r_{t+1} + ... + (product of n discounts) V_{t+n}. There are fewer steps where the trajectory
    ends before, with the value of its last row, and where a reset row comes before: a truncated episode bootstraps from
    the value of its final observation and nothing later.

    Args:
        values: [T+1, B] estimates; the last row bootstraps.
        rewards: [T, B] in the units of the return, after any clipping by the agent.
        discounts: [T, B] in [0, 1]; zero where the episode terminated, not where it was truncated.
        is_transition: [T, B] bool; false on reset rows, whose values are those of no transition.
        num_steps: n, at least 1.

    Returns:
        Returns [T, B], on reset rows the values; no gradient flows through them.

    Source: Mnih et al. 2016, arXiv:1602.01783, section 4; with double Q-learning Kapturowski et al. 2019, R2D2,
    equation 1.
    """
    values, rewards, discounts = jax.lax.stop_gradient((values, rewards, discounts))
    returns = values
    for _ in range(num_steps):
        longer = jnp.where(is_transition, rewards + discounts * returns[1:], values[:-1])
        returns = jnp.concatenate([longer, values[-1:]])
    return returns[:-1]


@struct.dataclass(kw_only=True)
class Bootstrap:
    """What a return over several steps adds to the discounted value of the row that it bootstraps from.

    Attributes:
        rewards: [T, B]; the discounted rewards of its steps.
        discounts: [T, B]; the product of their discounts, 0 where the episode terminated within them.
        row: [T, B] int32; the row, from 0 to T.
    """

    rewards: jax.Array
    discounts: jax.Array
    row: jax.Array


def n_step_bootstrap(
    rewards: jax.Array, discounts: jax.Array, is_transition: jax.Array, *, num_steps: int
) -> Bootstrap:
    """Returns the parts of `n_step_returns`, for values that are not numbers: that is `rewards + discounts * V[row]`.

    Args:
        rewards: [T, B] in the units of the return, after any clipping by the agent.
        discounts: [T, B] in [0, 1]; zero where the episode terminated, not where it was truncated.
        is_transition: [T, B] bool; false on reset rows, whose own row is meant.
        num_steps: n, at least 1.
    """
    zeros, rows = jnp.zeros_like(rewards), jnp.arange(len(rewards) + 1, dtype=jnp.float32)[:, None]
    shape = (len(rewards) + 1, *rewards.shape[1:])

    def returns(values: jax.Array, rewards: jax.Array, discounts: jax.Array) -> jax.Array:
        return n_step_returns(jnp.broadcast_to(values, shape), rewards, discounts, is_transition, num_steps=num_steps)

    return Bootstrap(
        rewards=returns(jnp.zeros(()), rewards, discounts),
        discounts=returns(jnp.ones(()), zeros, discounts),
        row=returns(rows, zeros, zeros + 1).astype(jnp.int32),
    )
