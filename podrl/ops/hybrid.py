"""Choices and numbers at once: the product of a multi-categorical distribution and a Gaussian.

Both are independent given the parameters [..., P]: first the logits of all choices, then the Gaussian's. An action is
[..., D + size] float32: the choices as whole numbers, which float32 holds exactly, then the numbers.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from podrl.ops.categorical import make_multi_categorical
from podrl.ops.distributions import Distribution


def make_hybrid(nums: Sequence[int], numbers: Distribution) -> Distribution:
    """Creates the distribution of independent choices, the d-th of `nums[d]`, and of `numbers`.

    Log-probability, entropy and divergence are the sums of both.
    """
    choices = make_multi_categorical(nums)

    def split(params: jax.Array) -> tuple[jax.Array, jax.Array]:
        return params[..., : choices.num_params], params[..., choices.num_params :]

    def join(chosen: jax.Array, drawn: jax.Array) -> jax.Array:
        return jnp.concatenate([chosen.astype(jnp.float32), drawn], axis=-1)

    def sample(keys: jax.Array, params: jax.Array) -> jax.Array:
        return sample_and_log_prob(keys, params)[0]

    def sample_and_log_prob(keys: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, rest = split(params)
        both = jax.vmap(lambda key: jax.random.split(key))(keys)
        chosen, log_chosen = choices.sample_and_log_prob(both[:, 0], logits)
        drawn, log_drawn = numbers.sample_and_log_prob(both[:, 1], rest)
        return join(chosen, drawn), log_chosen + log_drawn

    def mode(params: jax.Array) -> jax.Array:
        logits, rest = split(params)
        return join(choices.mode(logits), numbers.mode(rest))

    def log_prob(params: jax.Array, action: jax.Array) -> jax.Array:
        logits, rest = split(params)
        chosen, drawn = action[..., : len(nums)].astype(jnp.int32), action[..., len(nums) :]
        return choices.log_prob(logits, chosen) + numbers.log_prob(rest, drawn)

    def entropy(params: jax.Array) -> jax.Array:
        return choices.entropy(split(params)[0]) + numbers.entropy(split(params)[1])

    def kl(p: jax.Array, q: jax.Array) -> jax.Array:
        (p_logits, p_rest), (q_logits, q_rest) = split(p), split(q)
        return choices.kl(p_logits, q_logits) + numbers.kl(p_rest, q_rest)

    def kl_parts(p: jax.Array, q: jax.Array) -> dict[str, jax.Array]:
        (p_logits, p_rest), (q_logits, q_rest) = split(p), split(q)
        return {**choices.kl_parts(p_logits, q_logits), **numbers.kl_parts(p_rest, q_rest)}

    return Distribution(
        num_params=choices.num_params + numbers.num_params,
        num_logits=choices.num_params,
        sample=sample,
        mode=mode,
        log_prob=log_prob,
        sample_and_log_prob=sample_and_log_prob,
        entropy=entropy,
        kl=kl,
        kl_parts=kl_parts,
    )
