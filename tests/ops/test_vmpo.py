"""V-MPO's E-step against a loop written from the paper, rlax, and numbers worked by hand."""

import math

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.ops.vmpo import advantage_weights, select_top, temperature_loss

SEEDS = range(4)
EPSILON = 0.1


@jax.jit
def e_step(advantages, is_transition, temperature, fraction=0.5):
    """Which are selected, their weights, and the temperature's loss and its slope."""
    selected = select_top(advantages, is_transition, fraction)
    weights = advantage_weights(advantages, selected, temperature)
    loss = jax.value_and_grad(lambda temperature: temperature_loss(temperature, advantages, selected, EPSILON))
    return selected, weights, *loss(temperature)


def random_case(seed, shape=(7, 5)):
    """Advantages with reset rows, whose own are the highest of all."""
    rng = np.random.default_rng(seed)
    is_transition = rng.random(shape) < 0.8
    advantages = np.where(is_transition, rng.normal(size=shape), 50.0).astype(np.float32)
    return advantages, is_transition, np.float32(rng.uniform(0.3, 3))


def sums_of_the_paper(advantages, is_transition, temperature, fraction=0.5):
    """One transition at a time, in float64."""
    ranked = sorted((-float(advantages[place]), place) for place in map(tuple, np.argwhere(is_transition)))
    chosen = [place for _, place in ranked[: math.ceil(len(ranked) * fraction)]]
    terms = {place: math.exp(float(advantages[place]) / float(temperature)) for place in chosen}
    total = sum(terms.values())
    weights = np.zeros(advantages.shape)
    for place, term in terms.items():
        weights[place] = term / total
    loss = temperature * EPSILON + temperature * math.log(total / len(chosen))
    slope = EPSILON + math.log(total / len(chosen)) - np.sum(weights * np.float64(advantages)) / temperature
    return weights, loss, slope


@pytest.mark.parametrize("fraction", [0.5, 0.2, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_equals_the_papers_sums(seed, fraction):
    case = random_case(seed)
    selected, weights, loss, slope = e_step(*case, fraction)
    expected_weights, expected_loss, expected_slope = sums_of_the_paper(*case, fraction)
    np.testing.assert_array_equal(selected, expected_weights > 0)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-5)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-4, atol=1e-6)
    assert float(jnp.sum(weights)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_rlaxs(seed):
    """Where the number of transitions is even: it rounds half of an odd one down."""
    rlax = pytest.importorskip("rlax")
    advantages, _, temperature = random_case(seed, shape=(6, 4))
    log_probs = -np.abs(random_case(seed + 10, shape=(6, 4))[0])

    def theirs(temperature):
        penalty = rlax.LagrangePenalty(alpha=temperature, epsilon=jnp.float32(EPSILON))
        unbound = (jnp.zeros((6, 4)), rlax.LagrangePenalty(alpha=jnp.float32(0), epsilon=jnp.float32(1)))
        losses, outputs = rlax.vmpo_loss(log_probs, advantages, penalty, [unbound])
        return outputs.temperature_loss, (jnp.mean(losses), outputs)

    (expected_loss, (expected_total, outputs)), expected_slope = jax.value_and_grad(theirs, has_aux=True)(temperature)
    _, weights, loss, slope = e_step(advantages, np.ones((6, 4), bool), temperature)
    np.testing.assert_allclose(weights, outputs.normalized_weights, rtol=1e-5)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-4)
    np.testing.assert_allclose(loss - np.sum(weights * log_probs), expected_total, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.5, 0.1])
def test_weights_of_eight_shards_sum_to_one(fraction):
    """Over all of them together: the first shard has the best transitions and more of the weight than an eighth."""
    advantages, is_transition, temperature = random_case(3, shape=(7, 16))
    advantages[:, :2] += 8
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    placed = jax.device_put((advantages, is_transition), split)
    in_shards = jax.jit(lambda *case: e_step(*case, fraction)[:2], out_shardings=split)
    selected, weights = in_shards(*placed, temperature)
    sums = [np.float64(shard.data).sum() for shard in weights.addressable_shards]
    assert len(sums) == 8
    assert weights.addressable_shards[0].data.shape == (7, 2)
    assert sums[0] > 0.5
    assert sum(sums) == pytest.approx(1, abs=1e-6)
    alone = e_step(advantages, is_transition, temperature, fraction)
    np.testing.assert_array_equal(selected, alone[0])
    np.testing.assert_allclose(weights, alone[1], rtol=1e-5)


def test_equal_advantages_are_all_in_or_all_out():
    """So the set does not depend on where an environment lies in the batch."""
    advantages = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, -2.0]], np.float32)
    selected = select_top(advantages, np.ones((2, 3), bool))
    np.testing.assert_array_equal(selected, [[True, True, True], [True, False, False]])


def test_half_is_rounded_up():
    advantages = np.array([[3.0, 2.0, 1.0]], np.float32)
    np.testing.assert_array_equal(select_top(advantages, np.ones((1, 3), bool)), [[True, True, False]])
    np.testing.assert_array_equal(select_top(advantages, np.array([[False, True, True]])), [[False, True, False]])
    np.testing.assert_array_equal(select_top(advantages, np.array([[False, False, True]])), [[False, False, True]])


def test_without_transitions_nothing_is_selected_and_nothing_is_nan():
    results = e_step(np.ones((2, 3), np.float32), np.zeros((2, 3), bool), np.float32(1))
    for result in results:
        np.testing.assert_array_equal(result, np.zeros_like(result))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("temperature", [1e-8, 1e4])
def test_extreme_advantages_and_temperatures_stay_finite(scale, temperature):
    advantages, is_transition, _ = random_case(0)
    _, weights, loss, slope = e_step(advantages * np.float32(scale), is_transition, np.float32(temperature))
    assert np.isfinite([loss, slope]).all()
    assert float(jnp.sum(weights)) == pytest.approx(1, abs=1e-5)


def test_the_temperatures_minimum_is_where_the_weights_diverge_by_epsilon():
    advantages, is_transition, _ = random_case(1)
    selected = np.asarray(select_top(advantages, is_transition))
    temperature = jnp.float32(1.0)
    descend = jax.jit(lambda x: jnp.maximum(x - 0.5 * e_step(advantages, is_transition, x)[3], 1e-8))
    for _ in range(300):
        temperature = descend(temperature)
    weights = np.float64(e_step(advantages, is_transition, temperature)[1])[selected]
    assert np.sum(weights * np.log(weights * selected.sum())) == pytest.approx(EPSILON, rel=1e-3)


def test_weights_pass_no_gradient_to_advantages_or_temperature():
    advantages, is_transition, temperature = random_case(2)
    selected = select_top(advantages, is_transition)

    def first(advantages, temperature):
        return jnp.sum(advantage_weights(advantages, selected, temperature) * jnp.arange(35.0).reshape(7, 5))

    for slope in jax.grad(first, argnums=(0, 1))(jnp.asarray(advantages), temperature):
        np.testing.assert_array_equal(slope, np.zeros_like(slope))
    slope = jax.grad(lambda x: temperature_loss(temperature, x, selected, EPSILON))(jnp.asarray(advantages))
    np.testing.assert_array_equal(slope, np.zeros_like(slope))
