"""No two users of randomness share a key."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.ops import keys

PURPOSES = [value for name, value in vars(keys).items() if name.isupper()]
SEEDS = (0, 1, 2, 3, 2**31 - 1)


@jax.jit
def fold(key):
    """The keys that a user makes of one, by either way."""
    folded = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(64))
    return jnp.concatenate([key[None], folded, jax.random.split(key, 7)])


def words(keys_):
    return [row.tobytes() for row in np.asarray(jax.random.key_data(keys_))]


@pytest.mark.parametrize("seed", SEEDS)
def test_users_of_a_seed_share_no_key_nor_what_they_make_of_it(seed):
    assert len(PURPOSES) >= 3
    made = [set(words(fold(keys.purpose_key(seed, purpose)))) for purpose in PURPOSES]
    assert len(set.union(*made)) == sum(map(len, made))


def test_seeds_share_no_key():
    found = [word for seed in SEEDS for p in PURPOSES for word in words(keys.purpose_key(seed, p)[None])]
    assert len(set(found)) == len(SEEDS) * len(PURPOSES)
