"""Distributions over actions, as records of pure functions."""

from collections.abc import Callable
import dataclasses

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distribution:
    """A family of distributions over actions, as pure functions of its parameters [..., P] in float32.

    Attributes:
        num_params: P, the number of parameters.
        sample: (keys [B], params [B, P]) -> action [B, ...]. Each row consumes a typed PRNG key of its own, so
            a row's action does not depend on which others share the batch.
        mode: (params [..., P]) -> action [..., ...]; the most likely action.
        log_prob: (params [..., P], action [..., ...]) -> [...] in nats.
        entropy: (params [..., P]) -> [...] in nats.
        kl: (p [..., P], q [..., P]) -> [...]; the Kullback-Leibler divergence KL(p || q) in nats.
    """

    num_params: int
    sample: Callable[[jax.Array, jax.Array], jax.Array]
    mode: Callable[[jax.Array], jax.Array]
    log_prob: Callable[[jax.Array, jax.Array], jax.Array]
    entropy: Callable[[jax.Array], jax.Array]
    kl: Callable[[jax.Array, jax.Array], jax.Array]
