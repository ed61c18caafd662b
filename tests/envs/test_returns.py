"""What an environment's step may return as a number, and as a flag."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from podrl.envs.workers import calls

NUMBERS = (
    *(1, 1.0, True, np.float32(1), np.float64(1), np.int64(1), np.uint8(1), np.bool_(True), Fraction(1)),
    *(np.array(1.0), np.array(1), np.array(True), jnp.float32(1), jnp.int32(1), jnp.bool_(True), jnp.bfloat16(1)),
)
NOT_NUMBERS = (
    *(None, "1", b"1", 1j, [1.0], (1,), {}, np.array([1.0]), np.array("1"), np.array(1j), np.array(None), 10**400),
    *(np.datetime64(1, "s"), np.array(1, "m8[s]"), jnp.ones(1), jnp.complex64(1), object()),
)


class Env:
    """Returns what it is told to."""

    def __init__(self, reward=0.0, terminated=False, truncated=False):
        self.stepped = (0, reward, terminated, truncated, {})

    def step(self, action):
        return self.stepped


class Tensor:
    """As those of torch: the type has no kind, the shape is a kind of tuple, and a complex one is a RuntimeError."""

    class Size(tuple):
        pass

    shape, dtype = Size(), "torch.float32"

    def __init__(self, value):
        self.value = value

    def __float__(self):
        if isinstance(self.value, complex):
            raise RuntimeError("value cannot be converted to type double without overflow")
        return float(self.value)


def name(thing):
    """What it is, without the address of an object, which differs between the processes of pytest-xdist."""
    return repr(thing).partition(" object at ")[0][:30]


@pytest.mark.parametrize("number", [*NUMBERS, Tensor(1.0)], ids=name)
def test_a_number_of_any_library_is_one(number):
    for stepped in (calls.call_step(Env(reward=number), 0), calls.call_step(Env(1.0, number, number), 0)):
        assert stepped[1] == 1.0
        assert type(stepped[1]) is float
    assert stepped[2:4] == (True, True)
    assert [type(flag) for flag in stepped[2:4]] == [bool, bool]


@pytest.mark.parametrize("thing", [*NOT_NUMBERS, Tensor(1j)], ids=name)
def test_what_is_no_number_is_refused(thing):
    with pytest.raises(calls.WrongReturn, match="must return a number as reward; found"):
        calls.call_step(Env(reward=thing), 0)
    with pytest.raises(calls.WrongReturn, match="must return bools as terminated and truncated; found"):
        calls.call_step(Env(terminated=thing), 0)


@pytest.mark.parametrize("flag", [2, -1, 0.5, np.int64(2), np.array(2), float("nan")], ids=name)
def test_a_flag_is_a_bool_or_0_or_1(flag):
    with pytest.raises(calls.WrongReturn, match="must return bools as terminated and truncated; found"):
        calls.call_step(Env(truncated=flag), 0)
