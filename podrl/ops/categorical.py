"""Categorical distributions, one or several independent ones, as functions of their logits.

Logits are [..., A], not normalised, and may hold -inf for actions that cannot be taken (never for all of a row).
Results are float32. Log-probabilities are selected by a one-hot sum and not by a gather, for which XLA's partitioner
may insert collectives when the batch is sharded.
"""

from collections.abc import Iterable, Sequence
import functools
import itertools

import jax
import jax.numpy as jnp

from podrl.ops.distributions import Distribution, sample_then_evaluate


def make_categorical(num_actions: int) -> Distribution:
    """Creates the distribution over `num_actions` actions; its parameters are logits."""
    return Distribution(
        num_params=num_actions,
        num_logits=num_actions,
        sample=sample_categorical,
        mode=lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.int32),
        log_prob=categorical_log_prob,
        sample_and_log_prob=sample_then_evaluate(sample_categorical, categorical_log_prob),
        entropy=categorical_entropy,
        kl=categorical_kl,
        kl_parts=lambda p_logits, q_logits: {"choices": categorical_kl(p_logits, q_logits)},
    )


def make_multi_categorical(nums: Sequence[int]) -> Distribution:
    """Creates the distribution over independent choices, the d-th of `nums[d]`; its parameters are all their logits."""
    bounds = list(itertools.pairwise(itertools.accumulate(nums, initial=0)))

    def split(logits: jax.Array) -> list[jax.Array]:
        return [logits[..., start:end] for start, end in bounds]

    def mode(logits: jax.Array) -> jax.Array:
        return jnp.stack([jnp.argmax(part, axis=-1) for part in split(logits)], axis=-1).astype(jnp.int32)

    def sample(keys: jax.Array, logits: jax.Array) -> jax.Array:
        noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
        return mode(logits.astype(jnp.float32) + noise)

    def log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
        return _total(categorical_log_prob(part, action[..., d]) for d, part in enumerate(split(logits)))

    def entropy(logits: jax.Array) -> jax.Array:
        return _total(map(categorical_entropy, split(logits)))

    def kl(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
        return _total(map(categorical_kl, split(p_logits), split(q_logits)))

    num = sum(nums)
    return Distribution(
        num_params=num,
        num_logits=num,
        sample=sample,
        mode=mode,
        log_prob=log_prob,
        sample_and_log_prob=sample_then_evaluate(sample, log_prob),
        entropy=entropy,
        kl=kl,
        kl_parts=lambda p_logits, q_logits: {"choices": kl(p_logits, q_logits)},
    )


def categorical_log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
    """Log-probability of `action`.

    Args:
        logits: [..., A] logits.
        action: [...] integers in [0, A).

    Returns:
        [...] in nats.
    """
    log_probs = _log_softmax(logits)
    is_taken = jnp.arange(logits.shape[-1], dtype=action.dtype) == action[..., None]
    return jnp.sum(jnp.where(is_taken, log_probs, 0.0), axis=-1)


def categorical_entropy(logits: jax.Array) -> jax.Array:
    """Entropy -sum(p log p) of logits [..., A]; [...] in nats. An impossible action contributes zero."""
    log_probs = _log_softmax(logits)
    return -jnp.sum(jnp.exp(log_probs) * _finite(log_probs), axis=-1)


def categorical_kl(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence KL(p || q), sum(p (log p - log q)).

    Args:
        p_logits: [..., A] logits of p.
        q_logits: [..., A] logits of q. Actions impossible under q must be impossible under p too; otherwise the
            divergence is not finite.

    Returns:
        [...] in nats.
    """
    p_log_probs, q_log_probs = _log_softmax(p_logits), _log_softmax(q_logits)
    is_possible = jnp.isfinite(p_log_probs)
    difference = jnp.where(is_possible, p_log_probs, 0.0) - jnp.where(is_possible, q_log_probs, 0.0)
    return jnp.sum(jnp.exp(p_log_probs) * difference, axis=-1)


def sample_categorical(keys: jax.Array, logits: jax.Array) -> jax.Array:
    """Draws one sample per row by the Gumbel-max trick, each with a key of its own.

    A row's sample depends on its key and its logits alone, not on which rows share the batch.

    Args:
        keys: [B] typed PRNG keys, consumed.
        logits: [B, A].

    Returns:
        [B] int32.
    """
    return jax.vmap(jax.random.categorical)(keys, logits.astype(jnp.float32)).astype(jnp.int32)


def _total(arrays: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, arrays)


def _log_softmax(logits: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)


def _finite(log_probs: jax.Array) -> jax.Array:
    """Replaces -inf by zero, so that 0 * log 0 is 0 and its gradient is not NaN."""
    return jnp.where(jnp.isfinite(log_probs), log_probs, 0.0)
