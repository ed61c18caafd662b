"""What a run tells: how far it is, and how it ended."""

import functools

import jax
import pytest

from podrl import train
from podrl.runtime.devices import is_of_the_runtime
from podrl.telemetry.display import Display
from tests.short_runs import anakin_config, make_config, run


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


@pytest.mark.parametrize(
    ("make", "ended"),
    [
        # Before each of ten updates; the one before it is under way.
        (
            functools.partial(
                make_config, topology__actor_devices_per_process=1, topology__learner_devices_per_process=1
            ),
            [0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        # Calls of 1, 3, 1, 3 and 2 updates.
        (functools.partial(anakin_config, topology__updates_per_call=3), [0, 0, 1, 4, 5]),
    ],
    ids=["sebulba", "anakin"],
)
def test_what_is_shown_as_ended_has_ended(make, ended, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(Display, "advance", lambda self, counters: shown.append(counters))
    config = make(total_env_steps=10 * 8 * 4, log__every_updates=5, log__tensorboard=False)
    train.train(config, workdir=str(tmp_path / "run"))
    assert [counters.learner_steps for counters in shown] == ended
    assert [counters.env_steps for counters in shown] == [32 * number for number in ended]


@pytest.mark.parametrize("make", [make_config, anakin_config], ids=["sebulba", "anakin"])
def test_phases_come_in_their_order_and_each_once(make):
    phases, told_to_stop = [], []
    run(make(), show_phase=phases.append)
    assert phases in (["compiling", "starting environments", "first update"], ["compiling", "first update"])
    run(make(), show_phase=told_to_stop.append, should_stop=lambda: True)
    assert "first update" not in told_to_stop
