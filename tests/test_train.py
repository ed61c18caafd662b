"""How the end of a run is told."""

import jax
import pytest

from podrl.train import is_of_the_runtime


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("INTERNAL: something"),
        ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"),
        caused(RuntimeError("The checkpoint could not be saved"), ValueError("UNKNOWN: Gloo AllGather failed")),
    ],
)
def test_an_error_of_a_reduction_is_one_however_it_is_wrapped(error):
    assert is_of_the_runtime(error)


@pytest.mark.parametrize("error", [ValueError("UNKNOWN colour"), caused(RuntimeError("actor 0 failed"), KeyError("x"))])
def test_other_errors_are_not(error):
    assert not is_of_the_runtime(error)
