"""Random keys: all come from one seed, split by purpose first, so that no two users share a key."""

import jax
from jax import numpy as jnp
import numpy as np

ERA = 2**31 - 1  # Steps after which an environment's keys are folded once more; devices count steps in 32 bits.
_NO_STEP = np.uint32(2**32 - 1)  # Folded in for a later era: no step of an era has this number.
# The purposes. A new one gets a new number; changing a number changes every run.
LEARN, ACT, EVALUATE, ENVIRONMENT, REFERENCE, RECORD, DATA, REWARD = range(8)


def purpose_key(seed: int, purpose: int) -> jax.Array:
    """Returns the typed PRNG key of one purpose in a run.

    `fold_in` and `split` of the same key give the same keys, so two users of one key would share their noise.
    """
    return jax.random.fold_in(jax.random.key(seed), purpose)


def step_keys(keys: jax.Array, step: jax.Array) -> jax.Array:
    """Folds a step into the keys [B] of environments; no two steps of an era, 0 to `ERA`, share a key."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)


def era_keys(keys: jax.Array, era: jax.Array) -> jax.Array:
    """Returns the keys [B] of environments in an era of their steps; in the first era they are `keys` themselves."""
    return jnp.where(era == 0, keys, step_keys(step_keys(keys, jnp.asarray(_NO_STEP)), era))
