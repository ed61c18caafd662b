"""Hamiltonian Monte Carlo: samples of a density that is known up to a factor, by its gradient.

Each step draws a momentum, follows the Hamiltonian dynamics of position and momentum for a few leapfrog steps, and
accepts the end with the Metropolis probability min(1, e^(H before - H after)). So the density stays invariant for every
size of the steps; a larger size moves further and is accepted less often.

The dynamics of a Gaussian are a rotation, and some sizes turn every position into its opposite, or back into itself:
all steps are accepted, and the chain does not mix. So each step draws its size.

Source: Neal 2011, MCMC using Hamiltonian dynamics, Handbook of MCMC, arXiv:1206.1901, sections 2.3 and 3.2.
"""

from collections.abc import Callable

from flax import struct
import jax
from jax import numpy as jnp

# Limits of `adapt_step_size`. Two leapfrog steps of size sqrt(2) turn a standard Gaussian's position into its
# opposite, where all is accepted and nothing mixes.
LEAST_STEP, LARGEST_STEP = 1e-4, 1.2
_RATE = 0.05
_Place = tuple[jax.Array, jax.Array, jax.Array]  # A position [..., D], its log-density [...] and the slope of that.


@struct.dataclass(kw_only=True)
class Chains:
    """What chains of `sample_by_hmc` have visited.

    Attributes:
        samples: [S, ..., D]; one behind each step after the burn-in. No gradient flows through them.
        acceptance: [...]; the mean probability with which these steps were accepted.
    """

    samples: jax.Array
    acceptance: jax.Array


def sample_by_hmc(
    keys: jax.Array,
    log_density: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    step_size: jax.Array | float,
    leapfrog_steps: int,
    burn_in: int,
    num_samples: int,
) -> Chains:
    """Runs one chain of Hamiltonian Monte Carlo in each row.

    A step that ends where the density is not finite is rejected. So a chain stays where it is finite, if it starts
    there.

    Args:
        keys: [...] typed PRNG keys, one for each chain: a chain does not depend on which others run beside it.
        log_density: (positions [..., D]) -> [...], in nats, up to a constant. Row i depends on position i alone.
        start: [..., D]; the first positions.
        step_size: [] or what broadcasts to [..., D]; the largest size of a leapfrog step. Each step of a chain takes
            leapfrog steps of one size, uniform between half of it and all of it, whatever the position is. Momenta are
            standard Gaussians.
        leapfrog_steps: Leapfrog steps in a step of the chain.
        burn_in: Steps of which nothing is returned.
        num_samples: S, the steps behind these.

    Source: Neal 2011, arXiv:1206.1901, equations 2.28 to 2.30 (leapfrog) and section 3.2 (acceptance, and step
    sizes at random).
    """

    def total(position: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = log_density(position)
        return jnp.sum(found), found

    def evaluate(position: jax.Array) -> _Place:
        slope, height = jax.grad(total, has_aux=True)(position)
        return position, height, slope

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        momentum_key, accept_key, size_key = jax.random.split(key, 3)
        share = jax.random.uniform(size_key, (1,), minval=0.5)
        return jax.random.normal(momentum_key, start.shape[-1:]), jax.random.uniform(accept_key), share

    def leap(size: jax.Array, moving: tuple[_Place, jax.Array]) -> tuple[_Place, jax.Array]:
        place, momentum = moving
        momentum = momentum + 0.5 * size * place[2]
        place = evaluate(place[0] + size * momentum)
        return place, momentum + 0.5 * size * place[2]

    def step(here: _Place, number: jax.Array) -> tuple[_Place, tuple[jax.Array, jax.Array]]:
        momentum, threshold, share = over_rows(lambda key: draw(jax.random.fold_in(key, number)))(keys)
        size = share * step_size
        there, moving = jax.lax.fori_loop(0, leapfrog_steps, lambda _, place: leap(size, place), (here, momentum))
        gain = there[1] - here[1] + 0.5 * jnp.sum(jnp.square(momentum) - jnp.square(moving), axis=-1)
        probability = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0.0)), 0.0)
        accepted = threshold < probability
        here = jax.tree.map(lambda new, old: jnp.where(_like(accepted, new), new, old), there, here)
        return here, (here[0], probability)

    over_rows = _vmap_times(start.ndim - 1)
    steps = jnp.arange(burn_in + num_samples)
    _, (positions, probabilities) = jax.lax.scan(step, evaluate(start), steps)
    samples, acceptance = positions[burn_in:], jnp.mean(probabilities[burn_in:], axis=0)
    return jax.lax.stop_gradient(Chains(samples=samples, acceptance=acceptance))


def adapt_step_size(step_size: jax.Array, acceptance: jax.Array, *, target: float) -> jax.Array:
    """Moves a step size towards the one with which `target` of the steps are accepted; [] each.

    It is multiplied by e^(0.05 (acceptance - target)), and stays between `LEAST_STEP` and `LARGEST_STEP`. Samples are
    exact for a fixed size only: adapt between the chains, not within one.

    Source: Andrieu and Thoms 2008, A tutorial on adaptive MCMC, Statistics and Computing 18, section 4.2. With a target
    of 0.65 most is gained per gradient where there are many dimensions (Beskos et al. 2013, arXiv:1001.4460).
    """
    return jnp.clip(step_size * jnp.exp(_RATE * (acceptance - target)), LEAST_STEP, LARGEST_STEP)


def _vmap_times(axes: int) -> Callable[[Callable], Callable]:
    """Returns what maps a function of one row over rows with `axes` leading axes."""

    def over(function: Callable) -> Callable:
        for _ in range(axes):
            function = jax.vmap(function)
        return function

    return over


def _like(accepted: jax.Array, x: jax.Array) -> jax.Array:
    return accepted if x.ndim == accepted.ndim else accepted[..., None]
