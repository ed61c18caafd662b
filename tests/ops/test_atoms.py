"""Distributions over atoms: against a loop written from the paper, against rlax, and numbers worked by hand."""

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.ops.atoms import Support, divergence_of_atoms, mean_of_atoms, project_on_atoms

rlax = pytest.importorskip("rlax")
SUPPORT = Support(low=-1.0, high=2.0, num=7)
project = jax.jit(functools.partial(project_on_atoms, support=SUPPORT))


def random_targets(seed, rows=40):
    """Rewards beyond both ends, some exactly on an atom, and terminations."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(SUPPORT.num, 0.5), rows)
    rewards = np.where(rng.random(rows) < 0.3, np.float32(0.5), rng.normal(size=rows) * 2)
    discounts = np.where(rng.random(rows) < 0.3, 0.0, rng.random(rows))
    return [x.astype(np.float32) for x in (probabilities, rewards, discounts)]


def paper_projection(probabilities, rewards, discounts):
    """Algorithm 1 of Bellemare et al. 2017, atom by atom."""
    atoms, distance = np.linspace(-1, 2, 7), 0.5
    found = np.zeros_like(probabilities, np.float64)
    for row, (reward, discount) in enumerate(zip(rewards, discounts, strict=True)):
        for atom, probability in zip(atoms, probabilities[row], strict=True):
            place = (np.clip(reward + discount * atom, -1, 2) + 1) / distance
            lower, upper = int(np.floor(place)), int(np.ceil(place))
            if lower == upper:
                found[row, lower] += probability
            else:
                found[row, lower] += probability * (upper - place)
                found[row, upper] += probability * (place - lower)
    return found


def test_projection_is_the_papers_and_rlaxs():
    for seed in range(3):
        probabilities, rewards, discounts = random_targets(seed)
        found = project(probabilities, rewards, discounts)
        np.testing.assert_allclose(found, paper_projection(probabilities, rewards, discounts), atol=1e-5)
        np.testing.assert_allclose(np.sum(found, axis=-1), 1, atol=1e-5)
        moved = rewards[:, None] + discounts[:, None] * np.asarray(SUPPORT.atoms)
        theirs = jax.jit(jax.vmap(lambda z, p: rlax.categorical_l2_project(z, p, SUPPORT.atoms)))(moved, probabilities)
        np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_projection_keeps_the_mean_of_what_lies_within_the_atoms_and_no_gradient():
    probabilities = jnp.asarray([[0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1]])
    reward, discount = jnp.asarray([0.1]), jnp.asarray([0.4])
    found = np.asarray(project(probabilities, reward, discount))
    mean = float(np.sum(probabilities * SUPPORT.atoms))
    np.testing.assert_allclose(np.sum(found * SUPPORT.atoms), 0.1 + 0.4 * mean, atol=1e-6)
    slope = jax.jit(jax.grad(lambda p: jnp.sum(project(p, reward, discount) * SUPPORT.atoms)))(probabilities)
    np.testing.assert_array_equal(slope, 0)


def test_the_divergence_is_the_cross_entropy_less_the_targets_own():
    rng = np.random.default_rng(3)
    targets = rng.dirichlet(np.ones(7), 5).astype(np.float32)
    targets[0] = np.eye(7)[2]  # Nothing is impossible to compare.
    logits = rng.normal(size=(5, 7)).astype(np.float32) * 3
    found = jax.jit(divergence_of_atoms)(targets, logits)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for row in range(5):
        terms = [t * np.log(t / p) for t, p in zip(targets[row], probabilities[row], strict=True) if t > 0]
        np.testing.assert_allclose(found[row], sum(terms), rtol=1e-4)
    np.testing.assert_allclose(divergence_of_atoms(probabilities, jnp.asarray(logits)), 0, atol=1e-5)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(divergence_of_atoms(targets, x))))(jnp.asarray(logits))
    np.testing.assert_allclose(slope, probabilities - targets, atol=1e-5)


def test_values_are_means_of_atoms():
    logits = jnp.log(jnp.asarray([[0.5, 0, 0, 0, 0, 0, 0.5], [0, 0, 1, 0, 0, 0, 0]]))
    np.testing.assert_allclose(mean_of_atoms(logits, SUPPORT), [0.5, 0.0], atol=1e-6)
