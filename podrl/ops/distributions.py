"""Distributions over actions, as records of pure functions."""

from collections.abc import Callable, Mapping
import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distribution:
    """A family of distributions over actions, as pure functions of its parameters [..., P] in float32.

    Attributes:
        num_params: P, the number of parameters.
        num_logits: L; the first L parameters are logits of options, which a mask may forbid. 0 for continuous actions.
        sample: (keys [B], params [B, P]) -> action [B, ...]. Each row consumes a typed PRNG key of its own, so
            a row's action does not depend on which others share the batch.
        mode: (params [..., P]) -> action [..., ...]; the most likely action.
        log_prob: (params [..., P], action [..., ...]) -> [...] in nats.
        sample_and_log_prob: (keys [B], params [B, P]) -> (action [B, ...], [B] in nats). The action is `sample`'s; that
            of Gaussians is a function of the parameters through which gradients flow, and its log-probability is
            computed from the sample before any squashing, so that it is exact where the action itself is rounded to
            +-1.
        entropy: (params [..., P]) -> [...] in nats.
        kl: (p [..., P], q [..., P]) -> [...]; the Kullback-Leibler divergence KL(p || q) in nats.
        kl_parts: (p [..., P], q [..., P]) -> {name: [...]}; divergences in one respect each, for agents that bound them
            separately. `choices` is KL(p || q) of all choices. For Gaussians `mean` is KL(p || q') where q'
            has the mean of q and the covariance of p, and `covariance` that where q' has the mean of p and the
            covariance of q (Song et al. 2019, arXiv:1909.12238, appendix C).
        gaussian: (params [..., P]) -> mean and standard deviation, [..., D] each, of the Gaussians that the actions
            are, or are made of by squashing. None for other distributions.
    """

    num_params: int
    sample: Callable[[jax.Array, jax.Array], jax.Array]
    mode: Callable[[jax.Array], jax.Array]
    log_prob: Callable[[jax.Array, jax.Array], jax.Array]
    sample_and_log_prob: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    entropy: Callable[[jax.Array], jax.Array]
    kl: Callable[[jax.Array, jax.Array], jax.Array]
    kl_parts: Callable[[jax.Array, jax.Array], Mapping[str, jax.Array]]
    num_logits: int = 0
    gaussian: Callable[[jax.Array], tuple[jax.Array, jax.Array]] | None = None


def sample_then_evaluate(
    sample: Callable[[jax.Array, jax.Array], jax.Array], log_prob: Callable[[jax.Array, jax.Array], jax.Array]
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns `Distribution.sample_and_log_prob` of choices, which have a probability each."""

    def sample_and_log_prob(keys: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        action = sample(keys, params)
        return action, log_prob(params, action)

    return sample_and_log_prob


def mask_options(policy: Distribution, params: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns parameters under which the options that a mask forbids are never taken.

    Probabilities, entropies and divergences are then those among the other options. No gradient flows to the logits of
    forbidden ones.

    Args:
        policy: The distribution.
        params: [..., P].
        mask: [..., L] bool; true for each option that can be taken. Each choice must have one.
    """
    logits = jnp.where(mask, params[..., : policy.num_logits], -jnp.inf)
    return jnp.concatenate([logits, params[..., policy.num_logits :]], axis=-1)
