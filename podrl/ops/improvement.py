"""Policies improved by advantages of their actions, regularised to stay near the policy that they improve.

pi'(a|s) is proportional to pi(a|s) exp(adv(s, a)): what maximises the expected advantage less KL(pi' || pi).

Source: Hessel et al. 2021, Muesli: combining improvements in policy optimization, arXiv:2104.06159, section 4;
Liu et al. 2023, Efficient offline policy optimization with a learned model, arXiv:2210.05980, section 3.
"""

import jax
from jax import numpy as jnp


def improve_policy(logits: jax.Array, advantages: jax.Array) -> jax.Array:
    """Computes pi'(a|s) from the advantages of all actions.

    Args:
        logits: [..., A]; -inf for actions that cannot be taken.
        advantages: [..., A].

    Returns:
        [..., A] probabilities.
    """
    return jax.nn.softmax(jax.nn.log_softmax(logits, axis=-1) + advantages, axis=-1)


def sampled_improvement(actions: jax.Array, advantages: jax.Array, num_actions: int) -> jax.Array:
    """Estimates pi'(a|s) from the advantages of N actions that were sampled from pi.

    Sample i has the weight exp(adv_i) / Z_i / N. Its normaliser Z_i = (1 + sum_{j != i} exp(adv_j)) / N leaves out its
    own advantage, which would bias the estimate.

    Args:
        actions: [..., N] integers in [0, num_actions).
        advantages: [..., N].
        num_actions: A.

    Returns:
        [..., A] weights of the actions in a cross entropy. They do not sum to one.
    """
    num = actions.shape[-1]
    grown = jnp.exp(advantages)
    # With other samples' sums instead of a difference from the total, which loses digits where one sample dominates.
    others = jnp.sum(jnp.where(jnp.eye(num, dtype=bool), 0.0, grown[..., None, :]), axis=-1)
    weights = grown / (1 + others)  # The N of the normaliser and of the mean cancel.
    return jnp.sum(weights[..., None] * jax.nn.one_hot(actions, num_actions), axis=-2)
