"""Lower bounds of the mutual information I(S; A) of recorded states and actions, by a policy and by action values.

For every conditional density q(a|s), I(S; A) >= h(A) + E[log q(a|s)], with the entropy h(A) of the recorded actions and
a mean over the records: what is missing is the mean of KL(p(a|s) || q(a|s)). That is Barber and Agakov's bound. Three
choices of q, for a policy pi(a|s) and any function Q(s, a):

    q = pi                      h(A) + E[log pi(a|s)]                                          `ba`
    q ~ p(s) pi(a|s) e^Q(s,a)   h(A) + E[log pi(a|s) + Q(s, a)] - log E_s E_pi[e^Q(s,a')]      `dv`
    q ~ pi(a|s) e^Q(s,a)        h(A) + E[log pi(a|s) + Q(s, a)] - E_s log E_pi[e^Q(s,a')]      `tilted`

The second normalizes all states together, as Donsker and Varadhan's bound of the divergence of p(s, a) from
p(s) pi(a|s) does. The third, that of MISA, normalizes each state. In all of them the *gap* of a row is what the bound
takes off E[log pi(a|s)]: log of the mean of e^Q over the policy's actions, less Q of the recorded one.

By Jensen's inequality `dv` <= `tilted` for the same pi and Q. `ba` is `dv` with Q = 0, so `ba` <= `dv` where Q is the
best one of a family that has a constant, and not for every Q.

Source: Ma et al. 2022, arXiv:2210.07484, section 4 (the bounds MISA and MISA-DV, and the gradient of the former by the
policy); Barber and Agakov 2003, The IM algorithm, NIPS, equation 3; Poole et al. 2019, arXiv:1905.06922, equations 2
(`ba`), 4 (`tilted`) and 5 (`dv`), there with p(a) in place of pi(a|s).
"""

import jax
from jax import numpy as jnp

_LARGEST_EXCESS = 30.0  # No row that counts is as far above the log-mean of fewer than e^30 rows.


def log_mean_exp(x: jax.Array, axis: int = -1) -> jax.Array:
    """Computes log(mean(e^x)) over the S samples along an axis; it does not depend on S but by chance.

    It is too small on average where S is finite, so bounds from which it is taken off are too large.
    """
    return jax.nn.logsumexp(x, axis=axis) - jnp.log(x.shape[axis])


def tilted_gap(values: jax.Array, sampled: jax.Array) -> jax.Array:
    """The gap of each row under a policy that is tilted by e^Q: log mean e^Q(s, a') - Q(s, a).

    Its gradient by Q lowers the values of samples from pi e^Q, and raises those of recorded actions. Conservative
    Q-learning with the policy as its prior has the same term.

    Args:
        values: [...]; Q(s, a) of the recorded actions.
        sampled: [..., S]; Q(s, a') of S actions of the policy in the same states.

    Returns:
        [...] in the units of values.

    Source: Ma et al. 2022, arXiv:2210.07484, section 4; Kumar et al. 2020, arXiv:2006.04779, equation 4 and appendix A.
    """
    return log_mean_exp(sampled) - values


def donsker_varadhan_normalizer(sampled: jax.Array, weight: jax.Array) -> jax.Array:
    """Computes log of the weighted mean of e^Q(s, a') over all rows and their samples; zero if no row has weight.

    Args:
        sampled: [..., S].
        weight: [...]; rows of weight 0 do not count.

    Returns:
        [].
    """
    rows = log_mean_exp(sampled)
    total = jnp.sum(weight)
    found = jax.nn.logsumexp(jnp.where(weight > 0, rows, -jnp.inf), b=weight)
    return jnp.where(total > 0, found - jnp.log(jnp.where(total > 0, total, 1.0)), 0.0)


def donsker_varadhan_gap(values: jax.Array, sampled: jax.Array, normalizer: jax.Array) -> jax.Array:
    """The gap of each row under one normalizer of all rows; its weighted mean is normalizer - E[Q(s, a)].

    The normalizer is a number here, so that parts of a batch add up; the gradient of the mean is nevertheless that of
    the bound with the normalizer as a function of Q: d log E[e^Q] = E[e^(Q - log E[e^Q]) dQ].

    Args:
        values: [...]; Q(s, a) of the recorded actions.
        sampled: [..., S]; Q(s, a') of S actions of the policy in the same states.
        normalizer: []; `donsker_varadhan_normalizer` of the whole batch; no gradient flows through it.

    Returns:
        [...] in the units of values.

    Source: Ma et al. 2022, arXiv:2210.07484, section 4, MISA-DV; Belghazi et al. 2018, arXiv:1801.04062, section 3.
    """
    normalizer = jax.lax.stop_gradient(normalizer)
    share = jnp.exp(jnp.minimum(log_mean_exp(sampled) - normalizer, _LARGEST_EXCESS))
    return normalizer + share - jax.lax.stop_gradient(share) - values


def information_rows(log_probs: jax.Array, gaps: jax.Array | float = 0.0) -> jax.Array:
    """Rows whose mean, with the entropy h(A) of the recorded actions, is a lower bound of I(S; A); [...] in nats.

    Args:
        log_probs: [...]; log pi(a|s) of recorded actions.
        gaps: [...]; `tilted_gap`, `donsker_varadhan_gap`, or 0 for Barber and Agakov's bound.

    Source: Poole et al. 2019, arXiv:1905.06922, equation 2, with q(a|s) ~ pi(a|s) e^Q(s, a).
    """
    return log_probs - gaps
