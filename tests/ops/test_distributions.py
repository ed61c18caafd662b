"""What every family of distributions says of itself, against means over its own samples."""

import math

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions, HybridActions, MultiDiscreteActions
from podrl.config.config import NetworkConfig
from podrl.networks.policies import make_distribution

FAMILIES = {
    "categorical": (NetworkConfig(), DiscreteActions(5)),
    "multi_categorical": (NetworkConfig(), MultiDiscreteActions((2, 3, 4))),
    "gaussian": (NetworkConfig(initial_scale=0.6), ContinuousActions(3)),
    "hybrid": (NetworkConfig(initial_scale=0.6), HybridActions((2, 3), 2)),
    "squashed": (NetworkConfig(initial_scale=0.6, squash_actions=True), ContinuousActions(3)),
}
SAMPLES = 100_000


@pytest.mark.parametrize("family", FAMILIES)
def test_entropy_and_divergence_are_the_means_of_log_probabilities(family):
    distribution = make_distribution(*FAMILIES[family])
    p, q = 0.8 * jax.random.normal(jax.random.key(5), (2, distribution.num_params))

    @jax.jit
    def estimate(keys):
        samples = distribution.sample(keys, jnp.broadcast_to(p, (SAMPLES, *p.shape)))
        ours, theirs = (distribution.log_prob(jnp.broadcast_to(x, (SAMPLES, *p.shape)), samples) for x in (p, q))
        return -ours, ours - theirs

    for estimates, exact in zip(
        estimate(jax.random.split(jax.random.key(6), SAMPLES)),
        (distribution.entropy(p), distribution.kl(p, q)),
        strict=True,
    ):
        error = float(jnp.std(estimates)) / math.sqrt(SAMPLES)
        assert abs(float(exact)) > 20 * error  # Enough samples to tell.
        np.testing.assert_allclose(np.mean(np.float64(estimates)), exact, atol=4 * error + 5e-4)
