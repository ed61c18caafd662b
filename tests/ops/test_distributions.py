"""What every family of distributions says of itself, against means over its own samples."""

import math

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions, HybridActions, MultiDiscreteActions
from podrl.config.config import NetworkConfig
from podrl.networks.policies import make_distribution
from podrl.ops.distributions import mask_options

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


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_the_divergence_are_in_one_respect_each(family):
    """Where the policies differ in that respect alone, the part is the whole divergence and the others are zero."""
    distribution, actions = make_distribution(*FAMILIES[family]), FAMILIES[family][1]
    p, q = 0.8 * jax.random.normal(jax.random.key(5), (2, distribution.num_params))
    size = getattr(actions, "size", 0)
    ends = distribution.num_logits, distribution.num_params - size, distribution.num_params
    respects = dict(zip(("choices", "mean", "covariance"), zip((0, *ends[:2]), ends, strict=True), strict=True))
    respects = {name: span for name, span in respects.items() if span[0] < span[1]}
    assert set(distribution.kl_parts(p, q)) == set(respects)
    for name, (start, end) in respects.items():
        other = p.at[start:end].set(q[start:end])
        parts = {key: float(part) for key, part in distribution.kl_parts(p, other).items()}
        assert parts[name] > 0.01
        assert parts.pop(name) == pytest.approx(float(distribution.kl(p, other)), rel=1e-5)
        assert list(parts.values()) == pytest.approx([0] * len(parts), abs=1e-6)


@pytest.mark.parametrize("family", ["categorical", "multi_categorical", "hybrid"])
def test_no_gradient_flows_to_forbidden_options_and_none_is_nan(family):
    distribution = make_distribution(*FAMILIES[family])
    p, q = jax.random.normal(jax.random.key(5), (2, distribution.num_params))
    mask = np.ones(distribution.num_logits, bool)
    mask[0] = False  # Each choice has another option.
    action = distribution.sample(jax.random.split(jax.random.key(0), 1), mask_options(distribution, p, mask)[None])[0]

    def total(params):
        masked, other = mask_options(distribution, params, mask), mask_options(distribution, q, mask)
        return distribution.log_prob(masked, action) + distribution.entropy(masked) + distribution.kl(other, masked)

    value, gradient = jax.value_and_grad(total)(p)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert gradient[0] == 0
    assert (np.asarray(gradient)[1:] != 0).any()
