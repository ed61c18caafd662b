"""Arrays as bytes: what goes in comes out, and nothing else is taken for it."""

import numpy as np
import pytest

from podrl.experience.remote.arrays import DTYPES, ArrayLayout, ArraySpec
from podrl.experience.remote.messages import HEAD_BYTES, config_hash, env_to_fields, fields_to_env

HEAD = b"h" * HEAD_BYTES


def random_case(rng):
    """A layout and arrays for it: any number, dtype and shape, also without elements or dimensions."""
    specs, arrays = [], []
    for index in range(rng.integers(1, 6)):
        shape = tuple(int(size) for size in rng.integers(0, 5, rng.integers(0, 5)))
        dtype = DTYPES[rng.integers(len(DTYPES))]
        array = np.frombuffer(rng.bytes(np.dtype(dtype).itemsize * int(np.prod(shape))), dtype).reshape(shape)
        array = array != 0 if dtype == "bool" else array
        specs.append(ArraySpec("n" * int(rng.integers(1, 30)) + str(index), dtype, shape))
        arrays.append(array if rng.random() < 0.5 or array.ndim < 2 else np.asfortranarray(array))
    return ArrayLayout(tuple(specs), HEAD_BYTES), arrays


@pytest.mark.parametrize("seed", range(5))
def test_messages_round_trip_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        layout, arrays = random_case(rng)
        more = rng.bytes(rng.integers(0, 20))
        message = layout.encode(HEAD, arrays, more)
        found, rest = layout.decode(message)
        assert rest == more
        assert len(message) == layout.size_bytes + len(more)
        for each, array in zip(found, arrays, strict=True):
            assert (each.dtype, each.shape, each.tobytes()) == (array.dtype, array.shape, array.tobytes())
            assert not each.flags.writeable
            assert each.flags.aligned


def test_what_is_not_the_expected_message_raises_one_error():
    rng = np.random.default_rng(0)
    for _ in range(500):
        layout, arrays = random_case(rng)
        message = bytearray(layout.encode(HEAD, arrays))
        header = range(HEAD_BYTES, HEAD_BYTES + len(layout.header))
        if rng.random() < 0.5:
            message[rng.choice(header)] ^= int(rng.integers(1, 256))
        else:
            del message[rng.integers(0, layout.size_bytes) :]
            if len(message) == layout.size_bytes:
                continue
        with pytest.raises(ValueError, match="expected"):
            layout.decode(bytes(message))


def test_an_error_names_both_arrays():
    sent = ArrayLayout((ArraySpec("observation", "uint8", (4, 84, 84)),), HEAD_BYTES)
    expected = ArrayLayout((ArraySpec("observation", "float32", (4, 84, 84)),), HEAD_BYTES)
    message = sent.encode(HEAD, [np.zeros((4, 84, 84), np.uint8)])
    with pytest.raises(ValueError, match=r"found observation uint8\[4, 84, 84\]; expected observation float32\["):
        expected.decode(message)


def test_a_header_that_announces_more_than_there_is_allocates_nothing():
    sent = ArrayLayout((ArraySpec("observation", "float64", (2**32 - 1,) * 4),), HEAD_BYTES)
    with pytest.raises(ValueError, match="too few for observation"):
        ArrayLayout((ArraySpec("observation", "float64", (1,)),), HEAD_BYTES).decode(HEAD + sent.header + b"12345678")


@pytest.mark.parametrize("spec", [ArraySpec("x", "complex64", ()), ArraySpec("x" * 256, "bool", ())])
def test_what_cannot_be_sent_is_named(spec):
    with pytest.raises(ValueError, match="Found x"):
        _ = ArrayLayout((spec,), HEAD_BYTES).header


def test_an_environments_config_round_trips():
    options = {"a": (1, [2.5, (None,)], {"b": "{", "c": {"(": [True]}}), "size": (84, 84)}
    env = {"id": "x", "wrappers": ("m:A", "m:B"), "observation_keys": (), "options": options, "workers": 0}
    found = fields_to_env(env_to_fields(env))
    assert found == env
    other = env | {"options": {**options, "size": [84, 84]}}
    assert config_hash(env_to_fields(found)) == config_hash(env_to_fields(env))
    assert config_hash(env_to_fields(other)) != config_hash(env_to_fields(env))
