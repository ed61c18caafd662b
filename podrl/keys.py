"""Where random keys come from: one seed, split by purpose first, so that no two users share a key."""

import jax

# Purposes. A new one gets a new number; changing a number changes every run.
LEARN, ACT, EVALUATE, ENVIRONMENT = range(4)


def purpose_key(seed: int, purpose: int) -> jax.Array:
    """The typed PRNG key of one purpose in a run.

    `fold_in` and `split` of the same key give the same keys, so two users of one key would share their noise.
    """
    return jax.random.fold_in(jax.random.key(seed), purpose)
