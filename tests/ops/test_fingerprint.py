import math

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from podrl.ops.fingerprint import extend, fingerprint, to_hex

DTYPES = (jnp.bool_, jnp.uint8, jnp.int8, jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint32, jnp.float32)


def equal(a, b):
    return bool((fingerprint(a) == fingerprint(b)).all())


class TestFingerprint:
    def test_any_bit_changes_it(self):
        params = {"a": jnp.arange(12.0).reshape(3, 4), "b": jnp.zeros(5)}
        before = fingerprint(params)
        flipped = {**params, "b": params["b"].at[3].set(1e-45)}
        assert (fingerprint(flipped) != before).all()

    @pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 3, 4), (2, 3, 2, 1), (2, 3, 5)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_any_element_of_any_type_changes_it(self, dtype, shape):
        size = math.prod(shape)
        changed = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(-1, *shape)
        values = jax.jit(lambda xs: [fingerprint(x) for x in xs])([jnp.asarray(x, dtype) for x in changed])
        assert len({to_hex(np.asarray(value)) for value in values}) == size + 1

    def test_keys_have_one_too(self):
        assert equal(jax.random.key(1), jax.random.key(1))
        assert not equal(jax.random.key(1), jax.random.key(2))

    def test_both_halves_of_a_wide_number_count(self):
        with jax.enable_x64(True):
            assert not equal(jnp.asarray([1], jnp.int64), jnp.asarray([1 + 2**40], jnp.int64))
            assert not equal(jnp.asarray([1], jnp.int64), jnp.asarray([2], jnp.int64))

    def test_position_counts(self):
        a, b = jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])
        assert not equal({"x": a}, {"x": b})
        assert not equal({"x": a, "y": b}, {"x": b, "y": a})
        rows = jnp.arange(24.0).reshape(2, 3, 4)
        for axis in range(3):
            assert not equal(rows, jnp.flip(rows, axis))

    def test_an_empty_array_adds_nothing(self):
        assert equal([jnp.ones(3), jnp.zeros((2, 3, 0), jnp.uint8)], [jnp.ones(3)])

    @pytest.mark.parametrize("spec", [P("x"), P(None, "x"), P("x", "y"), P(None, None, "y")])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint8])
    def test_sharding_does_not_count(self, dtype, spec):
        mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        x = jax.random.randint(jax.random.key(0), (8, 4, 6, 2), 0, 256).astype(dtype)
        split = jax.device_put(x, NamedSharding(mesh, spec))
        np.testing.assert_array_equal(jax.jit(fingerprint)({"x": x}), jax.jit(fingerprint)({"x": split}))


class TestChain:
    def test_remembers_what_was_different_once(self):
        same, other = "0" * 15 + "1", "0" * 15 + "2"
        chains = {extend(extend(extend("0" * 16, first, same), same, same), same, same) for first in (same, other)}
        assert len(chains) == 2
        assert all(len(chain) == 16 and int(chain, 16) >= 0 for chain in chains)

    def test_parameters_are_not_taken_for_the_batch(self):
        assert extend("0" * 16, "1" * 16, "2" * 16) != extend("0" * 16, "2" * 16, "1" * 16)
